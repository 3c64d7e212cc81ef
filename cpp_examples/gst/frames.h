// Frames of a stream as the RGB pixels that a tagger takes.
#pragma once

#include <gst/video/video.h>

#include <functional>
#include <memory>

#include "ovml/image.h"

namespace ovml {

/// Reads frames of one kind. RGB ones are not copied; others are converted by the converter behind
/// GStreamer's `videoconvert`, into a frame that is kept (3 bytes a pixel).
class FrameReader {
 public:
  /// Error (Code::image) for a kind that cannot be converted or is too large.
  explicit FrameReader(const GstVideoInfo& info);

  /// Call `use` with a frame's pixels, which are its own until that returns. The buffer is only
  /// read. Error (Code::image) for a buffer that is not such a frame.
  void read(GstBuffer* buffer, const std::function<void(const ImageView&)>& use);

 private:
  struct Free {
    void operator()(GstVideoConverter* converter) const { gst_video_converter_free(converter); }
    void operator()(GstBuffer* buffer) const { gst_buffer_unref(buffer); }
  };

  GstVideoInfo info_, rgb_;
  std::unique_ptr<GstVideoConverter, Free> converter_;
  std::unique_ptr<GstBuffer, Free> converted_;
};

}  // namespace ovml

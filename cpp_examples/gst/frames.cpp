#include "frames.h"

namespace ovml {

namespace {

// A frame, mapped while this lives.
class Mapped {
 public:
  Mapped(const GstVideoInfo& info, GstBuffer* buffer, GstMapFlags how) {
    require(gst_video_frame_map(&frame_, &info, buffer, how) != FALSE, Code::image,
            "A buffer of " + std::to_string(gst_buffer_get_size(buffer)) +
                " bytes is not a frame as its caps say.");
  }
  ~Mapped() { gst_video_frame_unmap(&frame_); }
  Mapped(const Mapped&) = delete;
  Mapped& operator=(const Mapped&) = delete;

  GstVideoFrame* get() { return &frame_; }
  ImageView view() const {
    return {static_cast<const std::uint8_t*>(GST_VIDEO_FRAME_PLANE_DATA(&frame_, 0)),
            GST_VIDEO_FRAME_WIDTH(&frame_), GST_VIDEO_FRAME_HEIGHT(&frame_),
            GST_VIDEO_FRAME_PLANE_STRIDE(&frame_, 0)};
  }

 private:
  GstVideoFrame frame_;
};

}  // namespace

FrameReader::FrameReader(const GstVideoInfo& info) : info_(info) {
  const int width = GST_VIDEO_INFO_WIDTH(&info_), height = GST_VIDEO_INFO_HEIGHT(&info_);
  check_pixels(static_cast<std::uint64_t>(width), static_cast<std::uint64_t>(height), "The stream");
  if (GST_VIDEO_INFO_FORMAT(&info_) == GST_VIDEO_FORMAT_RGB) return;
  gst_video_info_set_format(&rgb_, GST_VIDEO_FORMAT_RGB, static_cast<guint>(width),
                            static_cast<guint>(height));
  rgb_.interlace_mode = info_.interlace_mode;  // the converter asks for the same in both
  GST_VIDEO_INFO_FPS_N(&rgb_) = GST_VIDEO_INFO_FPS_N(&info_);
  GST_VIDEO_INFO_FPS_D(&rgb_) = GST_VIDEO_INFO_FPS_D(&info_);
  converter_.reset(gst_video_converter_new(&info_, &rgb_, nullptr));
  require(converter_ != nullptr, Code::image,
          std::string("Frames in ") + GST_VIDEO_INFO_NAME(&info_) +
              " cannot be converted to RGB. Put videoconvert before.");
  converted_.reset(gst_buffer_new_allocate(nullptr, GST_VIDEO_INFO_SIZE(&rgb_), nullptr));
  require(converted_ != nullptr, Code::image, "There is no memory for a frame.");
}

void FrameReader::read(GstBuffer* buffer, const std::function<void(const ImageView&)>& use) {
  Mapped frame(info_, buffer, GST_MAP_READ);
  if (!converter_) return use(frame.view());
  Mapped rgb(rgb_, converted_.get(), static_cast<GstMapFlags>(GST_MAP_READWRITE));
  gst_video_converter_frame(converter_.get(), frame.get(), rgb.get());
  use(rgb.view());
}

}  // namespace ovml

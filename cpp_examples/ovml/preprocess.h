// From an RGB image to the uint8 pixels an encoder takes, byte for byte as the Python runtime.
#pragma once

#include <cstdint>
#include <vector>

#include "image.h"

namespace ovml {

/// open_clip's inference transform without the normalisation, which the encoder does itself.
struct Preprocessing {
  enum class Mode { shortest, longest, squash };
  int height = 0, width = 0;
  bool bilinear = false;  // else bicubic; both antialiased
  Mode mode = Mode::shortest;
  std::uint8_t fill = 0;

  /// Pixels [height, width, 3]. Memory: as many rows of `width` pixels as the image is high, and
  /// weights of at most 16 bytes for each pixel of its longest side.
  /// Error for a shape whose resized form would have more than 256,000,000 pixels.
  std::vector<std::uint8_t> operator()(const ImageView& image) const;
};

}  // namespace ovml

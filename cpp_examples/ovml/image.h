// Images: upright RGB, decoded as Pillow decodes them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "error.h"

namespace ovml {

/// RGB pixels that somebody else holds: rows of 3 * width bytes, `stride` bytes apart.
struct ImageView {
  const std::uint8_t* rgb;
  int width, height;
  std::ptrdiff_t stride;
};

/// RGB pixels, row by row.
struct Image {
  int width = 0, height = 0;
  std::vector<std::uint8_t> rgb;
  ImageView view() const { return {rgb.data(), width, height, 3 * std::ptrdiff_t{width}}; }
};

/// As in the Python runtime; both are checked before memory is spent.
constexpr std::uint64_t max_pixels = 89478485, max_image_bytes = 256u << 20;

/// Decode a JPEG or PNG file's content: EXIF rotation applied, alpha dropped, grey, CMYK and 16 bits
/// brought to 8-bit RGB. `name` names it in errors, which have Code::image.
Image decode_image(std::string_view content, const std::string& name);
Image open_image(const std::filesystem::path& path);

// ---- parts, each in a file of its own

Image decode_jpeg(std::string_view content, const std::string& name);
Image decode_png(std::string_view content, const std::string& name);
/// Orientation 1..8 of an EXIF block (as in a JPEG's APP1, "Exif\0\0" first); 0: it has none.
int exif_orientation(std::string_view exif);
/// Orientation of an XMP packet; 0: it has none.
int xmp_orientation(std::string_view xmp);
/// Turn and mirror as EXIF orientation 1..8 says.
Image oriented(Image image, int orientation);
void check_pixels(std::uint64_t width, std::uint64_t height, const std::string& name);

}  // namespace ovml

#include "image.h"

#include "files.h"

namespace ovml {

Image open_image(const std::filesystem::path& path) {
  std::error_code failed;
  require(!std::filesystem::is_directory(path, failed), Code::image,
          path.string() + ": is a folder, not an image.");
  return decode_image(read_file(path, max_image_bytes, Code::image), path.string());
}

Image decode_image(std::string_view content, const std::string& name) {
  require(!content.empty(), Code::image, name + ": is empty (0 bytes).");
  require(content.size() <= max_image_bytes, Code::image,
          name + ": " + std::to_string(content.size()) + " bytes are too many.");
  if (content.substr(0, 3) == "\xff\xd8\xff") return decode_jpeg(content, name);
  if (content.substr(0, 8) == "\x89PNG\r\n\x1a\n") return decode_png(content, name);
  throw Error(Code::image, name + ": neither JPEG nor PNG, which is all that C++ reads. Save it so.");
}

void check_pixels(std::uint64_t width, std::uint64_t height, const std::string& name) {
  const std::string size = std::to_string(width) + "x" + std::to_string(height);
  require(width > 0 && height > 0, Code::image, name + ": has no pixels (" + size + ").");
  require(width <= max_pixels / height, Code::image,
          name + ": too many pixels (" + size + "); at most " + std::to_string(max_pixels) +
              " are decoded. Scale it down first.");
}

Image oriented(Image image, int orientation) {
  if (orientation < 2 || orientation > 8) return image;
  const int w = image.width, h = image.height;
  const bool turned = orientation >= 5;
  Image made{turned ? h : w, turned ? w : h, std::vector<std::uint8_t>(image.rgb.size())};
  const bool from_right = orientation == 2 || orientation == 3 || orientation == 7 || orientation == 8;
  const bool from_below = orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7;
  std::uint8_t* to = made.rgb.data();
  for (int y = 0; y < made.height; ++y) {
    for (int x = 0; x < made.width; ++x, to += 3) {
      const int column = turned ? y : x, row = turned ? x : y;
      const std::size_t at =
          static_cast<std::size_t>(from_below ? h - 1 - row : row) * static_cast<std::size_t>(w) +
          static_cast<std::size_t>(from_right ? w - 1 - column : column);
      for (std::size_t c = 0; c < 3; ++c) to[c] = image.rgb[3 * at + c];
    }
  }
  return made;
}

int exif_orientation(std::string_view exif) {
  for (int i = 0; i < 2 && exif.substr(0, 6) == std::string_view("Exif\0\0", 6); ++i)
    exif.remove_prefix(6);
  if (exif.empty()) return 0;
  const bool big = exif.substr(0, 4) == std::string_view("MM\0\x2a", 4);
  require(exif.size() >= 8 && (big || exif.substr(0, 4) == std::string_view("II\x2a\0", 4)), Code::image,
          "its EXIF data are damaged");
  const auto number = [&](std::size_t at, std::size_t bytes) {
    std::uint64_t value = 0;
    for (std::size_t i = 0; i < bytes; ++i)
      value = value << 8 | static_cast<std::uint8_t>(exif[at + (big ? i : bytes - 1 - i)]);
    return value;
  };
  const std::size_t start = number(4, 4);
  if (start + 2 > exif.size()) return 0;
  const std::size_t entries = number(start, 2);
  int found = 0;
  for (std::size_t i = 0; i < entries && start + 2 + 12 * (i + 1) <= exif.size(); ++i) {
    const std::size_t entry = start + 2 + 12 * i;
    const std::size_t bytes = number(entry + 2, 2) == 3 ? 2 : number(entry + 2, 2) == 4 ? 4 : 0;
    if (number(entry, 2) != 0x0112 || bytes == 0) continue;
    const std::size_t count = number(entry + 4, 4);
    const std::size_t at = count * bytes > 4 ? number(entry + 8, 4) : entry + 8;
    if (count == 0 || at + count * bytes > exif.size()) continue;
    const std::uint64_t value = number(at, bytes);
    found =
        value >= 1 && value <= 8 ? static_cast<int>(value) : 9;  // 9: there is one, which says nothing
  }
  return found;
}

int xmp_orientation(std::string_view xmp) {
  constexpr std::string_view key = "tiff:Orientation";
  for (auto at = xmp.find(key); at != xmp.npos; at = xmp.find(key, at + 1)) {
    std::string_view rest = xmp.substr(at + key.size());
    if (rest.substr(0, 2) == "=\"") rest.remove_prefix(2);
    else if (rest.substr(0, 1) == ">") rest.remove_prefix(1);
    else continue;
    if (!rest.empty() && rest[0] >= '0' && rest[0] <= '9') return rest[0] - '0';
  }
  return 0;
}

}  // namespace ovml

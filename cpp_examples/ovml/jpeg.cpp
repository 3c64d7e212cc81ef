// JPEG through libjpeg-turbo, with the settings of Pillow's decoder.
#include <csetjmp>
#include <cstdio>
//
#include <jerror.h>
#include <jpeglib.h>

#include "image.h"

namespace ovml {

namespace {

// libjpeg reports errors by a jump, over which no C++ object may be destroyed: all that is made
// meanwhile lives here.
struct Decoding {
  jpeg_decompress_struct info{};
  jpeg_error_mgr errors{};
  std::jmp_buf failed{};
  char message[JMSG_LENGTH_MAX] = "";
  bool ended_early = false, too_large = false;
  Image image;
  std::vector<std::uint8_t> row;
  std::string exif, xmp;
  ~Decoding() { jpeg_destroy_decompress(&info); }
};

void on_error(j_common_ptr info) {
  auto* state = static_cast<Decoding*>(info->client_data);
  info->err->format_message(info, state->message);
  std::longjmp(state->failed, 1);
}

void on_message(j_common_ptr info, int level) {
  if (level < 0 && info->err->msg_code == JWRN_JPEG_EOF)
    static_cast<Decoding*>(info->client_data)->ended_early = true;
}

void collect_markers(Decoding& state) {
  for (auto* marker = state.info.marker_list; marker != nullptr; marker = marker->next) {
    const std::string_view data(reinterpret_cast<const char*>(marker->data), marker->data_length);
    constexpr std::string_view exif("Exif\0\0", 6), xmp("http://ns.adobe.com/xap/1.0/\0", 29);
    if (data.substr(0, 6) == exif) state.exif += state.exif.empty() ? data : data.substr(6);
    if (data.substr(0, 29) == xmp) state.xmp = data.substr(29);
  }
}

void rgb_of_cmyk(const std::uint8_t* from, std::uint8_t* to, int width) {
  for (int x = 0; x < width; ++x, from += 4, to += 3) {
    const int light = from[3];  // Adobe stores inverted values: this is 255 - black
    for (int c = 0; c < 3; ++c) {
      const int product = (255 - from[c]) * light + 128;
      to[c] = static_cast<std::uint8_t>(std::max(0, light - (((product >> 8) + product) >> 8)));
    }
  }
}

void rgb_of_grey(const std::uint8_t* from, std::uint8_t* to, int width) {
  for (int x = 0; x < width; ++x, to += 3) to[0] = to[1] = to[2] = from[x];
}

// Returns false where libjpeg failed.
bool decode(Decoding& state, std::string_view content) {
  if (setjmp(state.failed) != 0) return false;
  auto& info = state.info;
  jpeg_create_decompress(&info);
  jpeg_mem_src(&info, reinterpret_cast<const unsigned char*>(content.data()),
               static_cast<unsigned long>(content.size()));
  jpeg_save_markers(&info, JPEG_APP0 + 1, 0xFFFF);
  jpeg_read_header(&info, TRUE);
  if (std::uint64_t{info.image_width} * info.image_height > max_pixels) {
    state.too_large = true;
    return false;
  }
  const int components = info.num_components;
  if (components != 1 && components != 3 && components != 4) {
    std::snprintf(state.message, sizeof state.message, "%d colour components", components);
    return false;
  }
  info.out_color_space = components == 1 ? JCS_GRAYSCALE : components == 3 ? JCS_RGB : JCS_CMYK;
  jpeg_start_decompress(&info);
  const std::size_t width = info.output_width;
  state.image.width = static_cast<int>(width);
  state.image.height = static_cast<int>(info.output_height);
  state.image.rgb.resize(3 * width * info.output_height);
  state.row.resize(static_cast<std::size_t>(components) * width);
  while (info.output_scanline < info.output_height) {
    std::uint8_t* to = &state.image.rgb[3 * width * info.output_scanline];
    std::uint8_t* row = components == 3 ? to : state.row.data();
    jpeg_read_scanlines(&info, &row, 1);
    if (components == 1) rgb_of_grey(row, to, state.image.width);
    if (components == 4) rgb_of_cmyk(row, to, state.image.width);
    if (state.ended_early) return false;
  }
  return true;
}

}  // namespace

Image decode_jpeg(std::string_view content, const std::string& name) {
  Decoding state;
  state.info.err = jpeg_std_error(&state.errors);
  state.errors.error_exit = on_error;
  state.errors.emit_message = on_message;
  state.info.client_data = &state;
  const bool decoded = decode(state, content);
  if (state.too_large) check_pixels(state.info.image_width, state.info.image_height, name);
  require(!state.ended_early, Code::image, name + ": cannot be read (it is truncated). Fetch it again.");
  require(decoded, Code::image, name + ": damaged image (" + state.message + ").");
  collect_markers(state);
  int orientation = 0;
  try {
    orientation = exif_orientation(state.exif);
  } catch (const Error& error) {  // Pillow looks at them early, unless JFIF names a resolution
    const bool looked = state.info.saw_JFIF_marker == 0 || state.info.density_unit == 0;
    require(looked, Code::image, name + ": damaged image (" + error.what() + ").");
    orientation = 1;
  }
  if (orientation == 0) orientation = xmp_orientation(state.xmp);
  return oriented(std::move(state.image), orientation);
}

}  // namespace ovml

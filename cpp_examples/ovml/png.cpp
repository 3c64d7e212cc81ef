// PNG through libpng.
#include <png.h>

#include <cstring>

#include "image.h"

namespace ovml {

namespace {

// libpng reports errors by a jump, over which no C++ object may be destroyed: all lives here.
struct Decoding {
  png_structp png = nullptr;
  png_infop info = nullptr;
  std::string_view rest;
  std::string message;
  bool too_large = false, ended_early = false, sixteen_bit_grey = false;
  std::uint32_t width = 0, height = 0;
  std::vector<std::uint8_t> raw;
  std::vector<png_bytep> rows;
  std::string exif, xmp;
  ~Decoding() { png_destroy_read_struct(&png, &info, nullptr); }
};

void on_error(png_structp png, png_const_charp text) {
  static_cast<Decoding*>(png_get_error_ptr(png))->message = text;
  png_longjmp(png, 1);
}

void on_read(png_structp png, png_bytep to, std::size_t size) {
  auto* state = static_cast<Decoding*>(png_get_io_ptr(png));
  if (size > state->rest.size()) {
    state->ended_early = true;
    png_error(png, "it is truncated");
  }
  std::memcpy(to, state->rest.data(), size);
  state->rest.remove_prefix(size);
}

std::string from_hex(std::string_view text) {
  std::string bytes;
  int digits = 0, value = 0;
  for (const char c : text) {
    if (!std::isxdigit(static_cast<unsigned char>(c))) continue;
    value = value * 16 + (c <= '9' ? c - '0' : (c | 32) - 'a' + 10);
    if (++digits == 2) {
      bytes += static_cast<char>(value);
      digits = value = 0;
    }
  }
  return bytes;
}

void collect_texts(Decoding& state) {
  png_uint_32 length = 0;
  png_bytep exif = nullptr;
  if (png_get_eXIf_1(state.png, state.info, &length, &exif) != 0)
    state.exif.assign(reinterpret_cast<const char*>(exif), length);
  png_textp texts = nullptr;
  const int count = png_get_text(state.png, state.info, &texts, nullptr);
  for (int i = 0; i < count; ++i) {
    const std::string_view key = texts[i].key;
    const std::size_t size = texts[i].text_length > 0 ? texts[i].text_length : texts[i].itxt_length;
    const std::string_view text(texts[i].text, size);
    if (key == "XML:com.adobe.xmp") state.xmp = text;
    if (key != "Raw profile type exif" || !state.exif.empty()) continue;
    std::size_t at = 0;  // ImageMagick's way: a line break, a name, a size, then digits
    for (int line = 0; line < 3 && at != text.npos; ++line) at = text.find('\n', at + (line > 0));
    if (at != text.npos) state.exif = from_hex(text.substr(at));
  }
}

// Returns false where libpng failed.
bool decode(Decoding& state) {
  if (setjmp(png_jmpbuf(state.png)) != 0) return false;
  png_set_read_fn(state.png, &state, on_read);
  png_set_user_limits(state.png, 0x7fffffff, 0x7fffffff);
  png_set_chunk_malloc_max(state.png, 64u << 20);
  png_read_info(state.png, state.info);
  state.width = png_get_image_width(state.png, state.info);
  state.height = png_get_image_height(state.png, state.info);
  if (state.width > max_pixels / state.height) {
    state.too_large = true;
    return false;
  }
  const int depth = png_get_bit_depth(state.png, state.info);
  const int colour = png_get_color_type(state.png, state.info);
  state.sixteen_bit_grey = depth == 16 && colour == PNG_COLOR_TYPE_GRAY;
  if (colour == PNG_COLOR_TYPE_PALETTE) png_set_palette_to_rgb(state.png);
  if (colour == PNG_COLOR_TYPE_GRAY && depth < 8) png_set_expand_gray_1_2_4_to_8(state.png);
  if (depth == 16 && !state.sixteen_bit_grey) png_set_strip_16(state.png);
  png_set_strip_alpha(state.png);  // which a palette with transparency gets, too
  if ((colour & PNG_COLOR_MASK_COLOR) == 0 && !state.sixteen_bit_grey) png_set_gray_to_rgb(state.png);
  png_set_interlace_handling(state.png);
  png_read_update_info(state.png, state.info);
  const std::size_t stride = png_get_rowbytes(state.png, state.info);
  if (stride != state.width * std::size_t{state.sixteen_bit_grey ? 2u : 3u})
    png_error(state.png, "odd rows");
  state.raw.resize(stride * state.height);
  for (std::uint32_t y = 0; y < state.height; ++y) state.rows.push_back(&state.raw[stride * y]);
  png_read_image(state.png, state.rows.data());
  png_read_end(state.png, state.info);
  return true;
}

}  // namespace

Image decode_png(std::string_view content, const std::string& name) {
  Decoding state;
  state.rest = content;
  state.png = png_create_read_struct(PNG_LIBPNG_VER_STRING, &state, on_error,
                                     [](png_structp, png_const_charp) {});
  if (state.png != nullptr) state.info = png_create_info_struct(state.png);
  if (state.info == nullptr) throw std::bad_alloc();
  const bool decoded = decode(state);
  if (state.too_large) check_pixels(state.width, state.height, name);
  require(decoded, Code::image,
          name + ": damaged image (" + state.message + "). If it is truncated, fetch it again.");
  Image image{static_cast<int>(state.width), static_cast<int>(state.height), {}};
  if (state.sixteen_bit_grey) {  // 65535 = 255 * 257, rounded to nearest
    image.rgb.reserve(state.raw.size() / 2 * 3);
    for (std::size_t i = 0; i < state.raw.size(); i += 2)
      image.rgb.insert(image.rgb.end(), 3,
                       static_cast<std::uint8_t>((state.raw[i] * 256 + state.raw[i + 1] + 128) / 257));
  } else {
    image.rgb = std::move(state.raw);
  }
  collect_texts(state);
  int orientation = 0;
  try {
    orientation = exif_orientation(state.exif);
  } catch (const Error& error) {
    throw Error(Code::image, name + ": damaged image (" + error.what() + ").");
  }
  if (orientation == 0) orientation = xmp_orientation(state.xmp);
  return oriented(std::move(image), orientation);
}

}  // namespace ovml

#include "preprocess.h"

#include <algorithm>
#include <cmath>

namespace ovml {

namespace {

constexpr double max_resized_pixels = 256e6;
constexpr int precision_bits = 32 - 8 - 2;  // Pillow's fixed point (Resample.c)

double bicubic(double x) {
  constexpr double a = -0.5;
  x = std::fabs(x);
  if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1;
  if (x < 2.0) return (((x - 5) * x + 8) * x - 4) * a;
  return 0.0;
}

double triangle(double x) {
  x = std::fabs(x);
  return x < 1.0 ? 1.0 - x : 0.0;
}

// One side of the image: what it is resized to, and which stretch of that ends where in the result.
struct Axis {
  int from, resized;      // length before and after
  int first, count, pad;  // result[pad + i] = resized[first + i], for i < count
};

Axis axis(int from, int resized, int wanted) {
  if (resized < wanted) return {from, resized, 0, resized, (wanted - resized) / 2};
  // nearbyint goes to even, as Python's round
  const int first = static_cast<int>(std::nearbyint((resized - wanted) / 2.0));
  return {from, resized, first, wanted, 0};
}

// The source pixels of each wanted one, and their weights in fixed point: Pillow's precompute_coeffs
// and normalize_coeffs_8bpc.
struct Taps {
  std::vector<int> first, count;
  std::vector<std::int32_t> weights;  // `most` for each
  std::size_t most = 0;
};

Taps taps(const Axis& side, bool bilinear) {
  const double scale = static_cast<double>(static_cast<float>(side.from)) / side.resized;
  const double filterscale = std::max(scale, 1.0);
  const double support = (bilinear ? 1.0 : 2.0) * filterscale;
  Taps made;
  made.most = static_cast<std::size_t>(std::ceil(support)) * 2 + 1;
  made.weights.assign(made.most * static_cast<std::size_t>(side.count), 0);
  std::vector<double> exact(made.most);
  for (int i = 0; i < side.count; ++i) {
    const double center = (side.first + i + 0.5) * scale;
    const double step = 1.0 / filterscale;
    const int low = std::max(0, static_cast<int>(center - support + 0.5));
    const int high = std::min(side.from, static_cast<int>(center + support + 0.5));
    double total = 0.0;
    for (int x = 0; x < high - low; ++x) {
      const double at = (x + low - center + 0.5) * step;
      exact[static_cast<std::size_t>(x)] = bilinear ? triangle(at) : bicubic(at);
      total += exact[static_cast<std::size_t>(x)];
    }
    for (int x = 0; x < high - low; ++x) {
      double weight = exact[static_cast<std::size_t>(x)];
      if (total != 0.0) weight /= total;
      made.weights[made.most * static_cast<std::size_t>(i) + static_cast<std::size_t>(x)] =
          static_cast<std::int32_t>((weight < 0 ? -0.5 : 0.5) + weight * (1 << precision_bits));
    }
    made.first.push_back(low);
    made.count.push_back(high - low);
  }
  return made;
}

std::uint8_t clip8(std::int32_t value) {
  return static_cast<std::uint8_t>(std::clamp(value >> precision_bits, 0, 255));
}

constexpr std::int32_t half = 1 << (precision_bits - 1);

std::size_t bytes_of(int pixels) { return 3 * static_cast<std::size_t>(pixels); }

// One row of the source, from its column `left` on, -> the wanted pixels of a row.
void resize_row(const std::uint8_t* from, int left, std::uint8_t* to, const Axis& across,
                const Taps& columns) {
  if (across.from == across.resized) {
    std::copy_n(from + 3 * (across.first - left), bytes_of(across.count), to);
    return;
  }
  for (std::size_t i = 0; i < columns.first.size(); ++i, to += 3) {
    const std::uint8_t* pixel = from + 3 * std::ptrdiff_t{columns.first[i] - left};
    const std::int32_t* weight = &columns.weights[columns.most * i];
    std::int32_t r = half, g = half, b = half;
    for (int x = 0; x < columns.count[i]; ++x, pixel += 3) {
      r += pixel[0] * weight[x];
      g += pixel[1] * weight[x];
      b += pixel[2] * weight[x];
    }
    to[0] = clip8(r);
    to[1] = clip8(g);
    to[2] = clip8(b);
  }
}

// Rows of the source, of which the first is number `top`, -> the wanted rows.
void resize_columns(const ImageView& from, int top, const Taps& rows, std::uint8_t* to,
                    std::ptrdiff_t stride) {
  std::vector<std::int32_t> sums(bytes_of(from.width));
  for (std::size_t i = 0; i < rows.first.size(); ++i, to += stride) {
    std::fill(sums.begin(), sums.end(), half);
    for (int y = 0; y < rows.count[i]; ++y) {
      const std::uint8_t* row = from.rgb + from.stride * (rows.first[i] - top + y);
      const std::int32_t weight = rows.weights[rows.most * i + static_cast<std::size_t>(y)];
      for (std::size_t x = 0; x < sums.size(); ++x) sums[x] += row[x] * weight;
    }
    std::transform(sums.begin(), sums.end(), to, clip8);
  }
}

}  // namespace

std::vector<std::uint8_t> Preprocessing::operator()(const ImageView& image) const {
  require(image.rgb != nullptr && image.width > 0 && image.height > 0 &&
              image.stride >= 3 * std::ptrdiff_t{image.width},
          Code::image, "An image needs pixels: rgb, width, height, and a stride of 3 * width or more.");
  double rows = height, columns = width;
  bool triangles = bilinear;
  if (mode == Mode::shortest && height == width) {  // torchvision's rule: the long side is truncated
    const double target = height;
    if (image.width <= image.height) rows = std::trunc(target * image.height / image.width);
    else columns = std::trunc(target * image.width / image.height);
  } else if (mode != Mode::squash) {
    const double tall = static_cast<double>(image.height) / height;
    const double wide = static_cast<double>(image.width) / width;
    const double ratio = mode == Mode::longest ? std::max(tall, wide) : std::min(tall, wide);
    rows = std::nearbyint(image.height / ratio);
    columns = std::nearbyint(image.width / ratio);
    // open_clip resizes to a non-square target with bicubic, whatever is configured
    triangles = bilinear && mode == Mode::longest;
  }
  require(rows >= 1 && columns >= 1 && rows * columns <= max_resized_pixels, Code::image,
          "The image of " + std::to_string(image.width) + "x" + std::to_string(image.height) +
              " pixels is too thin to be resized. Crop it first.");
  const Axis across = axis(image.width, static_cast<int>(columns), width);
  const Axis down = axis(image.height, static_cast<int>(rows), height);
  const Taps horizontal = taps(across, triangles), vertical = taps(down, triangles);

  // Pillow's two rounded passes; only of what the crop keeps. Since Pillow 13, columns come first where
  // the height loses more than twice as many pixels as the width.
  const bool rows_first = across.from == across.resized || down.resized >= down.from ||
                          2 * (across.from - across.resized) >= down.from - down.resized;
  const int left = horizontal.first.front(), top = vertical.first.front();
  const int right = horizontal.first.back() + horizontal.count.back();
  const int bottom = vertical.first.back() + vertical.count.back();
  Image between;
  between.width = rows_first ? across.count : right - left;
  between.height = rows_first ? bottom - top : down.count;
  between.rgb.resize(bytes_of(between.width) * static_cast<std::size_t>(between.height));
  std::uint8_t* to = between.rgb.data();
  if (rows_first)
    for (int y = top; y < bottom; ++y, to += bytes_of(across.count))
      resize_row(image.rgb + image.stride * y, 0, to, across, horizontal);
  else
    resize_columns({image.rgb + 3 * left, right - left, image.height, image.stride}, 0, vertical, to,
                   between.view().stride);

  std::vector<std::uint8_t> result(bytes_of(width) * static_cast<std::size_t>(height),
                                   mode == Mode::longest ? fill : std::uint8_t{0});
  const auto stride = static_cast<std::ptrdiff_t>(bytes_of(width));
  to = &result[static_cast<std::size_t>(stride * down.pad + 3 * across.pad)];
  if (rows_first) {
    resize_columns(between.view(), top, vertical, to, stride);
  } else {
    const std::uint8_t* from = between.rgb.data();
    for (int y = 0; y < down.count; ++y, to += stride, from += between.view().stride)
      resize_row(from, left, to, across, horizontal);
  }
  return result;
}

}  // namespace ovml

#include "safetensors.h"

#include <algorithm>
#include <array>
#include <fstream>

#include "json.h"

namespace ovml {

namespace {

constexpr std::uint64_t most_header = 16u << 20;

std::uint64_t bytes_of(const std::string& dtype) {
  static const std::map<std::string, std::uint64_t> sizes = {
      {"F64", 8},  {"I64", 8}, {"U64", 8}, {"F32", 4}, {"I32", 4}, {"U32", 4}, {"F16", 2},
      {"BF16", 2}, {"I16", 2}, {"U16", 2}, {"I8", 1},  {"U8", 1},  {"BOOL", 1}};
  const auto found = sizes.find(dtype);
  return found == sizes.end() ? 0 : found->second;
}

}  // namespace

SafeTensors SafeTensors::open(const std::filesystem::path& path, Code code) {
  std::error_code failed;
  require(std::filesystem::is_regular_file(path, failed), code,
          path.string() + ": there is no such file.");
  const std::uint64_t size = std::filesystem::file_size(path, failed);
  auto stream = std::make_unique<std::ifstream>(path, std::ios::binary);
  require(!failed && stream->is_open(), code, path.string() + ": cannot be opened.");
  return SafeTensors(std::move(stream), size, code, path.string());
}

SafeTensors::SafeTensors(std::unique_ptr<std::istream> stream, std::uint64_t size, Code code,
                         std::string name)
    : stream_(std::move(stream)), code_(code), name_(std::move(name)) {
  std::array<unsigned char, 8> prefix{};
  if (size < prefix.size() || !stream_->read(reinterpret_cast<char*>(prefix.data()), 8))
    fail("it has fewer than 8 bytes");
  std::uint64_t length = 0;
  for (std::size_t i = 8; i-- > 0;) length = length << 8 | prefix[i];
  if (length > most_header) fail("its header claims " + std::to_string(length) + " bytes");
  if (length > size - 8) fail("it ends inside its header");
  std::string header(length, '\0');
  if (!stream_->read(header.data(), static_cast<std::streamsize>(length))) fail("it cannot be read");
  data_start_ = 8 + length;
  parse_header(header, size - data_start_);
}

void SafeTensors::fail(const std::string& why) const {
  throw Error(code_, name_ + " is not a readable safetensors file: " + why + ". Make it again.");
}

void SafeTensors::parse_header(const std::string& header, std::uint64_t data_size) {
  const Json parsed = parse_json(header, code_, "The header of " + name_);
  if (!parsed.is_object()) fail("its header is no JSON object");
  std::vector<std::pair<std::uint64_t, std::uint64_t>> spans;
  for (const auto& [key, value] : parsed.items()) {
    if (key == "__metadata__") {
      if (!value.is_object()) fail("its metadata is no JSON object");
      for (const auto& [name, text] : value.items()) {
        if (!text.is_string()) fail("its metadata is not text");
        metadata_[name] = text.get<std::string>();
      }
      continue;
    }
    const std::string what = name_ + ": tensor '" + key.substr(0, 80) + "'";
    Tensor tensor{member<std::string>(value, "dtype", code_, what), {}, 0, 0};
    const auto shape = value.find("shape"), offsets = value.find("data_offsets");
    if (shape == value.end() || !shape->is_array() || offsets == value.end() || !offsets->is_array() ||
        offsets->size() != 2 || !(*offsets)[0].is_number_unsigned() ||
        !(*offsets)[1].is_number_unsigned())
      fail("a tensor has no shape or offsets");
    tensor.begin = (*offsets)[0].get<std::uint64_t>();
    tensor.end = (*offsets)[1].get<std::uint64_t>();
    std::uint64_t bytes = bytes_of(tensor.dtype);
    if (bytes == 0) fail("unknown dtype '" + tensor.dtype.substr(0, 20) + "'");
    for (const auto& length : *shape) {
      if (!length.is_number_unsigned()) fail("a shape is not of whole numbers");
      const auto count = length.get<std::uint64_t>();
      if (__builtin_mul_overflow(bytes, count, &bytes)) fail("a shape is too large");
      tensor.shape.push_back(count);
    }
    if (tensor.begin > tensor.end || tensor.end > data_size || tensor.end - tensor.begin != bytes)
      fail("a tensor's offsets do not agree with its shape or with the file's size");
    spans.emplace_back(tensor.begin, tensor.end);
    tensors_.emplace(key, std::move(tensor));
  }
  std::sort(spans.begin(), spans.end());
  std::uint64_t reached = 0;
  for (const auto& [begin, end] : spans) {
    if (begin != reached) fail("its tensors overlap or leave gaps");
    reached = end;
  }
  if (reached != data_size) fail("it is longer or shorter than its header says");
}

std::vector<std::string> SafeTensors::names() const {
  std::vector<std::string> found;
  for (const auto& [name, _] : tensors_) found.push_back(name);
  return found;
}

template <typename T>
Array<T> SafeTensors::read(const std::string& name, const char* dtype) {
  const auto found = tensors_.find(name);
  if (found == tensors_.end()) fail("it has no tensor '" + name + "'");
  const Tensor& tensor = found->second;
  if (tensor.dtype != dtype) fail("'" + name + "' is " + tensor.dtype + ", not " + dtype);
  const std::uint64_t size = tensor.end - tensor.begin;
  Array<T> array{tensor.shape, std::vector<T>(size / sizeof(T))};
  stream_->clear();
  stream_->seekg(static_cast<std::streamoff>(data_start_ + tensor.begin));
  if (size > 0 &&
      !stream_->read(reinterpret_cast<char*>(array.values.data()), static_cast<std::streamsize>(size)))
    fail("it cannot be read");
  return array;
}

Array<float> SafeTensors::floats(const std::string& name) { return read<float>(name, "F32"); }

Array<std::uint8_t> SafeTensors::bytes(const std::string& name) {
  return read<std::uint8_t>(name, "U8");
}

}  // namespace ovml

// A reader of .safetensors files that trusts nothing in them.
#pragma once

#include <cstdint>
#include <filesystem>
#include <istream>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "error.h"

namespace ovml {

/// Numbers with their shape, row by row.
template <typename T>
struct Array {
  std::vector<std::size_t> shape;
  std::vector<T> values;
};

/// An opened file: its header is read and checked, tensors are read when they are asked for.
///
/// Offsets must fill the file without gaps and agree with dtype and shape, so that nothing larger
/// than the file is ever allocated.
class SafeTensors {
 public:
  /// Errors have the code `code` and name the file.
  static SafeTensors open(const std::filesystem::path& path, Code code);
  /// Read from a stream of `size` bytes, which `name` names in errors.
  SafeTensors(std::unique_ptr<std::istream> stream, std::uint64_t size, Code code, std::string name);

  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  std::vector<std::string> names() const;
  bool has(const std::string& name) const { return tensors_.count(name) > 0; }
  /// A tensor of dtype F32.
  Array<float> floats(const std::string& name);
  /// A tensor of dtype U8.
  Array<std::uint8_t> bytes(const std::string& name);

 private:
  struct Tensor {
    std::string dtype;
    std::vector<std::size_t> shape;
    std::uint64_t begin, end;
  };
  template <typename T>
  Array<T> read(const std::string& name, const char* dtype);
  void parse_header(const std::string& header, std::uint64_t data_size);
  [[noreturn]] void fail(const std::string& why) const;

  std::unique_ptr<std::istream> stream_;
  Code code_;
  std::string name_;
  std::uint64_t data_start_ = 0;
  std::map<std::string, std::string> metadata_;
  std::map<std::string, Tensor> tensors_;
};

}  // namespace ovml

// Files and their hashes.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>

#include "error.h"

namespace ovml {

/// The content of a file of at most `most` bytes; its size is checked before memory is spent.
std::string read_file(const std::filesystem::path& path, std::uint64_t most, Code code);

/// SHA-256 of what is fed to it.
class Sha256 {
 public:
  Sha256();
  ~Sha256();
  void update(const void* data, std::size_t size);
  void update(std::string_view text) { update(text.data(), text.size()); }
  /// All 64 hexadecimal digits. The last call on this object.
  std::string hex();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// SHA-256 of a file, read in pieces.
std::string sha256_file(const std::filesystem::path& path, Code code);

/// The CPUs this process may really use: the affinity mask, cut to the cgroup's quota.
int available_cpus();

}  // namespace ovml

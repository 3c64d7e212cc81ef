#include "files.h"

#include <openssl/evp.h>
#include <sched.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <fstream>
#include <sstream>
#include <vector>

namespace fs = std::filesystem;

namespace ovml {

std::string read_file(const fs::path& path, std::uint64_t most, Code code) {
  std::error_code failed;
  require(fs::is_regular_file(path, failed), code, path.string() + ": there is no such file.");
  const std::uint64_t size = fs::file_size(path, failed);
  require(!failed && size <= most, code,
          path.string() + ": " + std::to_string(size) + " bytes; at most " + std::to_string(most) +
              " are read.");
  std::ifstream file(path, std::ios::binary);
  std::string content(size, '\0');
  file.read(content.data(), static_cast<std::streamsize>(size));
  require(file.good() || size == 0, code, path.string() + ": cannot be read.");
  return content;
}

struct Sha256::State {
  std::unique_ptr<EVP_MD_CTX, void (*)(EVP_MD_CTX*)> context{EVP_MD_CTX_new(), EVP_MD_CTX_free};
};

Sha256::Sha256() : state_(std::make_unique<State>()) {
  if (!state_->context || EVP_DigestInit_ex(state_->context.get(), EVP_sha256(), nullptr) != 1)
    throw std::bad_alloc();
}

Sha256::~Sha256() = default;

void Sha256::update(const void* data, std::size_t size) {
  if (size > 0) EVP_DigestUpdate(state_->context.get(), data, size);
}

std::string Sha256::hex() {
  std::array<unsigned char, EVP_MAX_MD_SIZE> bytes{};
  unsigned int count = 0;
  EVP_DigestFinal_ex(state_->context.get(), bytes.data(), &count);
  static const char digits[] = "0123456789abcdef";
  std::string text;
  for (unsigned int i = 0; i < count; ++i) {
    text += digits[bytes[i] >> 4];
    text += digits[bytes[i] & 15];
  }
  return text;
}

std::string sha256_file(const fs::path& path, Code code) {
  std::ifstream file(path, std::ios::binary);
  require(file.is_open(), code, path.string() + ": cannot be opened.");
  Sha256 digest;
  std::vector<char> piece(1 << 18);
  while (file) {
    file.read(piece.data(), static_cast<std::streamsize>(piece.size()));
    digest.update(piece.data(), static_cast<std::size_t>(file.gcount()));
  }
  require(file.eof(), code, path.string() + ": cannot be read.");
  return digest.hex();
}

namespace {

// CPUs that a cgroup allows (version 2, else version 1); 0 where it sets no limit.
double quota_of(const fs::path& group) {
  double limit = 0, period = 0;
  std::string text;
  if (std::ifstream file(group / "cpu.max"); file >> text >> period && text != "max" && period > 0)
    return std::atof(text.c_str()) / period;
  std::ifstream limits(group / "cpu.cfs_quota_us"), periods(group / "cpu.cfs_period_us");
  if (limits >> limit && periods >> period && limit > 0 && period > 0) return limit / period;
  return 0;
}

}  // namespace

int available_cpus() {
  cpu_set_t mask;
  CPU_ZERO(&mask);
  const int allowed = sched_getaffinity(0, sizeof mask, &mask) == 0 ? CPU_COUNT(&mask) : 1;
  double quota = allowed;
  const auto note = [&quota](const fs::path& group) {
    if (const double found = quota_of(group); found > 0) quota = std::min(quota, found);
  };
  const fs::path root = "/sys/fs/cgroup";
  note(root);  // in a container the root is its own group
  note(root / "cpu");
  std::ifstream membership("/proc/self/cgroup");
  for (std::string line; std::getline(membership, line);) {
    const auto first = line.find(':'), second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    if (!controllers.empty() && ("," + controllers + ",").find(",cpu,") == std::string::npos) continue;
    fs::path group = controllers.empty() ? root : root / "cpu";
    for (const auto& part : fs::path(line.substr(second + 1)).relative_path()) note(group /= part);
  }
  return std::max(1, std::min(allowed, static_cast<int>(std::ceil(quota))));
}

}  // namespace ovml

// The bundle: the exported folder (docs/bundle.md), checked before anything in it is used.
#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "preprocess.h"

namespace ovml {

/// How labels become token ids; as in bundle.json.
struct TextSettings {
  std::int64_t context_length = 0, pad_id = 0;
  bool any_length = false, needs_mask = false;
  std::string clean;
};

/// Where a prompt-tuned head's learned tokens stand in a prompt.
struct LearnedTokens {
  std::int64_t first_id = 0, lead = 0, shared = 0, grouped = 0;
  std::vector<std::string> groups;
};

/// An opened bundle. Files are checked against their size and SHA-256 when they are asked for.
class Bundle {
 public:
  /// Open a folder, or the folder of a file in one. Errors have Code::bundle.
  static Bundle open(const std::filesystem::path& engine);
  /// Read a manifest, of a bundle that lies (or will lie) in `folder`.
  Bundle(std::filesystem::path folder, const std::string& manifest);

  std::filesystem::path path;
  std::string head, activation, precision;
  bool normalises_labels = false;
  std::size_t embed_dim = 0, label_dim = 0, features_per_image = 0;
  std::vector<std::string> templates;
  Preprocessing preprocessing;
  TextSettings text;
  std::optional<LearnedTokens> learned_tokens;
  std::optional<std::string> default_vocabulary;
  /// What the runtime's hashes name: text encoder, prompt pool, model (16 hexadecimal digits each).
  std::string text_hash, prompt_hash, model_hash;

  /// The path of a file that the manifest lists, after checking its size and SHA-256.
  std::filesystem::path file(const std::string& name) const;
  /// A path below the folder; Error for one that climbs out, by name or by link.
  std::filesystem::path inside(const std::string& name) const;
  /// The names of the vocabularies stored in it.
  std::vector<std::string> vocabulary_names() const;

 private:
  struct File {
    std::string sha256;
    std::uint64_t bytes;
  };
  std::map<std::string, File> files_;
};

/// The first 16 hexadecimal digits of a text's SHA-256.
std::string short_hash(const std::string& text);

}  // namespace ovml

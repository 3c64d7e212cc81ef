// A vocabulary: an immutable, ordered list of labels with their embeddings.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "bundle.h"
#include "safetensors.h"

namespace ovml {

/// Turns logits into probabilities: sigmoid(slope * logit + offset of the label).
struct Calibration {
  double slope = 1.0, threshold = 0.5;
  std::vector<float> offsets;
  std::string model_hash;
};

/// Labels and their embeddings [K, D], made by one text encoder and prompt pool. Shared as
/// `std::shared_ptr<const Vocabulary>`; to change the words, make another one.
struct Vocabulary {
  std::string name;
  std::vector<std::string> labels;
  Array<float> embeddings;
  std::string text_hash, prompt_hash;
  std::optional<Calibration> calibration;
  /// What a user should be told of labels that were encoded here; empty: nothing. Not part of the id.
  std::string warning;
  /// Names the content; the same 16 hexadecimal digits as in Python.
  std::string id;

  /// Check the parts and give them their id. Errors have Code::vocabulary or Code::label.
  static std::shared_ptr<const Vocabulary> make(Vocabulary parts, const std::string& facts = "");
  /// Read a .safetensors file of 'ovml-deploy vocab build'.
  static std::shared_ptr<const Vocabulary> load(const std::filesystem::path& path);
  /// Error where another text encoder, prompt pool or model made it.
  void check_fits(const Bundle& bundle) const;
};

}  // namespace ovml

// Labels -> label embeddings: prompts, token ids, the text graph.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "backend.h"
#include "text.h"
#include "tokenizer.h"
#include "vocabulary.h"

namespace ovml {

/// Encodes labels through a bundle's prompts. Safe for threads. It keeps no cache.
class TextEncoder {
 public:
  /// Load the text graph and run its golden prompts; Error (Code::device) where PyTorch's features
  /// are missed.
  TextEncoder(const Bundle& bundle, const Backend& backend);

  /// A vocabulary of labels; of a prompt-tuned model a label may name its group after a TAB.
  /// Errors have Code::label; labels whose prompts have the same token ids are one.
  std::shared_ptr<const Vocabulary> vocabulary(const std::vector<std::string>& labels,
                                               const std::string& name, const Places& places = {}) const;
  /// Token ids of a text, ends included.
  std::vector<std::int64_t> token_ids(const std::string& text) const;

 private:
  using Rows = std::vector<std::vector<std::int64_t>>;
  Array<float> features(const Rows& rows) const;
  void check_golden() const;
  void read_tuned();
  std::vector<std::int64_t> learned_prompt(const std::string& label,
                                           const std::vector<std::int64_t>& name, std::size_t branch,
                                           const std::string& group) const;
  std::vector<std::int64_t> one_prompt(const std::string& label, const std::string& group) const;
  void check_distinct(const std::vector<std::size_t>& which, const std::vector<std::string>& labels,
                      const std::vector<std::string>& groups, const Places& places) const;
  std::string warning(const std::vector<std::size_t>& which, const std::vector<std::string>& labels,
                      const Places& places) const;
  void add_prompts(const std::string& label, const std::string& group, Rows& rows) const;
  void merge(const float* features, float* embedding) const;

  const Bundle& bundle_;
  Tokenizer tokenizer_;
  std::unique_ptr<Graph> graph_;
  struct Tuned {
    std::string group;
    std::size_t row;
  };
  std::unordered_map<std::string, Tuned> tuned_;
  Array<float> tuned_embeddings_;
};

/// Largest difference of two arrays, relative to the largest value of the second.
double relative_error(const std::vector<float>& value, const std::vector<float>& reference);

}  // namespace ovml

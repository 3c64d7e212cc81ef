// tokenizer.json, for the kinds that bundles hold: CLIP's byte-pair encoding and BERT's WordPiece.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "json.h"

namespace ovml {

/// Texts -> token ids, as the `tokenizers` library gives them. Safe for threads.
class Tokenizer {
 public:
  /// Read the content of a tokenizer.json. Error (Code::bundle) names whatever it does not know.
  explicit Tokenizer(std::string_view json);

  /// Ids of a text, with what begins and ends every text, cut to `most` in all.
  std::vector<std::int64_t> operator()(const std::string& text, std::size_t most) const;
  /// Whether any of a text's ids stands for a part of it: not for its ends or something unknown.
  bool knows(const std::vector<std::int64_t>& ids) const;

 private:
  using Ids = std::vector<std::int64_t>;
  struct Merge {
    std::size_t rank;
    std::int64_t made;
  };
  void read_model(const Json& model);
  void read_bpe(const Json& model);
  void read_ends(const Json& post_processor);
  void encode_part(std::string_view text, Ids& ids) const;
  void byte_pairs(std::string_view word, Ids& ids) const;
  void word_pieces(std::u32string_view word, Ids& ids) const;
  std::u32string bert_normalized(std::string_view text) const;
  std::int64_t id_of(const std::string& token) const;

  bool bert_ = false, with_case_ = false, lowercase_ = false, strip_accents_ = false, clean_ = false,
       chinese_ = false;
  std::unordered_map<std::string, std::int64_t> ids_;
  std::map<std::string, std::int64_t, std::greater<>> added_;
  std::map<std::pair<std::int64_t, std::int64_t>, Merge> merges_;
  std::string byte_tokens_[256];
  std::string prefix_, suffix_;
  std::int64_t unknown_ = -1;
  std::size_t longest_word_ = 0;
  Ids begin_, end_;
};

}  // namespace ovml

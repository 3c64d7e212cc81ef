#include "tokenizer.h"

#include <algorithm>

#include <unicode/locid.h>
#include <unicode/normalizer2.h>
#include <unicode/uchar.h>
#include <unicode/unistr.h>

#include "text.h"

namespace ovml {

namespace {

constexpr const char* clip_pattern =
    R"((?i:<start_of_text>|<end_of_text>|'s|'t|'re|'ve|'m|'ll|'d)|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+)";
// As bundles had it that were exported before.
constexpr const char* clip_pattern_with_case =
    R"(<start_of_text>|<end_of_text>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+)";

[[noreturn]] void unknown(const std::string& what) {
  throw Error(Code::bundle, "tokenizer.json holds " + what +
                                ", which the C++ tokenizer does not know. Build vocabularies in Python "
                                "('ovml-deploy vocab build') and load their files here.");
}

std::string kind_of(const Json& part) {
  return part.is_object() ? member<std::string>(part, "type", Code::bundle, "tokenizer.json") : "none";
}

// The setting must be absent, null, or this.
void only(const Json& part, const char* name, const Json& value) {
  if (part.contains(name) && !part[name].is_null() && part[name] != value)
    unknown("'" + std::string(name) + "': " + part[name].dump().substr(0, 80));
}

bool flag(const Json& part, const char* name) {
  return member<bool>(part, name, Code::bundle, "tokenizer.json");
}

std::string text(const Json& part, const char* name) {
  return member<std::string>(part, name, Code::bundle, "tokenizer.json");
}

bool is_letter(char32_t c) { return (U_GET_GC_MASK(static_cast<UChar32>(c)) & U_GC_L_MASK) != 0; }
bool is_number(char32_t c) { return (U_GET_GC_MASK(static_cast<UChar32>(c)) & U_GC_N_MASK) != 0; }
bool is_space(char32_t c) { return u_isUWhiteSpace(static_cast<UChar32>(c)) != 0; }

bool same_but_for_case(char32_t a, char32_t b) {
  return u_foldCase(static_cast<UChar32>(a), U_FOLD_CASE_DEFAULT) ==
         u_foldCase(static_cast<UChar32>(b), U_FOLD_CASE_DEFAULT);
}

// How long the match of clip_pattern is that begins at the front; 0: there is none.
std::size_t clip_match(std::u32string_view rest, bool with_case) {
  for (const std::u32string_view word :
       {U"<start_of_text>", U"<end_of_text>", U"'s", U"'t", U"'re", U"'ve", U"'m", U"'ll", U"'d"}) {
    const auto front = rest.substr(0, word.size());
    if (with_case ? front == word
                  : std::equal(front.begin(), front.end(), word.begin(), word.end(), same_but_for_case))
      return word.size();
  }
  std::size_t end = 0;
  if (is_letter(rest[0])) {
    while (end < rest.size() && is_letter(rest[end])) ++end;
    return end;
  }
  if (is_number(rest[0])) return 1;
  const auto other = [](char32_t c) { return !is_space(c) && !is_letter(c) && !is_number(c); };
  while (end < rest.size() && other(rest[end])) ++end;
  return end;
}

bool is_punctuation(char32_t c) {
  return (c < 0x80 && std::ispunct(static_cast<int>(c)) != 0) ||
         (U_GET_GC_MASK(static_cast<UChar32>(c)) & U_GC_P_MASK) != 0;
}

bool is_chinese(char32_t c) {
  return (c >= 0x4E00 && c <= 0x9FFF) || (c >= 0x3400 && c <= 0x4DBF) ||
         (c >= 0x20000 && c <= 0x2A6DF) || (c >= 0x2A700 && c <= 0x2B73F) ||
         (c >= 0x2B740 && c <= 0x2B81F) || (c >= 0x2B920 && c <= 0x2CEAF) ||
         (c >= 0xF900 && c <= 0xFAFF) || (c >= 0x2F800 && c <= 0x2FA1F);
}

}  // namespace

Tokenizer::Tokenizer(std::string_view json) {
  const Json value = parse_json(json, Code::bundle, "tokenizer.json");
  if (!value.is_object() || !value.contains("model")) unknown("no model");
  const Json none;
  const auto part = [&](const char* name) -> const Json& {
    return value.contains(name) ? value[name] : none;
  };
  bert_ = kind_of(value["model"]) == "WordPiece";
  if (bert_) {
    const Json &normalizer = part("normalizer"), &splitter = part("pre_tokenizer");
    if (kind_of(normalizer) != "BertNormalizer") unknown("the normalizer " + kind_of(normalizer));
    if (kind_of(splitter) != "BertPreTokenizer") unknown("the pre-tokenizer " + kind_of(splitter));
    clean_ = flag(normalizer, "clean_text");
    chinese_ = flag(normalizer, "handle_chinese_chars");
    lowercase_ = flag(normalizer, "lowercase");
    const bool said = normalizer.contains("strip_accents") && !normalizer["strip_accents"].is_null();
    strip_accents_ = said ? flag(normalizer, "strip_accents") : lowercase_;
  } else if (kind_of(value["model"]) == "BPE") {
    const auto wanted = [](const char* pattern) {
      return Json{{{"type", "Split"},
                   {"pattern", {{"Regex", pattern}}},
                   {"behavior", "Removed"},
                   {"invert", true}},
                  {{"type", "ByteLevel"},
                   {"add_prefix_space", false},
                   {"trim_offsets", true},
                   {"use_regex", false}}};
    };
    const Json& splitter = part("pre_tokenizer");
    if (!part("normalizer").is_null()) unknown("the normalizer " + kind_of(part("normalizer")));
    const Json steps = kind_of(splitter) == "Sequence" ? splitter.value("pretokenizers", none) : none;
    with_case_ = steps == wanted(clip_pattern_with_case);
    if (!with_case_ && steps != wanted(clip_pattern))
      unknown("another way of splitting words than CLIP's");
  } else {
    unknown("the model " + kind_of(value["model"]));
  }
  read_model(value["model"]);
  for (const auto& token : part("added_tokens")) {
    for (const char* name : {"single_word", "lstrip", "rstrip", "normalized"}) only(token, name, false);
    const auto id = member<std::int64_t>(token, "id", Code::bundle, "tokenizer.json");
    const auto content = text(token, "content");
    if (content.empty()) unknown("an empty token");
    added_[content] = id;
    ids_[content] = id;
  }
  read_ends(part("post_processor"));
}

void Tokenizer::read_model(const Json& model) {
  const auto vocab = model.find("vocab");
  if (vocab == model.end() || !vocab->is_object()) unknown("no vocabulary");
  for (const auto& [token, id] : vocab->items()) {
    if (!id.is_number_unsigned()) unknown("a token without id");
    ids_[token] = id.get<std::int64_t>();
  }
  if (!bert_) return read_bpe(model);
  prefix_ = text(model, "continuing_subword_prefix");
  unknown_ = id_of(text(model, "unk_token"));
  longest_word_ = static_cast<std::size_t>(
      member<std::int64_t>(model, "max_input_chars_per_word", Code::bundle, "tokenizer.json"));
}

void Tokenizer::read_bpe(const Json& model) {
  for (const char* name : {"dropout", "unk_token"}) only(model, name, nullptr);
  for (const char* name : {"byte_fallback", "ignore_merges", "fuse_unk"}) only(model, name, false);
  only(model, "continuing_subword_prefix", "");
  if (model.contains("end_of_word_suffix") && !model["end_of_word_suffix"].is_null())
    suffix_ = text(model, "end_of_word_suffix");
  if (!model.contains("merges") || !model["merges"].is_array()) unknown("no merges");
  for (const auto& pair : model["merges"]) {
    std::string left, right;
    if (pair.is_array() && pair.size() == 2 && pair[0].is_string() && pair[1].is_string()) {
      left = pair[0];
      right = pair[1];
    } else if (pair.is_string()) {
      const auto both = pair.get<std::string>();
      const auto space = std::min(both.find(' '), both.size());
      left = both.substr(0, space);
      right = both.substr(std::min(space + 1, both.size()));
    } else {
      unknown("a merge that is no pair");
    }
    merges_.emplace(std::pair{id_of(left), id_of(right)}, Merge{merges_.size(), id_of(left + right)});
  }
  // GPT-2's printable stand-ins for bytes
  char32_t next = 256;
  for (char32_t byte = 0; byte < 256; ++byte) {
    const bool plain = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
    byte_tokens_[byte] = encode_utf8(std::u32string(1, plain ? byte : next));
    if (!plain) ++next;
    id_of(byte_tokens_[byte]);
    id_of(byte_tokens_[byte] + suffix_);
  }
}

void Tokenizer::read_ends(const Json& post) {
  if (post.is_null()) return;
  if (kind_of(post) != "TemplateProcessing") unknown("the post-processor " + kind_of(post));
  bool after = false;
  for (const auto& item : post.value("single", Json::array())) {
    if (item.is_object() && item.contains("Sequence")) {
      after = true;
      continue;
    }
    if (!item.is_object() || !item.contains("SpecialToken")) unknown("a strange template");
    const auto& tokens = post.value("special_tokens", Json::object());
    const auto name = text(item["SpecialToken"], "id");
    if (!tokens.contains(name) || !tokens[name].contains("ids")) unknown("the token " + name);
    for (const auto& id : tokens[name]["ids"]) {
      if (!id.is_number_unsigned()) unknown("a token without id");
      (after ? end_ : begin_).push_back(id.get<std::int64_t>());
    }
  }
}

std::int64_t Tokenizer::id_of(const std::string& token) const {
  const auto found = ids_.find(token);
  if (found == ids_.end()) unknown("no id for '" + token + "'");
  return found->second;
}

std::vector<std::int64_t> Tokenizer::operator()(const std::string& input, std::size_t most) const {
  Ids ids = begin_;
  std::string_view rest = input;
  while (!rest.empty()) {  // added tokens are found first; of those at one place, the longest
    std::size_t at = rest.size(), size = 0;
    std::int64_t id = 0;
    for (const auto& [content, number] : added_) {
      const auto found = rest.find(content);
      if (found < at || (found == at && content.size() > size && at < rest.size())) {
        at = found;
        size = content.size();
        id = number;
      }
    }
    if (at > 0) encode_part(rest.substr(0, at), ids);
    if (size > 0) ids.push_back(id);
    rest.remove_prefix(at + size);
  }
  const std::size_t ends = begin_.size() + end_.size();
  ids.resize(std::min(ids.size(), begin_.size() + (most > ends ? most - ends : 0)));
  ids.insert(ids.end(), end_.begin(), end_.end());
  return ids;
}

bool Tokenizer::knows(const Ids& ids) const {
  const auto in = [](const Ids& some, std::int64_t id) {
    return std::find(some.begin(), some.end(), id) != some.end();
  };
  return std::any_of(ids.begin(), ids.end(), [&](std::int64_t id) {
    return id != unknown_ && !in(begin_, id) && !in(end_, id);
  });
}

void Tokenizer::encode_part(std::string_view part, Ids& ids) const {
  if (bert_) {
    const std::u32string text = bert_normalized(part);
    std::u32string word;
    const auto finish = [&] {
      if (!word.empty()) word_pieces(word, ids);
      word.clear();
    };
    for (const char32_t c : text) {
      if (is_space(c)) {
        finish();
      } else if (is_punctuation(c)) {
        finish();
        word_pieces(std::u32string_view(&c, 1), ids);
      } else {
        word += c;
      }
    }
    return finish();
  }
  const std::u32string text = decode_utf8(part, Code::label, "A text");
  for (std::u32string_view rest = text; !rest.empty();) {
    const std::size_t length = clip_match(rest, with_case_);
    if (length > 0) byte_pairs(encode_utf8(rest.substr(0, length)), ids);
    rest.remove_prefix(std::max<std::size_t>(length, 1));
  }
}

std::u32string Tokenizer::bert_normalized(std::string_view part) const {
  std::u32string text = decode_utf8(part, Code::label, "A text");
  std::u32string made;
  for (const char32_t c : text) {
    if (clean_) {
      const bool blank = c == '\t' || c == '\n' || c == '\r' || is_space(c);
      const auto kind = U_GET_GC_MASK(static_cast<UChar32>(c));
      if (c == 0 || c == 0xFFFD || (!blank && (kind & U_GC_C_MASK) != 0)) continue;
      if (blank) {
        made += ' ';
        continue;
      }
    }
    if (chinese_ && is_chinese(c)) made += std::u32string{' ', c, ' '};
    else made += c;
  }
  if (strip_accents_) {
    UErrorCode failed = U_ZERO_ERROR;
    const auto* nfd = icu::Normalizer2::getNFDInstance(failed);
    std::string apart;
    if (U_SUCCESS(failed))
      nfd->normalize(icu::UnicodeString::fromUTF8(encode_utf8(made)), failed).toUTF8String(apart);
    require(U_SUCCESS(failed), Code::label, "ICU cannot normalize a text.");
    made.clear();
    for (const char32_t c : decode_utf8(apart, Code::label, "A text"))
      if ((U_GET_GC_MASK(static_cast<UChar32>(c)) & U_GC_MN_MASK) == 0) made += c;
  }
  if (!lowercase_) return made;
  std::u32string low;
  for (const char32_t c : made) {  // character by character, so that no context matters
    icu::UnicodeString one(static_cast<UChar32>(c));
    std::string bytes;
    one.toLower(icu::Locale::getRoot()).toUTF8String(bytes);
    low += decode_utf8(bytes, Code::label, "A text");
  }
  return low;
}

void Tokenizer::word_pieces(std::u32string_view word, Ids& ids) const {
  if (word.size() > longest_word_) return ids.push_back(unknown_);
  Ids pieces;
  for (std::size_t start = 0; start < word.size();) {
    std::size_t end = word.size();
    for (; end > start; --end) {
      const auto found =
          ids_.find((start > 0 ? prefix_ : "") + encode_utf8(word.substr(start, end - start)));
      if (found == ids_.end()) continue;
      pieces.push_back(found->second);
      break;
    }
    if (end == start) return ids.push_back(unknown_);
    start = end;
  }
  ids.insert(ids.end(), pieces.begin(), pieces.end());
}

void Tokenizer::byte_pairs(std::string_view word, Ids& ids) const {
  Ids parts;
  for (std::size_t i = 0; i < word.size(); ++i)
    parts.push_back(
        id_of(byte_tokens_[static_cast<std::uint8_t>(word[i])] + (i + 1 == word.size() ? suffix_ : "")));
  for (;;) {  // the pair that was learned first is merged first, from the left
    std::size_t best = SIZE_MAX, place = 0;
    std::int64_t made = 0;
    for (std::size_t i = 0; i + 1 < parts.size(); ++i) {
      const auto found = merges_.find({parts[i], parts[i + 1]});
      if (found == merges_.end() || found->second.rank >= best) continue;
      best = found->second.rank;
      place = i;
      made = found->second.made;
    }
    if (best == SIZE_MAX) break;
    parts[place] = made;
    parts.erase(parts.begin() + static_cast<std::ptrdiff_t>(place) + 1);
  }
  ids.insert(ids.end(), parts.begin(), parts.end());
}

}  // namespace ovml

#include "text.h"

#include <unicode/locid.h>
#include <unicode/normalizer2.h>
#include <unicode/uchar.h>
#include <unicode/unistr.h>
#include <unicode/utf8.h>

#include <algorithm>
#include <cctype>
#include <unordered_map>

namespace ovml {

namespace {

constexpr std::size_t most_label_chars = 256, most_labels = 5'000'000, most_listed = 200;

bool is_space(char32_t c) {
  return u_isUWhiteSpace(static_cast<UChar32>(c)) || (c >= 0x1c && c <= 0x1f);
}

std::u32string lower(std::u32string_view text) {
  icu::UnicodeString made = icu::UnicodeString::fromUTF8(encode_utf8(text));
  made.toLower(icu::Locale::getRoot());
  std::string bytes;
  made.toUTF8String(bytes);
  return decode_utf8(bytes, Code::label, "label");
}

bool is_latin_upper(char32_t c) { return c >= 0x80 && c < 0x250 && u_isupper(static_cast<UChar32>(c)); }

// Whether ftfy might take the character for the remains of a wrong encoding, or replace it.
bool doubtful(char32_t c, char32_t before) {
  if (c < 0x80) return false;
  const auto kind = U_GET_GC_MASK(static_cast<UChar32>(c));
  if ((kind & (U_GC_LU_MASK | U_GC_LL_MASK | U_GC_LO_MASK | U_GC_MN_MASK | U_GC_MC_MASK)) == 0)
    return true;
  UVersionInfo age;  // of younger letters, libraries know different things
  u_charAge(static_cast<UChar32>(c), age);
  if (age[0] > 8) return true;
  static const std::u32string odd =
      U"\u00aa\u00b5\u00ba\u00c2\u00c3\u00ce\u00d0\u0152\u0153\u0192\u0402\u0490"
      U"\u0132\u0133\u0149\u01c4\u01c5\u01c6\u01c7\u01c8\u01c9\u01ca\u01cb\u01cc\u01f1\u01f2\u01f3"
      U"\u1734\u1885\u1886\ua9bd\U000111c9";  // of another category in other versions of Unicode
  if (odd.find(c) != odd.npos || (c >= 0xfb00 && c <= 0xfb06) || (c >= 0xff00 && c <= 0xffef))
    return true;
  return is_latin_upper(c) && before >= 0x80;
}

// Whether an HTML entity might begin here: an ampersand, and a number or two letters.
bool entity_at(std::u32string_view text, std::size_t at) {
  if (text[at] != '&' || at + 1 == text.size()) return false;
  const auto word = [&](std::size_t i) {
    return i < text.size() && text[i] < 0x80 && std::isalnum(static_cast<int>(text[i])) != 0;
  };
  return text[at + 1] == '#' || (word(at + 1) && (word(at + 2) || text.substr(at + 2, 1) == U";"));
}

void require_clean(const std::string& label, std::u32string_view text) {
  const auto refuse = [&](const char* why) {
    throw Error(Code::label, "'" + label + "' " + why +
                                 ", which only the Python side cleans as the model expects. Build the "
                                 "vocabulary there ('ovml-deploy vocab build') and load its file here.");
  };
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (entity_at(text, i)) refuse("may hold an HTML entity");
    if (doubtful(text[i], i > 0 ? text[i - 1] : U'\0')) refuse("holds an unusual character");
  }
  UErrorCode failed = U_ZERO_ERROR;
  const auto* nfc = icu::Normalizer2::getNFCInstance(failed);
  if (U_FAILURE(failed) || !nfc->isNormalizedUTF8(encode_utf8(text), failed))
    refuse("is not in Unicode's composed form (NFC)");
}

}  // namespace

std::u32string decode_utf8(std::string_view text, Code code, const std::string& what) {
  std::u32string made;
  made.reserve(text.size());
  const auto* bytes = reinterpret_cast<const std::uint8_t*>(text.data());
  const auto size = static_cast<std::int64_t>(text.size());
  require(size < INT32_MAX, code, what + " is too long.");
  for (std::int32_t at = 0; at < size;) {
    UChar32 c = 0;
    U8_NEXT(bytes, at, static_cast<std::int32_t>(size), c);
    require(c >= 0, code, what + " is not UTF-8 (byte " + std::to_string(at) + ").");
    made += static_cast<char32_t>(c);
  }
  return made;
}

std::string encode_utf8(std::u32string_view text) {
  std::string made;
  for (const char32_t c : text) {
    std::uint8_t bytes[U8_MAX_LENGTH];
    std::int32_t size = 0;
    U8_APPEND_UNSAFE(bytes, size, static_cast<UChar32>(c));
    made.append(reinterpret_cast<const char*>(bytes), static_cast<std::size_t>(size));
  }
  return made;
}

std::u32string_view stripped(std::u32string_view text) {
  while (!text.empty() && is_space(text.front())) text.remove_prefix(1);
  while (!text.empty() && is_space(text.back())) text.remove_suffix(1);
  return text;
}

std::string listed(const std::vector<std::string>& items) {
  std::string made;
  for (std::size_t i = 0; i < std::min(items.size(), most_listed); ++i)
    made += (i > 0 ? "; " : "") + items[i];
  if (items.size() > most_listed)
    made += "; and " + std::to_string(items.size() - most_listed) + " more";
  return made;
}

std::vector<std::string> check_labels(const std::vector<std::string>& labels, const Places& places) {
  require(!labels.empty(), Code::label, "There are no labels. Give at least one.");
  require(labels.size() <= most_labels, Code::label,
          "More than " + std::to_string(most_labels) + " labels; split the vocabulary.");
  std::string unit = places.unit;
  unit[0] = static_cast<char>(std::toupper(unit[0]));
  std::unordered_map<std::string, std::size_t> seen;
  std::vector<std::string> made, repeated;
  for (std::size_t i = 0; i < labels.size(); ++i) {
    const std::string where = unit + " " + std::to_string(places.number(i));
    const std::u32string whole = decode_utf8(labels[i], Code::label, where);
    const std::u32string_view text = stripped(whole);
    require(!text.empty(), Code::label, where + " is empty. Remove it.");
    require(text.size() <= most_label_chars, Code::label,
            where + " has " + std::to_string(text.size()) + " characters; at most " +
                std::to_string(most_label_chars) + " are allowed.");
    for (const char32_t c : text) {
      const auto kind = U_GET_GC_MASK(static_cast<UChar32>(c));
      require((kind & (U_GC_CC_MASK | U_GC_CS_MASK | U_GC_ZL_MASK | U_GC_ZP_MASK)) == 0, Code::label,
              where + " holds an unprintable character. Remove it.");
    }
    made.push_back(encode_utf8(text));
    const auto [first, fresh] = seen.emplace(made.back(), places.number(i));
    if (!fresh)
      repeated.push_back(where + " ('" + made.back() + "') repeats " + places.unit + " " +
                         std::to_string(first->second));
  }
  require(repeated.empty(), Code::label,
          listed(repeated) + ". Remove " + (repeated.size() == 1 ? "it." : "the repeated ones."));
  return made;
}

std::vector<std::string> label_lines(std::string_view text) {
  std::vector<std::string> lines;
  while (!text.empty()) {
    const auto end = std::min(text.find_first_of("\r\n"), text.size());
    const std::string line(text.substr(0, end));
    if (!stripped(decode_utf8(line, Code::label, "The label file")).empty()) lines.push_back(line);
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return lines;
}

std::string clean_text(const std::string& label, const std::string& kind) {
  std::u32string text = decode_utf8(label, Code::label, "A label");
  require_clean(label, text);
  if (kind == "canonicalize") {
    std::u32string kept;
    for (const char32_t c : text)
      if (c == '_') kept += ' ';
      else if (c >= 0x80 || std::ispunct(static_cast<int>(c)) == 0) kept += c;
    text = kept;
  }
  if (kind != "whitespace") text = lower(text);
  std::u32string made;
  for (const char32_t c : text) {
    if (!is_space(c)) made += c;
    else if (!made.empty() && made.back() != ' ') made += ' ';
  }
  return encode_utf8(stripped(made));
}

}  // namespace ovml

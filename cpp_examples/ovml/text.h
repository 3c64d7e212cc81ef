// Text, as the Python runtime treats it before it is tokenized.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "error.h"

namespace ovml {

/// UTF-8 to code points; Error (`code`) naming `what` where it is not UTF-8.
std::u32string decode_utf8(std::string_view text, Code code, const std::string& what);
std::string encode_utf8(std::u32string_view text);

/// A text without outer white space.
std::u32string_view stripped(std::u32string_view text);

/// Where labels stand, for messages: their positions, counted from 1, or the lines of a file.
struct Places {
  std::string unit = "label";
  std::vector<std::size_t> numbers;  // of each label; empty: its position

  /// The number of the label at an index, which counts from 0.
  std::size_t number(std::size_t index) const { return numbers.empty() ? index + 1 : numbers[index]; }
};

/// Labels without outer space, in order. Error (Code::label) for none, too many, an empty, over-long
/// or unprintable label, and for repeated labels, which are all listed.
std::vector<std::string> check_labels(const std::vector<std::string>& labels, const Places& places = {});
/// Lines that are not blank, as bundles store labels.
std::vector<std::string> label_lines(std::string_view text);
/// The items of a message's list; of many the first ones, and the number of the others.
std::string listed(const std::vector<std::string>& items);

/// Clean a prompt in one of open_clip's ways: "lower", "whitespace" or "canonicalize".
///
/// Python repairs texts with ftfy first. Here a text that ftfy might change is refused (Code::label):
/// one with a character beyond ASCII that is no plain, composed letter, or with an HTML entity.
std::string clean_text(const std::string& text, const std::string& kind);

}  // namespace ovml

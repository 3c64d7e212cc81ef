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

/// Labels without outer space, in order. Error (Code::label) for none, too many, and for an empty,
/// over-long, repeated or unprintable one.
std::vector<std::string> check_labels(const std::vector<std::string>& labels);
/// The lines of a label file that are not blank.
std::vector<std::string> label_lines(std::string_view text);

/// Clean a prompt in one of open_clip's ways: "lower", "whitespace" or "canonicalize".
///
/// Python repairs texts with ftfy first. Here a text that ftfy might change is refused (Code::label):
/// one with a character beyond ASCII that is no plain, composed letter, or with an HTML entity.
std::string clean_text(const std::string& text, const std::string& kind);

}  // namespace ovml

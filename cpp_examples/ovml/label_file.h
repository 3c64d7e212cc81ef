// Label files: text with one label a line, by the rules of the Python runtime.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "text.h"

namespace ovml {

/// Labels as they stand in a file, each perhaps with a group after a TAB, and their line numbers.
struct LabelFile {
  std::vector<std::string> labels;
  Places places;
};

/// Read a text file in UTF-8, or in UTF-16 or UTF-32 with a byte order mark.
///
/// Blank lines and comments ("# ...") are passed over. Error (Code::label) names a file of another
/// kind: JSON and CSV are read by Python only.
LabelFile read_label_file(const std::filesystem::path& path);

}  // namespace ovml

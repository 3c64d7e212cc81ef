#include "label_file.h"

#include <algorithm>
#include <functional>
#include <map>

#include "files.h"
#include "json.h"

namespace ovml {

namespace {

constexpr std::uint64_t most_bytes = 2u << 30;
constexpr char32_t mark = 0xfeff;
const std::string as_text = "Write a UTF-8 text file with one label a line.";

using Line = std::pair<std::string, std::size_t>;  // its text and its number

// How files begin that are no label files.
const std::vector<std::pair<std::string, std::string>> binary = {
    {"PK\x03\x04", "a ZIP archive or an Office document"},
    {"\xd0\xcf\x11\xe0", "an Office document"},
    {"%PDF", "a PDF document"},
    {"{\\rtf", "an RTF document"},
    {"\xff\xd8\xff", "a JPEG image"},
    {"\x89PNG", "a PNG image"},
    {"GIF8", "a GIF image"},
    {"RIFF", "a WebP image or other media"},
    {std::string("II*\0", 4), "a TIFF image"},
    {std::string("MM\0*", 4), "a TIFF image"},
    {"\x1f\x8b", "a gzip archive"},
    {"PAR1", "a Parquet file"},
    {"SQLite format 3", "an SQLite database"},
    {"\x93NUMPY", "a NumPy array"},
    {"version https://git-lfs", "a Git LFS pointer instead of the file; run git lfs pull"},
    {"<!DOC", "an HTML or XML page"},
    {"<!doc", "an HTML or XML page"},
    {"<html", "an HTML or XML page"},
    {"<?xml", "an HTML or XML page"},
};
const std::map<std::string, std::string> refused_endings = {
    {".jsonl", "JSON Lines"}, {".ndjson", "JSON Lines"}, {".yaml", "YAML"},
    {".yml", "YAML"},         {".toml", "TOML"},         {".xml", "XML"},
    {".html", "HTML"},        {".htm", "HTML"},          {".onnx", "an ONNX graph"},
};

[[noreturn]] void refuse(const std::string& why) { throw Error(Code::label, why); }

bool starts(std::string_view text, std::string_view with) { return text.substr(0, with.size()) == with; }

// The code units of UTF-16 (width 2) or UTF-32 (width 4), without the byte order mark.
std::string decode_units(std::string_view bytes, std::size_t width, bool little) {
  const auto damaged = [&](std::size_t at) {
    refuse("The label file is damaged: byte " + std::to_string(at + width) + " is not UTF-" +
           std::to_string(8 * width) + ". Save it again, as UTF-8.");
  };
  const auto unit = [&](std::size_t at) {
    if (at + width > bytes.size()) damaged(at);
    char32_t value = 0;
    for (std::size_t i = 0; i < width; ++i)
      value = value << 8 | static_cast<std::uint8_t>(bytes[at + (little ? width - 1 - i : i)]);
    return value;
  };
  const auto between = [](char32_t c, char32_t low, char32_t high) { return low <= c && c <= high; };
  std::u32string text;
  for (std::size_t at = 0; at < bytes.size(); at += width) {
    char32_t c = unit(at);
    if (width == 2 && between(c, 0xd800, 0xdbff)) {
      const char32_t second = unit(at + width);
      if (!between(second, 0xdc00, 0xdfff)) damaged(at);
      c = 0x10000 + ((c - 0xd800) << 10) + (second - 0xdc00);
      at += width;
    }
    if (c > 0x10ffff || between(c, 0xd800, 0xdfff)) damaged(at);
    text += c;
  }
  return encode_utf8(text);
}

std::string text_of(std::string content) {
  using namespace std::string_view_literals;
  const std::string_view bytes = content;
  if (starts(bytes, "\xff\xfe\0\0"sv)) return decode_units(bytes.substr(4), 4, true);
  if (starts(bytes, "\0\0\xfe\xff"sv)) return decode_units(bytes.substr(4), 4, false);
  if (starts(bytes, "\xff\xfe"sv)) return decode_units(bytes.substr(2), 2, true);
  if (starts(bytes, "\xfe\xff"sv)) return decode_units(bytes.substr(2), 2, false);
  return content;
}

// The lines that are not blank, without outer space and byte order marks.
std::vector<Line> lines_of(std::string_view text) {
  std::vector<Line> lines;
  for (std::size_t number = 1; !text.empty(); ++number) {
    const auto end = std::min(text.find_first_of("\r\n"), text.size());
    std::u32string line = decode_utf8(text.substr(0, end), Code::label, "The label file");
    line.erase(0, std::min(line.find_first_not_of(mark), line.size()));
    const std::string stripped_line = encode_utf8(stripped(line));
    if (!stripped_line.empty()) lines.emplace_back(stripped_line, number);
    const bool both = starts(text.substr(end), "\r\n");
    text.remove_prefix(std::min(end + (both ? 2 : 1), text.size()));
  }
  return lines;
}

bool is_comment(const std::string& line) {
  const auto text = line.find_first_not_of('#');
  return line[0] == '#' && (text == line.npos || line[text] == ' ' || line[text] == '\t');
}

bool is_json(const std::string& text) {
  const auto value = Json::parse(text, nullptr, false);
  return value.is_array() || value.is_object();
}

// Refuse lines that are JSON, CSV, a bullet list, or doubtful comments.
void refuse_other_formats(const std::vector<Line>& lines) {
  const std::string& first = lines[0].first;
  if (first[0] == '[' || first[0] == '{') {
    std::string all;
    for (const auto& line : lines) all += line.first + "\n";
    if (is_json(all)) refuse("The file holds JSON, which only Python reads. " + as_text);
  }
  const auto parts =
      std::count_if(first.begin(), first.end(), [](char c) { return c == ',' || c == ';' || c == '|'; });
  if (lines.size() == 1 && parts > 0)
    refuse("The file's only line has " + std::to_string(parts + 1) + " parts: '" + first.substr(0, 80) +
           "'. Write one label a line.");
  const auto refuse_some = [&](const char* what, const char* remedy,
                               const std::function<bool(const std::string&)>& wrong) {
    std::vector<std::string> found;
    for (const auto& [line, number] : lines)
      if (wrong(line)) found.push_back(std::to_string(number) + " ('" + line.substr(0, 40) + "')");
    if (!found.empty()) refuse(std::string("Lines that ") + what + ": " + listed(found) + ". " + remedy);
  };
  refuse_some("end with a comma", "Remove the commas.",
              [](const std::string& line) { return line.back() == ','; });
  refuse_some("begin with '#'", "Write a comment as '# text'.",
              [](const std::string& line) { return line[0] == '#'; });
  const auto all = [&](const std::function<bool(const std::string&)>& holds) {
    return std::all_of(lines.begin(), lines.end(), [&](const Line& line) { return holds(line.first); });
  };
  if (all([](const std::string& line) { return starts(line, "- ") || starts(line, "* "); }))
    refuse("The file is a bullet list or YAML. " + as_text);
  if (all([](const std::string& line) {
        return line.size() > 2 && (line[0] == '"' || line[0] == '\'') && line.back() == line[0];
      }))
    refuse("The file has a label in quotation marks on each line. Remove the quotation marks.");
}

LabelFile read(const std::filesystem::path& path) {
  std::string ending = path.extension().string();
  std::transform(ending.begin(), ending.end(), ending.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  std::string content = read_file(path, most_bytes, Code::label);
  for (const auto& [begin, kind] : binary)
    if (starts(content, begin)) refuse("This is " + kind + ", not a label file. " + as_text);
  if (const auto kind = refused_endings.find(ending); kind != refused_endings.end())
    refuse("This is " + kind->second + ", not a label file. " + as_text);
  if (ending == ".json" || ending == ".csv")
    refuse("A " + ending +
           " label file is read by Python only: 'ovml-deploy vocab build' makes a vocabulary "
           "of it. " +
           as_text);
  const std::string text = text_of(std::move(content));
  if (text.find('\0') != text.npos)
    refuse("The file holds NUL bytes: it is binary, or UTF-16 without a byte order mark. " + as_text);
  std::vector<Line> lines = lines_of(text);
  lines.erase(std::remove_if(lines.begin(), lines.end(),
                             [](const Line& line) { return is_comment(line.first); }),
              lines.end());
  if (!lines.empty()) refuse_other_formats(lines);
  LabelFile made;
  made.places.unit = "line";
  for (auto& [line, number] : lines) {
    made.labels.push_back(std::move(line));
    made.places.numbers.push_back(number);
  }
  return made;
}

}  // namespace

LabelFile read_label_file(const std::filesystem::path& path) {
  try {
    return read(path);
  } catch (const Error& error) {
    throw Error(error.code, path.string() + ": " + error.what());
  }
}

}  // namespace ovml

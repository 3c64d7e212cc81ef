#include "json.h"

namespace ovml {

namespace {
constexpr int most_levels = 32;
}

Json parse_json(std::string_view text, Code code, const std::string& what) {
  const auto shallow = [&](int depth, Json::parse_event_t, Json&) {
    require(depth <= most_levels, code,
            what + " is nested more than " + std::to_string(most_levels) + " levels deep.");
    return true;
  };
  try {
    return Json::parse(text, shallow);
  } catch (const Json::exception& error) {
    throw Error(code, what + " is not valid JSON (" + error.what() + ").");
  }
}

void detail::bad_member(const char* name, Code code, const std::string& what) {
  throw Error(code, what + " has no '" + name + "' of the right type. Export the bundle again.");
}

std::string python_dumps(const Json& value) {
  std::string text;
  if (value.is_object()) {  // nlohmann keeps keys sorted by bytes, which for UTF-8 is by character
    for (const auto& [name, part] : value.items())
      text += (text.empty() ? "" : ", ") + python_dumps(name) + ": " + python_dumps(part);
    return "{" + text + "}";
  }
  if (value.is_array()) {
    for (const auto& part : value) text += (text.empty() ? "" : ", ") + python_dumps(part);
    return "[" + text + "]";
  }
  return value.dump(-1, ' ', true);  // ASCII only, as Python does
}

}  // namespace ovml

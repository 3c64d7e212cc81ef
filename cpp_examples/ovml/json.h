// JSON that nobody vouches for.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "error.h"

namespace ovml {

using Json = nlohmann::json;

/// Parse JSON of at most 32 levels. `what` names it in the Error.
Json parse_json(std::string_view text, Code code, const std::string& what);

/// A member of an object as a type; Error naming `what` where it is absent or another type.
template <typename T>
T member(const Json& object, const char* name, Code code, const std::string& what);

/// What Python's json.dumps(value, sort_keys=True) writes (hashes are taken of it); no floats.
std::string python_dumps(const Json& value);

// ---- how it is done

namespace detail {
[[noreturn]] void bad_member(const char* name, Code code, const std::string& what);
template <typename T>
bool fits(const Json& value) {
  if constexpr (std::is_same_v<T, bool>) return value.is_boolean();
  if constexpr (std::is_same_v<T, std::string>) return value.is_string();
  // an unsigned number beyond what int64 holds would come out negative
  if constexpr (std::is_same_v<T, std::int64_t>)
    return value.is_number_integer() &&
           !(value.is_number_unsigned() && value.get<std::uint64_t>() > INT64_MAX);
  if constexpr (std::is_same_v<T, double>) return value.is_number();
  return false;
}
}  // namespace detail

template <typename T>
T member(const Json& object, const char* name, Code code, const std::string& what) {
  if (!object.is_object()) detail::bad_member(name, code, what);
  const auto found = object.find(name);
  if (found == object.end() || !detail::fits<T>(*found)) detail::bad_member(name, code, what);
  return found->get<T>();
}

}  // namespace ovml

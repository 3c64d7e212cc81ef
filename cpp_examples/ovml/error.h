// What can go wrong, with a code a program can act on and a message a person can.
#pragma once

#include <stdexcept>
#include <string>

namespace ovml {

/// The kinds of error; ovml.h gives them the same numbers.
enum class Code { argument = 1, bundle, image, label, vocabulary, device };

/// Every error this library raises on purpose. The message says what is wrong, with what value, and
/// what to do.
class Error : public std::runtime_error {
 public:
  Error(Code code, const std::string& message) : std::runtime_error(message), code(code) {}
  const Code code;
};

/// Raise an Error unless `holds`.
inline void require(bool holds, Code code, const std::string& message) {
  if (!holds) throw Error(code, message);
}

}  // namespace ovml

// Any bytes as a .safetensors file: every tensor is read, or an Error is raised.
#include <sstream>

#include "ovml/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    auto stream =
        std::make_unique<std::istringstream>(std::string(reinterpret_cast<const char*>(data), size));
    ovml::SafeTensors file(std::move(stream), size, ovml::Code::vocabulary, "input");
    for (const auto& name : file.names()) {
      try {
        file.floats(name);
      } catch (const ovml::Error&) {
        file.bytes(name);
      }
    }
  } catch (const ovml::Error&) {
  }
  return 0;
}

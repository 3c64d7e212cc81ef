// Any bytes as a bundle.json, and then as a tokenizer.json: they are read, or an Error is raised.
#include "ovml/bundle.h"
#include "ovml/tokenizer.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  try {
    const ovml::Bundle bundle("/nonexistent/bundle", text);
    for (const char* name : {"encoder.onnx", "../escape", "/etc/passwd"}) {
      try {
        bundle.file(name);
      } catch (const ovml::Error&) {
      }
    }
  } catch (const ovml::Error&) {
  }
  try {
    const ovml::Tokenizer tokenizer(text);
    tokenizer("A photo of 2 caf\u00e9s, isn't it? \u732b", 77);
  } catch (const ovml::Error&) {
  }
  return 0;
}

// Any bytes as an image file: it is decoded and resized, or an Error is raised.
#include "ovml/preprocess.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  ovml::Preprocessing preprocessing;
  preprocessing.height = preprocessing.width = 32;
  try {
    const auto image = ovml::decode_image({reinterpret_cast<const char*>(data), size}, "input");
    preprocessing(image.view());
  } catch (const ovml::Error&) {
  }
  return 0;
}

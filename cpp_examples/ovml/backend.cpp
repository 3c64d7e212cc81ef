#include "backend.h"

#include "engine.h"
#include "files.h"

namespace ovml {

namespace {

struct Device {
  const char *name, *engine;
  std::unique_ptr<Backend> (*open)(int threads);  // null where it is not built in
};

// In the order in which "auto" takes them.
constexpr Device devices[] = {
#ifdef OVML_OPENVINO
    {"openvino", "OpenVINO", openvino_backend},
#else
    {"openvino", "OpenVINO", nullptr},
#endif
#ifdef OVML_ONNXRUNTIME
    {"cpu", "ONNX Runtime", onnxruntime_backend},
#else
    {"cpu", "ONNX Runtime", nullptr},
#endif
};

std::string choices() {
  std::string text = "choose 'auto'";
  for (const Device& device : devices)
    if (device.open != nullptr) text += std::string(" or '") + device.name + "' (" + device.engine + ")";
  return text;
}

}  // namespace

std::unique_ptr<Backend> open_backend(const std::string& device, int threads) {
  require(
      threads >= 0, Code::argument,
      "There cannot be " + std::to_string(threads) + " threads; 0 stands for as many as the CPU quota.");
  for (const Device& one : devices) {
    if (device == "auto" ? one.open == nullptr : device != one.name) continue;
    require(one.open != nullptr, Code::device,
            "The device '" + device + "' is not built in: " + choices() + ", or build with " +
                one.engine + ".");
    return one.open(threads > 0 ? threads : available_cpus());
  }
  throw Error(Code::argument, "There is no device '" + device + "': " + choices() + ".");
}

}  // namespace ovml

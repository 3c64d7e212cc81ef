// What runs a bundle's graphs.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "bundle.h"
#include "safetensors.h"

namespace ovml {

enum class Type { u8, i64, f32 };

/// An input of a graph; `data` stays the caller's.
struct Input {
  std::string name;
  Type type;
  std::vector<std::size_t> shape;
  const void* data;
};

/// An output: `integers` hold it where the graph counts, `floats` otherwise.
struct Output {
  std::vector<std::size_t> shape;
  std::vector<float> floats;
  std::vector<std::int64_t> integers;
};

/// A loaded graph. Calls from several threads at once are safe. Errors have Code::device.
class Graph {
 public:
  virtual ~Graph() = default;
  /// The outputs of the names in `wanted`, in that order.
  virtual std::vector<Output> run(const std::vector<Input>& inputs,
                                  const std::vector<std::string>& wanted) const = 0;
  /// This graph with one input prepared once, which its calls then leave out.
  virtual std::unique_ptr<Graph> fix(const std::string& input, const Array<float>& value) const = 0;
};

/// Loads graphs on one device.
class Backend {
 public:
  virtual ~Backend() = default;
  /// A graph of a bundle, after checking its file's hash.
  virtual std::unique_ptr<Graph> load(const Bundle& bundle, const std::string& name) const = 0;
  /// What runs it, for people.
  virtual std::string description() const = 0;
};

/// A device by the name that the Python runtime gives it: "openvino", "cpu" (ONNX Runtime), or "auto",
/// which is OpenVINO where it is built in, else ONNX Runtime. Both run on the CPU in float32, on so many
/// threads, or as many as the quota allows (0). Errors: Code::argument, device.
std::unique_ptr<Backend> open_backend(const std::string& device, int threads = 0);

}  // namespace ovml

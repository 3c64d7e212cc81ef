// ONNX Runtime on the CPU, with the settings of the Python runtime's backend.
#define ORT_API_MANUAL_INIT  // or a library older than the headers would crash before main
#include <onnxruntime_cxx_api.h>

#include <cstdlib>

#include "engine.h"

namespace ovml {

namespace {

// Switches ONNX Runtime's telemetry off, unless the variable is set already (docs/privacy.md). This runs
// when the library is loaded, as early as possible: setenv must not run beside another thread's getenv.
[[maybe_unused]] const int telemetry_off = setenv("ORT_DISABLE_TELEMETRY", "1", 0);

// The one environment of the process. It is never freed, as threads of it may outlive main.
Ort::Env& environment() {
  static auto* const one = [] {
    const OrtApiBase* base = OrtGetApiBase();
    const OrtApi* api = base->GetApi(ORT_API_VERSION);
    require(api != nullptr, Code::device,
            std::string("ONNX Runtime ") + base->GetVersionString() +
                " is older than the headers of 1." + std::to_string(ORT_API_VERSION) +
                " that this was built with. Build with its own.");
    Ort::InitApi(api);
    return new Ort::Env(ORT_LOGGING_LEVEL_ERROR, "ovml");  // errors reach us as exceptions
  }();
  return *one;
}

// A tensor over data that stays where it is; ONNX Runtime does not write to inputs.
Ort::Value view(const Input& input) {
  static const Ort::MemoryInfo memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  const std::vector<std::int64_t> shape(input.shape.begin(), input.shape.end());
  auto type = ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8;
  std::size_t bytes = sizeof(std::uint8_t);
  if (input.type == Type::i64) {
    type = ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64;
    bytes = sizeof(std::int64_t);
  } else if (input.type == Type::f32) {
    type = ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
    bytes = sizeof(float);
  }
  for (const std::size_t size : input.shape) bytes *= size;
  return Ort::Value::CreateTensor(memory, const_cast<void*>(input.data), bytes, shape.data(),
                                  shape.size(), type);
}

Output copied(const Ort::Value& value) {
  const auto info = value.GetTensorTypeAndShapeInfo();
  const auto shape = info.GetShape();
  const auto type = info.GetElementType();
  const std::size_t count = info.GetElementCount();
  Output made{{shape.begin(), shape.end()}, {}, {}};
  const auto copy = [&](auto& to, const auto* from) { to.assign(from, from + count); };
  if (type == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT) copy(made.floats, value.GetTensorData<float>());
  else if (type == ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64)
    copy(made.integers, value.GetTensorData<std::int64_t>());
  else if (type == ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32)
    copy(made.integers, value.GetTensorData<std::int32_t>());
  else throw Error(Code::device, "The graph gives numbers of ONNX's type " + std::to_string(type) + ".");
  return made;
}

class OnnxRuntimeGraph : public Graph {
 public:
  explicit OnnxRuntimeGraph(std::shared_ptr<Ort::Session> session) : session_(std::move(session)) {}

  std::vector<Output> run(const std::vector<Input>& inputs,
                          const std::vector<std::string>& wanted) const override {
    return guarded("ONNX Runtime failed", [&] {
      std::vector<const char*> names, wanted_names;
      std::vector<Ort::Value> values;
      const auto give = [&](const Input& input) {
        names.push_back(input.name.c_str());
        values.push_back(view(input));
      };
      for (const auto& input : inputs) give(input);
      for (const auto& input : fixed_) give(input);
      for (const auto& name : wanted) wanted_names.push_back(name.c_str());
      std::vector<Output> outputs;
      for (const auto& value : session_->Run(Ort::RunOptions{nullptr}, names.data(), values.data(),
                                             values.size(), wanted_names.data(), wanted_names.size()))
        outputs.push_back(copied(value));
      return outputs;
    });
  }

  std::unique_ptr<Graph> fix(const std::string& input, const Array<float>& value) const override {
    auto made = std::make_unique<OnnxRuntimeGraph>(*this);
    made->kept_.push_back(std::make_shared<const Array<float>>(value));
    const Array<float>& kept = *made->kept_.back();
    made->fixed_.push_back({input, Type::f32, kept.shape, kept.values.data()});
    return made;
  }

 private:
  std::shared_ptr<Ort::Session> session_;  // its Run may be called from several threads
  std::vector<std::shared_ptr<const Array<float>>> kept_;
  std::vector<Input> fixed_;  // views of what is kept
};

class OnnxRuntimeBackend : public Backend {
 public:
  explicit OnnxRuntimeBackend(int threads) : threads_(threads) {
    guarded("ONNX Runtime cannot start", [] { environment(); });
  }

  std::unique_ptr<Graph> load(const Bundle& bundle, const std::string& name) const override {
    const auto path = bundle.file(name);
    return guarded("ONNX Runtime cannot load " + path.string(), [&]() -> std::unique_ptr<Graph> {
      Ort::SessionOptions options;
      options.SetIntraOpNumThreads(threads_);
      options.AddConfigEntry("session.intra_op.allow_spinning", "0");  // or decoding goes slower
      return std::make_unique<OnnxRuntimeGraph>(
          std::make_shared<Ort::Session>(environment(), path.c_str(), options));
    });
  }

  std::string description() const override {
    return on_cpu("ONNX Runtime " + Ort::GetVersionString(), threads_);
  }

 private:
  int threads_;
};

}  // namespace

std::unique_ptr<Backend> onnxruntime_backend(int threads) {
  return std::make_unique<OnnxRuntimeBackend>(threads);
}

}  // namespace ovml

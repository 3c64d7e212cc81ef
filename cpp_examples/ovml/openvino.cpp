// OpenVINO on the CPU, with the settings of the Python runtime's backend.
#include <mutex>
#include <openvino/op/constant.hpp>
#include <openvino/openvino.hpp>

#include "engine.h"

namespace ovml {

namespace {

// The one core of the process, which is never freed: see runtime/backends/openvino.py.
ov::Core& core() {
  static auto* const one = new ov::Core;
  return *one;
}

const std::vector<std::pair<Type, ov::element::Type>>& types() {
  static const std::vector<std::pair<Type, ov::element::Type>> pairs = {
      {Type::u8, ov::element::u8}, {Type::i64, ov::element::i64}, {Type::f32, ov::element::f32}};
  return pairs;
}

ov::element::Type type_of(Type type) {
  for (const auto& [ours, theirs] : types())
    if (ours == type) return theirs;
  return ov::element::dynamic;
}

Output copied(const ov::Tensor& tensor) {
  const auto type = tensor.get_element_type();
  Output made{tensor.get_shape(), {}, {}};
  const std::size_t count = tensor.get_size();
  if (type == ov::element::f32) made.floats.assign(tensor.data<float>(), tensor.data<float>() + count);
  else if (type == ov::element::i64)
    made.integers.assign(tensor.data<std::int64_t>(), tensor.data<std::int64_t>() + count);
  else if (type == ov::element::i32)
    made.integers.assign(tensor.data<std::int32_t>(), tensor.data<std::int32_t>() + count);
  else throw Error(Code::device, "The graph gives numbers of type " + type.to_string() + ".");
  return made;
}

class OpenVINOGraph : public Graph {
 public:
  OpenVINOGraph(std::shared_ptr<const ov::Model> model, ov::AnyMap settings)
      : model_(std::move(model)),
        settings_(std::move(settings)),
        compiled_(core().compile_model(model_, "CPU", settings_)) {}

  std::vector<Output> run(const std::vector<Input>& inputs,
                          const std::vector<std::string>& wanted) const override {
    return guarded("OpenVINO failed", [&] {
      ov::InferRequest request = take();
      std::vector<Output> outputs;
      for (const auto& input : inputs)
        request.set_tensor(input.name,
                           ov::Tensor(type_of(input.type), input.shape, const_cast<void*>(input.data)));
      request.infer();
      for (const auto& name : wanted) outputs.push_back(copied(request.get_tensor(name)));
      const std::lock_guard lock(mutex_);
      idle_.push_back(std::move(request));
      return outputs;
    });
  }

  std::unique_ptr<Graph> fix(const std::string& input, const Array<float>& value) const override {
    return guarded("OpenVINO cannot fix the input '" + input + "'", [&]() -> std::unique_ptr<Graph> {
      const auto model = model_->clone();
      for (const auto& parameter : ov::ParameterVector(model->get_parameters())) {
        if (parameter->output(0).get_names().count(input) == 0) continue;
        const auto constant = std::make_shared<ov::op::v0::Constant>(
            ov::element::f32, ov::Shape(value.shape), value.values.data());
        for (auto user : parameter->output(0).get_target_inputs())
          user.replace_source_output(constant->output(0));
        model->remove_parameter(parameter);
      }
      auto fixed = std::make_unique<OpenVINOGraph>(model, settings_);
      fixed->model_ = model_;  // not the one that holds the constant, besides the packed copy
      return fixed;
    });
  }

 private:
  ov::InferRequest take() const {  // a request serves one caller
    {
      const std::lock_guard lock(mutex_);
      if (!idle_.empty()) {
        ov::InferRequest request = std::move(idle_.back());
        idle_.pop_back();
        return request;
      }
    }
    return compiled_.create_infer_request();
  }

  std::shared_ptr<const ov::Model> model_;
  ov::AnyMap settings_;
  mutable ov::CompiledModel compiled_;
  mutable std::mutex mutex_;
  mutable std::vector<ov::InferRequest> idle_;
};

class OpenVINOBackend : public Backend {
 public:
  explicit OpenVINOBackend(int threads) : threads_(threads) {}

  std::unique_ptr<Graph> load(const Bundle& bundle, const std::string& name) const override {
    const auto path = bundle.file(name);
    return guarded("OpenVINO cannot load " + path.string(), [&]() -> std::unique_ptr<Graph> {
      const ov::AnyMap settings = {
          ov::hint::inference_precision(ov::element::f32),
          ov::hint::performance_mode(ov::hint::PerformanceMode::LATENCY),
          ov::inference_num_threads(threads_),
          // or it would round activations to int8 wherever weights are stored as int8
          ov::hint::dynamic_quantization_group_size(0)};
      return std::make_unique<OpenVINOGraph>(core().read_model(path.string()), settings);
    });
  }

  std::string description() const override {
    const std::string version = ov::get_openvino_version().buildNumber;
    return on_cpu("OpenVINO " + version.substr(0, version.find('-')), threads_);
  }

 private:
  int threads_;
};

}  // namespace

std::unique_ptr<Backend> openvino_backend(int threads) {
  return std::make_unique<OpenVINOBackend>(threads);
}

}  // namespace ovml

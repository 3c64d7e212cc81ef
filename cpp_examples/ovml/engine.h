// What the engines share, behind open_backend.
#pragma once

#include <new>

#include "backend.h"
#include "error.h"

namespace ovml {

/// On the CPU in float32, on so many threads. Each is there only where it was built in.
std::unique_ptr<Backend> openvino_backend(int threads);
std::unique_ptr<Backend> onnxruntime_backend(int threads);

/// Run something of an engine's, whose exceptions become an Error. `what`: what then did not work.
template <typename Action>
auto guarded(const std::string& what, const Action& action) {
  try {
    return action();
  } catch (const Error&) {
    throw;
  } catch (const std::bad_alloc&) {
    throw;
  } catch (const std::exception& error) {
    throw Error(Code::device, what + ": " + error.what());
  }
}

inline std::string on_cpu(const std::string& engine, int threads) {
  return engine + " on CPU, " + std::to_string(threads) + (threads == 1 ? " thread" : " threads") +
         ", fp32";
}

}  // namespace ovml

"""OpenVINO on the CPU, in float32 or in what the CPU multiplies faster.

OpenVINO's own package, not ONNX Runtime's plugin for it: that one offers no device on CPUs that
are not Intel's, and a label matrix can be made part of a graph only here.
"""

import importlib.util
from collections import Counter
from collections.abc import Collection, Mapping
from functools import cache
from pathlib import Path
from queue import Empty, LifoQueue
from typing import TYPE_CHECKING, Any

import numpy as np

from ovml_deploy.errors import DeviceError
from ovml_deploy.runtime.backends.base import Array, wanted
from ovml_deploy.runtime.backends.probe import require_survival
from ovml_deploy.runtime.bundle import Bundle
from ovml_deploy.runtime.telemetry import import_openvino
from ovml_deploy.runtime.threads import available_cpus, threads

if TYPE_CHECKING:
    import openvino  # noqa: TID251

#: OpenVINO's names of our precisions: as a hint, and in what it says a CPU can do.
_HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}
_CAPABILITIES = {"bf16": "BF16", "fp16": "FP16"}


def missing() -> str | None:
    """Return why OpenVINO cannot be used and what to do, None where it can."""
    if importlib.util.find_spec("openvino") is None:
        return "OpenVINO is not installed: pip install 'ovml-deploy[openvino]'"
    try:
        import_openvino()
    except ImportError as error:
        return (
            f"OpenVINO is installed and does not load ({error}): pip install --force-reinstall "
            "'ovml-deploy[openvino]'"
        )
    except RuntimeError as error:  # its telemetry, where the user has no home folder
        return f"OpenVINO is installed and does not load ({error})"
    return None


@cache
def _core() -> "openvino.Core":
    """The one core of the process, which is never freed.

    Each core gives its thread a stack for signals and, when it is freed, the one of before, which
    may be another core's that is gone: the next signal would end the process.
    """
    core: openvino.Core = import_openvino().Core()
    return core


def native_precisions() -> list[str]:
    """Return the precisions below float32 that this CPU has instructions for, best first."""
    able = _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return [name for name, capability in _CAPABILITIES.items() if capability in able]


class _Compiled:
    def __init__(self, model: "openvino.Model", settings: dict[str, Any]):
        self._model = model
        self._settings = settings
        self._compiled = _core().compile_model(model, "CPU", settings)
        self._outputs = [output.any_name for output in self._compiled.outputs]
        self._idle: LifoQueue[openvino.InferRequest] = LifoQueue()  # a request serves one caller

    def __call__(
        self, inputs: Mapping[str, Array], keep: Collection[str] = (), also: Collection[str] = ()
    ) -> dict[str, Array]:
        request = self._request()
        try:
            arrays = {name: np.ascontiguousarray(value) for name, value in inputs.items()}
            # the request's own arrays, which its next call overwrites
            values = request.infer(arrays, share_inputs=True, share_outputs=True)
            return {name: values[name].copy() for name in wanted(self._outputs, also)}
        except Exception as error:  # OpenVINO raises bare RuntimeError
            shapes = {name: list(value.shape) for name, value in inputs.items()}
            raise DeviceError(f"OpenVINO failed on inputs {shapes}: {_one_line(error)}") from error
        finally:
            self._idle.put(request)

    def _request(self) -> "openvino.InferRequest":
        try:
            return self._idle.get_nowait()
        except Empty:
            pass
        try:
            return self._compiled.create_infer_request()
        except Exception as error:
            raise DeviceError(f"OpenVINO cannot start another call: {error}") from error

    def fix(self, inputs: Mapping[str, np.ndarray]) -> "_Compiled":
        """Make inputs constants of the graph: OpenVINO packs them as it packs weights."""
        try:
            return self._fixed(inputs)
        except Exception as error:
            shapes = {name: list(value.shape) for name, value in inputs.items()}
            raise DeviceError(f"OpenVINO cannot fix inputs {shapes}: {error}") from error

    def _fixed(self, inputs: Mapping[str, np.ndarray]) -> "_Compiled":
        opset = import_openvino().opset13
        model = self._model.clone()
        for name, value in inputs.items():
            (parameter,) = [p for p in model.get_parameters() if p.output(0).any_name == name]
            constant = opset.constant(value)  # a copy: it takes no read-only memory
            for user in parameter.output(0).get_target_inputs():
                user.replace_source_output(constant.output(0))
            model.remove_parameter(parameter)
        fixed = _Compiled(model, self._settings)
        fixed._model = self._model  # not the one that holds the constant, besides the packed copy
        return fixed

    def placement(self) -> dict[str, int]:
        """Nodes by the type they compute in, after fusion."""
        kinds = (node.get_rt_info() for node in self._compiled.get_runtime_model().get_ops())
        computing = (kind for kind in kinds if kind["layerType"].astype(str) not in _NO_WORK)
        return dict(
            Counter(f"OpenVINO {kind['runtimePrecision'].astype(str)}" for kind in computing)
        )


_NO_WORK = {"Input", "Output", "Const", "Reorder"}


class OpenVINO:
    """A bundle's graphs on the CPU through OpenVINO, on as many threads as the quota allows.

    ``precision``: of the encoder: that of its ``graph``, or, where this is float32, one that the
    CPU has instructions for (an emulated one would be slow). Raises DeviceError.
    """

    device = "openvino"

    def __init__(self, precision: str = "fp32", graph: str = "fp32") -> None:
        if (reason := missing()) is not None:
            raise DeviceError(f"The device 'openvino' cannot be used: {reason}.")
        able = ["fp32", *native_precisions()] if graph == "fp32" else [graph]
        if precision not in able:
            raise DeviceError(
                f"This CPU does not compute in {precision}. Choose --precision {' or '.join(able)}."
            )
        self.precision = precision
        # a graph of lower precision says itself where, and all else in it is to stay float32
        self._hint = _HINTS[precision] if graph == "fp32" else _HINTS["fp32"]
        self._threads = available_cpus()
        self.version = import_openvino().get_version().split("-")[0]
        self.description = (
            f"OpenVINO {self.version} on CPU, {threads(self._threads)}, {self.precision}"
        )

    def load(self, bundle: Bundle, name: str, exact: bool = False, callers: int = 1) -> _Compiled:
        """Load a graph. Raises DeviceError where OpenVINO refuses it, BundleError for its file."""
        path = bundle.file(name)
        if not exact and self.precision != "fp32":
            require_survival(bundle, self.device, self.precision, self.version)
        return self.compile(path, exact, callers)

    def compile(self, path: Path, exact: bool = False, callers: int = 1) -> _Compiled:
        """Compile an ONNX file, come what may: see :mod:`ovml_deploy.runtime.backends.probe`."""
        settings = {
            "INFERENCE_PRECISION_HINT": _HINTS["fp32"] if exact else self._hint,
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": callers,
            "INFERENCE_NUM_THREADS": self._threads,
            # or it would round activations to int8 wherever weights are stored as int8
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
        }
        try:
            model = _core().read_model(path)
            if settings["INFERENCE_PRECISION_HINT"] != _HINTS["fp32"]:
                expand_int8_weights(model)
            return _Compiled(model, settings)
        except Exception as error:
            raise DeviceError(f"OpenVINO cannot load {path}: {_one_line(error)}") from error


def _one_line(error: Exception) -> str:
    """Return OpenVINO's message, which names its source files on lines of their own, as one line."""
    return " ".join(str(error).split())


def expand_int8_weights(model: "openvino.Model") -> int:
    """Replace weights stored as int8 steps times a scale by float32 constants, in place.

    Returns how many were replaced. Under a bf16 hint OpenVINO 2026.4 keeps such weights as int8 and divides
    by zero (SIGFPE) in its kernel for them, on an Intel Xeon with AMX at least.
    """
    openvino = import_openvino()
    replaced = 0
    for node in model.get_ops():
        if node.get_type_name() != "Multiply":
            continue
        steps, scale = (node.input_value(i).get_node() for i in (0, 1))
        if steps.get_type_name() != "Convert" or scale.get_type_name() != "Constant":
            continue
        stored = steps.input_value(0).get_node()
        if stored.get_type_name() != "Constant" or stored.get_element_type() != openvino.Type.i8:
            continue
        weights = openvino.opset13.constant(stored.data.astype(np.float32) * scale.data)
        for user in node.output(0).get_target_inputs():
            user.replace_source_output(weights.output(0))
        replaced += 1
    return replaced

"""ONNX Runtime: on the CPU, and on NVIDIA GPUs through its CUDA and TensorRT providers."""

import ctypes
import importlib.util
import sys
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ovml_deploy.errors import BundleError, DeviceError
from ovml_deploy.runtime.backends import tensorrt_module
from ovml_deploy.runtime.backends.base import Array, Graph, wanted
from ovml_deploy.runtime.backends.recorded import RecordedEncoder
from ovml_deploy.runtime.bundle import ENCODER, Bundle
from ovml_deploy.runtime.gpus import find_driver, no_gpu
from ovml_deploy.runtime.plans import ENTERPRISE
from ovml_deploy.runtime.telemetry import import_onnxruntime
from ovml_deploy.runtime.threads import available_cpus, threads
from ovml_deploy.user_folders import cache_file, go_on_without_cache

if TYPE_CHECKING:
    import onnxruntime  # noqa: TID251

_CPU = "CPUExecutionProvider"
#: What must not run on the CPU where a GPU was asked for; the work on shapes may.
_HEAVY = {"MatMul", "Gemm", "Conv", "FusedMatMul", "FusedConv", "Attention", "MultiHeadAttention"}


@dataclass(frozen=True)
class Provider:
    """One of ONNX Runtime's execution providers, and how we use it."""

    name: str
    memory: str  #: "cpu" or "cuda": where its arrays lie
    options: Mapping[str, str] = field(default_factory=dict)
    caches: bool = False  #: whether it builds engines worth keeping


_CUDA = Provider("CUDAExecutionProvider", "cuda", {"use_tf32": "0"})
PROVIDERS = {
    "cpu": Provider(_CPU, "cpu"),
    "cuda": _CUDA,
    "tensorrt": Provider("TensorrtExecutionProvider", "cuda", caches=True),
}


def missing(device: str) -> str | None:
    """Return why a device cannot be used and what to do, None where it can."""
    extra = "cpu" if device == "cpu" else "cuda"
    if importlib.util.find_spec("onnxruntime") is None:
        return f"ONNX Runtime is not installed: pip install 'ovml-deploy[{extra}]'"
    try:
        providers = import_onnxruntime().get_available_providers()
    except (ImportError, AttributeError) as error:  # what is left where one package removed both
        return (
            f"ONNX Runtime is installed and does not load ({error}): pip uninstall onnxruntime "
            f"onnxruntime-gpu, then pip install 'ovml-deploy[{extra}]'"
        )
    provider = PROVIDERS[device].name
    if provider not in providers:
        return (
            f"the installed ONNX Runtime has no {provider}: pip uninstall onnxruntime, then pip "
            "install 'ovml-deploy[cuda]' (the two exclude each other)"
        )
    if device == "tensorrt" and importlib.util.find_spec("tensorrt") is None:
        return "TensorRT is not installed: pip install 'ovml-deploy[tensorrt]'"
    return None if device == "cpu" else no_gpu() or _old_driver()


def _old_driver() -> str | None:
    """Return why the driver is too old for the CUDA that ONNX Runtime was built for."""
    onnxruntime = import_onnxruntime()
    driver, built_for = find_driver(), str(getattr(onnxruntime, "cuda_version", ""))
    major = built_for.partition(".")[0]
    if driver is None or not major.isdecimal() or driver.cuda[0] >= int(major):
        return None
    return (
        f"the NVIDIA driver knows CUDA up to {'.'.join(map(str, driver.cuda))}, and ONNX Runtime "
        f"{onnxruntime.__version__} is built for CUDA {built_for}: update the driver"
    )


def _why_not_started(provider: str) -> str:
    """Return what the system's loader says of a provider's library, such as which one it lacks."""
    folder = Path(import_onnxruntime().__file__).parent / "capi"
    kind = provider.removesuffix("ExecutionProvider").lower()
    try:
        for name in ("shared", kind):
            ctypes.CDLL(str(folder / f"libonnxruntime_providers_{name}.so"), ctypes.RTLD_GLOBAL)
    except OSError as error:
        return f" ({error})"
    return ""


class _OnDevice:
    """An output that stays where it was computed."""

    def __init__(self, value: "onnxruntime.OrtValue") -> None:
        self.value = value

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.value.shape())

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self.value.numpy(), dtype=dtype)


class _Session:
    def __init__(
        self,
        session: "onnxruntime.InferenceSession",
        path: Path,
        memory: str,
        fixed: Mapping[str, "onnxruntime.OrtValue"] | None = None,
    ) -> None:
        self._session = session
        self._path = path
        self._memory = memory
        self._fixed = dict(fixed or {})
        self._outputs = [output.name for output in session.get_outputs()]

    def __call__(
        self, inputs: Mapping[str, Array], keep: Collection[str] = (), also: Collection[str] = ()
    ) -> dict[str, Array]:
        try:
            binding = self._session.io_binding()
            for name, value in inputs.items():
                if isinstance(value, _OnDevice):
                    binding.bind_ortvalue_input(name, value.value)
                else:
                    binding.bind_cpu_input(name, np.ascontiguousarray(value))
            for name, fixed in self._fixed.items():
                binding.bind_ortvalue_input(name, fixed)
            names = wanted(self._outputs, also)
            for name in names:
                binding.bind_output(name, self._memory if name in keep else "cpu")
            self._session.run_with_iobinding(binding)
            values = binding.get_outputs()
        except Exception as error:  # ONNX Runtime has a dozen exception types without a base
            shapes = {name: list(value.shape) for name, value in inputs.items()}
            raise DeviceError(
                f"ONNX Runtime failed to run {self._path} on inputs {shapes}: {error}"
            ) from error
        return {
            name: _OnDevice(value) if name in keep else value.numpy()
            for name, value in zip(names, values, strict=True)
        }

    def fix(self, inputs: Mapping[str, np.ndarray]) -> "_Session":
        """Copy inputs to the device; on the CPU they are used where they lie."""
        ort_value = import_onnxruntime().OrtValue
        try:
            placed = {
                name: ort_value.ortvalue_from_numpy(np.ascontiguousarray(value), self._memory)
                for name, value in inputs.items()
            }
        except Exception as error:  # such as too little memory on the device
            shapes = {name: list(value.shape) for name, value in inputs.items()}
            raise DeviceError(
                f"ONNX Runtime cannot keep inputs {shapes} of {self._path} on the device: {error}"
            ) from error
        return _Session(self._session, self._path, self._memory, {**self._fixed, **placed})

    def placement(self) -> dict[str, int]:
        """Nodes by provider, after fusion."""
        nodes: Counter[str] = Counter()
        for part in self._session.get_provider_graph_assignment_info():
            nodes[part.ep_name] += len(part.get_nodes())
        return dict(nodes)

    def heavy_on_cpu(self) -> int:
        """How many of the nodes that do the work run on the CPU."""
        return sum(
            node.op_type in _HEAVY
            for part in self._session.get_provider_graph_assignment_info()
            if part.ep_name == _CPU
            for node in part.get_nodes()
        )


class OnnxRuntime:
    """A bundle's graphs on one of ONNX Runtime's providers, in the precision of the graphs.

    ``cuda_graphs``: batch sizes for which the encoder records a CUDA graph (device "cuda" only).
    Raises DeviceError where the provider or its device is absent.
    """

    def __init__(
        self, device: str, precision: str = "fp32", cuda_graphs: Sequence[int] = ()
    ) -> None:
        if (reason := missing(device)) is not None:
            raise DeviceError(f"The device {device!r} cannot be used: {reason}.")
        onnxruntime = import_onnxruntime()
        # ONNX Runtime writes to the terminal by itself; errors reach us as exceptions anyway.
        onnxruntime.set_default_logger_severity(3)
        self.device = device
        self.precision = precision
        self._provider = PROVIDERS[device]
        self._cuda_graphs = tuple(cuda_graphs)
        self._threads = available_cpus()
        where = f"CPU, {threads(self._threads)}"
        if self._provider.memory == "cuda":
            with redirect_stdout(sys.stderr):  # it prints what it does not find
                onnxruntime.preload_dlls()  # CUDA's libraries may have come with pip
            if device == "tensorrt":  # and TensorRT's, which its package loads
                tensorrt_module.load(tensorrt_module.FLAVOURS[ENTERPRISE])
            where = "GPU through CUDA" if device == "cuda" else "GPU through TensorRT"
        self.description = f"ONNX Runtime {onnxruntime.__version__} on {where}, {precision}"

    def load(self, bundle: Bundle, name: str, exact: bool = False, callers: int = 1) -> Graph:
        """Load a graph. Raises BundleError where ONNX Runtime refuses it, else DeviceError."""
        # TensorRT rounds products of float32 to TF32, and there is no provider option against it.
        provider = _CUDA if exact and self._provider.caches else self._provider
        session = self._session(bundle.file(name), provider, callers=callers)
        if provider.name not in session.get_providers():  # it falls back with a warning only
            extra = "cuda" if provider is _CUDA else "cuda,tensorrt"
            raise DeviceError(
                f"ONNX Runtime could not start {provider.name}{_why_not_started(provider.name)}. Install "
                f"its libraries: pip install 'ovml-deploy[{extra}]'; or choose another --device."
            )
        graph = _Session(session, bundle.inside(name), provider.memory)
        if provider.name != _CPU and (heavy := graph.heavy_on_cpu()):
            raise DeviceError(
                f"{provider.name} leaves {heavy} of the products of {name} to the CPU, so it is not "
                "used. Export the bundle in another --precision, or choose another --device."
            )
        return self.record(graph, bundle, self._cuda_graphs) if name == ENCODER else graph

    def record(self, encoder: Graph, bundle: Bundle, sizes: Sequence[int]) -> Graph:
        """Return the encoder with a recording for each batch size; itself where there is none."""
        if not sizes:
            return encoder
        path = bundle.inside(ENCODER)
        options = self._provider.options
        if self._provider is _CUDA:
            options = {**options, "enable_cuda_graph": "1"}
        provider = replace(self._provider, options=options)
        sessions = {size: self._session(path, provider, size) for size in sizes}
        return RecordedEncoder(sessions, encoder, path, provider.memory)

    def _session(
        self, path: Path, provider: Provider, batch: int | None = None, callers: int = 1
    ) -> "onnxruntime.InferenceSession":
        onnxruntime = import_onnxruntime()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = max(1, self._threads // callers)
        # threads that spin between calls take the processor from decoding: docs/speed.md
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        if batch is not None:  # then no shape is left to compute, which happens on the CPU
            options.add_free_dimension_override_by_name("batch", batch)
        chosen = dict(provider.options)
        if provider.caches:
            chosen |= _engine_cache()
        providers: list[Any] = [(provider.name, chosen)]
        if provider.caches:
            providers.append((_CUDA.name, dict(_CUDA.options)))
        if provider.name != _CPU:
            providers.append(_CPU)  # sums over shapes
        try:
            return onnxruntime.InferenceSession(path, options, providers, enable_fallback=0)
        except Exception as error:
            kind = BundleError if provider.name == _CPU else DeviceError
            raise kind(f"ONNX Runtime cannot load {path} on {provider.name}: {error}") from error


def _engine_cache() -> dict[str, str]:
    """Return TensorRT's options that keep its engines in the user's cache; none without a cache."""
    file = cache_file("tensorrt", "engines")
    if file is None:
        return {}
    folder = str(file.parent)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)  # TensorRT makes no parents
    except OSError as error:
        go_on_without_cache(error, file)
        return {}
    return {
        "trt_engine_cache_enable": "1",
        "trt_timing_cache_enable": "1",
        "trt_engine_cache_path": folder,
        "trt_timing_cache_path": folder,
    }

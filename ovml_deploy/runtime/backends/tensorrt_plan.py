"""TensorRT engines that were built ahead of time (``python -m export.tensorrt``), on an NVIDIA GPU."""

import math
import weakref
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, Protocol

import numpy as np

from ovml_deploy.errors import DeviceError
from ovml_deploy.runtime.backends import tensorrt_module as tensorrt
from ovml_deploy.runtime.backends.base import Array, wanted
from ovml_deploy.runtime.bundle import Bundle
from ovml_deploy.runtime.gpus import find_driver
from ovml_deploy.runtime.plans import Plan, PlanGraph


def _cuda(result: tuple[Any, ...]) -> Any:
    """Return what a call of the CUDA runtime gave. Raises DeviceError where it failed."""
    error, *values = result
    if int(error) != 0:
        raise DeviceError(
            f"CUDA failed: {error.name}. Where memory is short, build the plan with a smaller --batch or "
            "--labels; otherwise see 'ovml-deploy doctor'."
        )
    return values[0] if values else None


class DeviceArray:
    """An array in the GPU's memory, which is freed with the last array that looks at it."""

    def __init__(
        self,
        cuda: Any,
        shape: tuple[int, ...],
        dtype: np.dtype,
        part: "tuple[DeviceArray, int] | None" = None,
    ) -> None:
        """Allocate memory, or look at a ``part``: another array's, from a byte on."""
        self.shape = shape
        self.dtype = dtype
        self.nbytes = math.prod(shape) * dtype.itemsize
        self._api = cuda
        self._whole = part and part[0]
        if part is None:
            self.address = int(_cuda(cuda.cudaMalloc(max(self.nbytes, 1))))
            weakref.finalize(self, cuda.cudaFree, self.address)
        else:
            self.address = part[0].address + part[1]

    def __getitem__(self, rows: slice) -> "DeviceArray":
        start, stop, _ = rows.indices(self.shape[0])
        shape = (stop - start, *self.shape[1:])
        row = math.prod(self.shape[1:]) * self.dtype.itemsize
        return DeviceArray(self._api, shape, self.dtype, (self, start * row))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        host = np.empty(self.shape, self.dtype)
        kind = self._api.cudaMemcpyKind.cudaMemcpyDeviceToHost
        _cuda(self._api.cudaMemcpy(host.ctypes.data, self.address, self.nbytes, kind))
        return host if dtype is None else host.astype(dtype)


class _Executor(Protocol):
    """Runs a graph on arrays that are no larger than its profile."""

    def __call__(
        self, inputs: Mapping[str, Array], keep: Collection[str] = (), also: Collection[str] = ()
    ) -> dict[str, Array]: ...

    def put(self, array: np.ndarray) -> Array:
        """Return the array where the graph wants it."""
        ...

    def placement(self) -> dict[str, int]:
        """See Graph."""
        ...


class InParts:
    """A graph for inputs of any size: those beyond the profile are split, and the outputs joined.

    It may be, for a free dimension leads every input that has it, and no output depends on more
    than its own rows (and columns): labels are scored one by one. Joined outputs are numpy arrays,
    also those that were to be kept.
    """

    def __init__(
        self, executor: _Executor, graph: PlanGraph, fixed: Mapping[str, Array] | None = None
    ) -> None:
        """``fixed``: inputs that calls leave out."""
        self._executor = executor
        self._graph = graph
        self._fixed = dict(fixed or {})

    def __call__(
        self, inputs: Mapping[str, Array], keep: Collection[str] = (), also: Collection[str] = ()
    ) -> dict[str, Array]:
        """Return the outputs of inputs of any size."""
        given = {**inputs, **self._fixed}
        for dimension, (_, _, most) in self._graph.profile.items():
            split = [name for name in given if self._graph.inputs[name].shape[0] == dimension]
            if split and given[split[0]].shape[0] > most:
                return self._in_parts(given, dimension, split, most, also)
        return self._executor(given, keep, also)

    def _in_parts(
        self,
        inputs: Mapping[str, Any],
        dimension: str,
        split: list[str],
        most: int,
        also: Collection[str],
    ) -> dict[str, Array]:
        whole = InParts(self._executor, self._graph)
        starts = range(0, inputs[split[0]].shape[0], most)
        parts = [
            whole(
                {**inputs, **{name: inputs[name][start : start + most] for name in split}},
                also=also,
            )
            for start in starts
        ]
        return {
            name: np.concatenate(
                [np.asarray(part[name]) for part in parts],
                axis=self._graph.outputs[name].shape.index(dimension),
            )
            for name in wanted(self._graph.outputs, also)
        }

    def fix(self, inputs: Mapping[str, np.ndarray]) -> "InParts":
        """Copy inputs to the device once."""
        put = {name: self._executor.put(value) for name, value in inputs.items()}
        return InParts(self._executor, self._graph, {**self._fixed, **put})

    def placement(self) -> dict[str, int]:
        """Layers by the precision of their inputs."""
        return self._executor.placement()


@dataclass(frozen=True)
class _Libraries:
    """TensorRT, what it says, and the CUDA runtime."""

    trt: Any
    messages: tensorrt.Messages
    cuda: Any


class _Engine:
    """A loaded engine with one execution context and one stream; calls take turns."""

    def __init__(self, libraries: _Libraries, engine: Any, context: Any, graph: PlanGraph) -> None:
        self._libraries = libraries
        self._cuda = libraries.cuda
        self._engine = engine
        self._context = context
        self._graph = graph
        self._stream = _cuda(self._cuda.cudaStreamCreate())
        self._lock = Lock()

    def __call__(
        self, inputs: Mapping[str, Array], keep: Collection[str] = (), also: Collection[str] = ()
    ) -> dict[str, Array]:
        # host arrays are held until the stream has read them
        hosts = {name: self._checked(name, value) for name, value in inputs.items()}
        with self._lock:
            given = {name: self._copied(value) for name, value in hosts.items()}
            for name, value in given.items():
                self._require(self._context.set_input_shape(name, value.shape), given)
                self._require(self._context.set_tensor_address(name, value.address), given)
            outputs = {}
            for name, tensor in self._graph.outputs.items():
                shape = tuple(self._context.get_tensor_shape(name))
                outputs[name] = DeviceArray(self._cuda, shape, np.dtype(tensor.dtype))
                self._require(self._context.set_tensor_address(name, outputs[name].address), given)
            self._require(self._context.execute_async_v3(int(self._stream)), given)
            _cuda(self._cuda.cudaStreamSynchronize(self._stream))
        return {
            name: outputs[name] if name in keep else np.asarray(outputs[name])
            for name in wanted(outputs, also)
        }

    def put(self, array: np.ndarray) -> DeviceArray:
        host = np.ascontiguousarray(array)
        with self._lock:
            copied = self._copied(host)
            _cuda(self._cuda.cudaStreamSynchronize(self._stream))
        return copied

    def placement(self) -> dict[str, int]:
        layers = tensorrt.inspect(self._libraries.trt, self._engine)
        return dict(Counter(f"TensorRT {layer.precision}" for layer in layers if layer.precision))

    def _checked(self, name: str, value: Array) -> DeviceArray | np.ndarray:
        array = value if isinstance(value, DeviceArray) else np.ascontiguousarray(value)
        if str(array.dtype) != self._graph.inputs[name].dtype:
            raise DeviceError(
                f"The input {name!r} of {self._graph.file} takes {self._graph.inputs[name].dtype}, not "
                f"{array.dtype}."
            )
        return array

    def _copied(self, array: DeviceArray | np.ndarray) -> DeviceArray:
        """Begin to copy an array to the device, on the stream that will read it."""
        if isinstance(array, DeviceArray):
            return array
        copied = DeviceArray(self._cuda, array.shape, array.dtype)
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        source = array.ctypes.data
        _cuda(self._cuda.cudaMemcpyAsync(copied.address, source, array.nbytes, kind, self._stream))
        return copied

    def _require(self, done: bool, inputs: Mapping[str, DeviceArray]) -> None:
        if not done:
            shapes = {name: list(value.shape) for name, value in inputs.items()}
            raise DeviceError(
                f"TensorRT failed to run {self._graph.file} on inputs {shapes}: "
                f"{self._libraries.messages.summary()}"
            )


class TensorRTPlan:
    """A bundle's graphs from a plan on the first GPU.

    Raises BundleError for a plan that cannot be read, MissingDependencyError where its flavour of
    TensorRT is not installed, DeviceError for another version, no GPU, or another one.
    """

    def __init__(self, path: Path) -> None:
        """``path``: the encoder's ``.plan`` file."""
        self._plan = plan = Plan.read(path)
        flavour = tensorrt.choose(plan.flavour)
        trt = tensorrt.load(flavour)
        cuda = tensorrt.load_cuda(flavour)
        plan.check_version(str(trt.__version__))
        driver = find_driver()
        if driver is None or not driver.gpus:
            raise DeviceError(
                f"{path} needs an NVIDIA GPU ({', '.join(plan.targets)}), and "
                f"{'no NVIDIA driver answers' if driver is None else 'the driver finds none'} on this "
                "machine. Choose another --device, such as cpu."
            )
        gpu = driver.gpus[0]
        plan.check_device(gpu.name, gpu.compute_capability)
        self.device = str(path)
        self.precision = plan.precision
        self.description = (
            f"{flavour.title} {plan.tensorrt} on {gpu.name}, {path}, {self.precision}"
        )
        messages = tensorrt.Messages()
        self._libraries = _Libraries(trt, messages, cuda)
        self._runtime = trt.Runtime(tensorrt.logger(trt, messages))

    def load(self, bundle: Bundle, name: str, exact: bool = False, callers: int = 1) -> InParts:
        """Load a graph's engine.

        Raises BundleError for a plan of another bundle, or a changed one; DeviceError where
        TensorRT refuses it.
        """
        self._plan.check_bundle(bundle)
        graph = self._plan.graphs[name]
        if exact and graph.precision != "fp32":
            raise DeviceError(
                f"{self._plan.path} holds {name} in {graph.precision} only, not in fp32."
            )
        engine = self._runtime.deserialize_cuda_engine(self._plan.file(name).read_bytes())
        context = None if engine is None else engine.create_execution_context()
        if context is None:
            raise DeviceError(
                f"{self.description} does not load {graph.file}: {self._libraries.messages.summary()}"
            )
        return InParts(_Engine(self._libraries, engine, context, graph), graph)

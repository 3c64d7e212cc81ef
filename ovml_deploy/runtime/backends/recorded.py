"""An encoder with a CUDA graph for each of a few batch sizes: no kernel is launched one by one.

ONNX Runtime records a graph for one shape at fixed addresses, so every batch size has a session of
its own (with the weights once more), and one input and output that are used again and again. Such a
session may be run by one thread only, the one that recorded.
"""

from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ovml_deploy.errors import DeviceError
from ovml_deploy.runtime.backends.base import Array, Graph
from ovml_deploy.runtime.telemetry import import_onnxruntime

if TYPE_CHECKING:
    import onnxruntime  # noqa: TID251

_RUNS_BEFORE_REPLAY = 3  # the provider records in one of the first ones


class _Recording:
    """A session of one batch size with its buffers, in ``memory`` ("cuda")."""

    def __init__(self, session: "onnxruntime.InferenceSession", memory: str) -> None:
        ort_value = import_onnxruntime().OrtValue
        (pixels,) = session.get_inputs()
        features = next(some for some in session.get_outputs() if some.name == "features")
        self._session = session
        self._pixels = ort_value.ortvalue_from_numpy(np.zeros(pixels.shape, np.uint8), memory)
        self._features = ort_value.ortvalue_from_numpy(np.zeros(features.shape, np.float32), memory)
        self._binding = session.io_binding()
        self._binding.bind_ortvalue_input(pixels.name, self._pixels)
        self._binding.bind_ortvalue_output(features.name, self._features)
        for _ in range(_RUNS_BEFORE_REPLAY):
            session.run_with_iobinding(self._binding)

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        self._pixels.update_inplace(pixels)
        self._session.run_with_iobinding(self._binding)
        return self._features.numpy().copy()  # on a CPU it would be the buffer itself


class RecordedEncoder:
    """Runs each batch at the next recorded size, filled up with black images; a longer one in parts.

    ``plain``: the same graph without a recording. Callers take turns, on a thread of its own.
    """

    def __init__(
        self,
        sessions: Mapping[int, "onnxruntime.InferenceSession"],
        plain: Graph,
        path: Path,
        memory: str,
    ) -> None:
        self._plain = plain
        self._path = path
        self._thread = ThreadPoolExecutor(1, "cuda-graphs")
        try:
            self._recordings = {
                size: self._thread.submit(_Recording, sessions[size], memory).result()
                for size in sorted(sessions)
            }
        except Exception as error:  # ONNX Runtime has a dozen exception types without a base
            raise DeviceError(
                f"ONNX Runtime cannot record CUDA graphs of {path} for batches of {sorted(sessions)}: "
                f"{error}"
            ) from error

    def __call__(
        self, inputs: Mapping[str, Array], keep: Collection[str] = (), also: Collection[str] = ()
    ) -> dict[str, Array]:
        """Return ``features``; they are copied off the device, for its buffer is used again.

        With other outputs, the graph is run without a recording.
        """
        if also:
            return self._plain(inputs, keep, also)
        pixels = np.ascontiguousarray(inputs["pixels"])
        try:
            return {"features": self._thread.submit(self._run, pixels).result()}
        except Exception as error:  # ONNX Runtime has a dozen exception types without a base
            raise DeviceError(
                f"ONNX Runtime failed to run {self._path} on pixels {list(pixels.shape)}: {error}"
            ) from error

    def _run(self, pixels: np.ndarray) -> np.ndarray:
        parts = []
        for start, stop, size in in_buckets(len(pixels), [*self._recordings]):
            batch = np.zeros((size, *pixels.shape[1:]), dtype=np.uint8)
            batch[: stop - start] = pixels[start:stop]
            parts.append(self._recordings[size](batch)[: stop - start])
        return np.concatenate(parts)

    def fix(self, inputs: Mapping[str, np.ndarray]) -> Graph:
        """Fix an input of the plain graph."""
        return self._plain.fix(inputs)

    def placement(self) -> dict[str, int]:
        """Nodes by provider, of the plain graph."""
        return self._plain.placement()


def in_buckets(count: int, sizes: list[int]) -> Iterator[tuple[int, int, int]]:
    """Yield (start, stop, size) of the parts in which ``count`` items fit the ascending ``sizes``."""
    start = 0
    while start < count:
        left = count - start
        size = next((size for size in sizes if size >= left), sizes[-1])
        yield start, start + min(size, left), size
        start += size

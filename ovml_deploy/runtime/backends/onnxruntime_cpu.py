"""ONNX Runtime on the CPU, in float32: the backend that is always there."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime

from ovml_deploy.errors import BundleError, DeviceError
from ovml_deploy.runtime.threads import available_cpus

# ONNX Runtime writes to the terminal by itself; errors reach us as exceptions anyway.
onnxruntime.set_default_logger_severity(3)


class _Session:
    def __init__(self, session: onnxruntime.InferenceSession, path: Path) -> None:
        self._session = session
        self._path = path
        self._outputs = [output.name for output in session.get_outputs()]

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        try:
            values = self._session.run(self._outputs, dict(inputs))
        except Exception as error:  # ONNX Runtime has a dozen exception types without a base
            shapes = {name: list(value.shape) for name, value in inputs.items()}
            raise DeviceError(
                f"ONNX Runtime failed to run {self._path} on inputs {shapes}: {error}"
            ) from error
        return dict(zip(self._outputs, values, strict=True))


class OnnxRuntimeCPU:
    """``CPUExecutionProvider`` with as many threads as the CPU quota allows."""

    device = "cpu"
    tolerance = 1e-4

    def __init__(self) -> None:
        self.threads = available_cpus()
        self.description = f"ONNX Runtime {onnxruntime.__version__} on CPU, {self.threads} threads"

    def load(self, path: Path) -> _Session:
        """Load an ONNX file. Raises BundleError where ONNX Runtime refuses it."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        try:
            session = onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])
        except Exception as error:
            raise BundleError(f"ONNX Runtime cannot load {path}: {error}") from error
        return _Session(session, path)

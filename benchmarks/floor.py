"""The least time that a graph can take here: its arithmetic, and the reading of its weights."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from ovml_deploy.runtime.telemetry import import_openvino

openvino = import_openvino()
ops = openvino.opset13

_SIZES = ((1576, 768, 768), (1576, 768, 3072), (2048, 2048, 2048))  # [rows, inner, columns]
_COPIED = 256 << 20  # bytes, more than any cache
_TRIES = 15


@dataclass(frozen=True)
class Floor:
    """``flops`` of a batch, at ``rate`` a second; ``weights`` bytes, at ``copied`` a second."""

    flops: float
    rate: float
    weights: float
    copied: float

    @property
    def seconds(self) -> float:
        """The larger of the two times."""
        return max(self.flops / self.rate, self.weights / self.copied)


def floor(graph: Path, pixels: tuple[int, ...], precision: str) -> Floor:
    """Return what an encoder's ONNX file must cost for pixels of such a shape."""
    flops, weights = work(graph, pixels)
    size = 2 if precision in ("bf16", "fp16") else 4
    return Floor(flops, matrix_rate(precision), weights * size, copy_rate())


def work(graph: Path, pixels: tuple[int, ...]) -> tuple[float, float]:
    """Return the operations in matrix products and convolutions, and the number of weights."""
    model = openvino.Core().read_model(graph)
    model.reshape({"pixels": list(pixels)})
    flops = weights = 0.0
    for node in model.get_ordered_ops():
        kind = node.get_type_name()
        if kind == "Constant" and node.output(0).get_element_type().is_real():
            weights += float(np.prod(list(node.output(0).shape)))
        elif kind in ("MatMul", "Convolution", "GroupConvolution"):
            out = float(np.prod(list(node.output(0).shape)))
            shape = list(node.input(0 if kind == "MatMul" else 1).get_shape())
            if kind == "MatMul":
                inner = shape[-2 if node.get_attributes()["transpose_a"] else -1]
            else:  # [out, in, height, width], behind the groups where there are some
                inner = int(np.prod(shape[-3:]))
            flops += 2 * out * inner
    return flops, weights


def matrix_rate(precision: str) -> float:
    """Return the operations a second of large matrix products, at their best, as OpenVINO has them."""
    hint = {"bf16": "bf16", "fp16": "f16"}.get(precision, "f32")
    best = 0.0
    for rows, inner, columns in _SIZES:
        left = ops.parameter([rows, inner], np.float32)
        right = np.random.default_rng(0).normal(size=(inner, columns)).astype(np.float32)
        model = openvino.Model([ops.matmul(left, ops.constant(right), False, False)], [left])
        compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": hint})
        given = np.ones((rows, inner), np.float32)
        request = compiled.create_infer_request()
        taken = _quickest(partial(request.infer, [given]))
        best = max(best, 2.0 * rows * inner * columns / taken)
    return best


def copy_rate() -> float:
    """Return the bytes a second at which memory is copied."""
    source, target = np.ones(_COPIED // 8), np.empty(_COPIED // 8)
    return source.nbytes / _quickest(lambda: np.copyto(target, source))


def _quickest(call: Callable[[], object]) -> float:
    times = []
    for _ in range(_TRIES):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)

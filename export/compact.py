"""Stores each weight in the smallest type that holds it exactly. Nothing is ever rounded here.

A float32 matrix whose values all fit float16, or are int8 steps of one scale per row, is written
in that type and widened by Cast (and Mul) in the graph. Runtimes fold this away when they load.
``ovml_deploy.models.rounding`` makes such weights; any other weight stays float32.
"""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

_SMALLEST = 4096  # elements; below, the extra nodes are not worth it
_STEPS = range(127, 63, -1)  # a row's largest step; below 64 its scale could have been halved
_PROBED_ROWS = 8


def store_compactly(model: onnx.ModelProto) -> None:
    """Rewrite large float32 initializers of ``model`` in place, without changing any value."""
    graph = model.graph
    widening: list[onnx.NodeProto] = []
    for index, tensor in enumerate(list(graph.initializer)):
        if tensor.data_type != TensorProto.FLOAT or np.prod(tensor.dims) < _SMALLEST:
            continue
        weight, name = numpy_helper.to_array(tensor), tensor.name
        if not np.isfinite(weight).all():
            continue  # an attention mask
        if (scaled := as_int8(weight)) is not None:
            steps, scales = scaled
            stored, scale, cast = f"{name}::int8", f"{name}::scale", f"{name}::steps"
            graph.initializer[index].CopyFrom(numpy_helper.from_array(steps, stored))
            graph.initializer.append(numpy_helper.from_array(scales, scale))
            widening += [
                helper.make_node("Cast", [stored], [cast], to=TensorProto.FLOAT),
                helper.make_node("Mul", [cast, scale], [name]),
            ]
        elif (half := as_float16(weight)) is not None:
            stored = f"{name}::float16"
            graph.initializer[index].CopyFrom(numpy_helper.from_array(half, stored))
            widening.append(helper.make_node("Cast", [stored], [name], to=TensorProto.FLOAT))
    # widening must stand before its users: ONNX lists nodes in order of evaluation
    nodes = [*widening, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def as_float16(weight: np.ndarray) -> np.ndarray | None:
    """Return ``weight`` as float16 if that loses nothing, else None."""
    with np.errstate(over="ignore"):
        half = weight.astype(np.float16)
    return half if np.array_equal(half.astype(np.float32), weight) else None


def as_int8(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Return int8 steps and float32 scales whose product is exactly ``weight``, else None.

    One scale per row of a matrix, or per column (a weight the exporter transposed); of several
    matrices ``[heads, rows, columns]`` likewise.
    """
    if weight.ndim not in (2, 3):
        return None
    for turned in (False, True):
        laid = np.swapaxes(weight, -1, -2) if turned else weight
        rows = laid.reshape(-1, laid.shape[-1])
        # A look at a few rows spares ordinary matrices the whole search.
        if _scales(rows[:_PROBED_ROWS]) is None or (scales := _scales(rows)) is None:
            continue
        steps = np.rint(rows / scales[:, None])
        if np.abs(steps).max() <= 127 and np.array_equal(
            steps.astype(np.float32) * scales[:, None], rows
        ):
            found = steps.reshape(laid.shape), scales.reshape(*laid.shape[:-1], 1)
            steps, scales = (np.swapaxes(part, -1, -2) if turned else part for part in found)
            return np.ascontiguousarray(steps).astype(np.int8), np.ascontiguousarray(scales)
    return None


def _scales(rows: np.ndarray) -> np.ndarray | None:
    """Find for every row the scale of which all its values are whole multiples up to 127."""
    largest = np.abs(rows).max(axis=1)
    scales = np.ones(len(rows), dtype=np.float32)
    open_rows = np.flatnonzero(largest > 0)
    for step in _STEPS:
        if not len(open_rows):
            return scales
        candidate = (largest[open_rows] / np.float32(step)).astype(np.float32)
        values = rows[open_rows]
        steps = np.rint(values / candidate[:, None])
        exact = (steps * candidate[:, None] == values).all(axis=1)
        scales[open_rows[exact]] = candidate[exact]
        open_rows = open_rows[~exact]
    return None if len(open_rows) else scales

"""What TensorRT does not take in a bundle's graph, said otherwise: the numbers stay the same."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ovml_deploy.errors import ExportError
from ovml_deploy.runtime.plans import Tensor


def adapt(model: onnx.ModelProto) -> None:
    """Make ``model`` one that TensorRT takes, in place.

    TensorRT has uint8 inputs but nothing computes with them, not even a transposition, so they
    become float32 at once. And it takes int8 constants for quantised ones: the weights that
    ``export.compact`` stored as int8 become float32 again.
    """
    _widen_pixels(model.graph)
    _widen_steps(model.graph)
    del model.graph.value_info[:]  # types of before


def describe(values: list[onnx.ValueInfoProto]) -> dict[str, Tensor]:
    """Return inputs or outputs with the names of their free dimensions."""
    found = {}
    for value in values:
        kind = value.type.tensor_type
        shape = tuple(dim.dim_param or dim.dim_value for dim in kind.shape.dim)
        if not all(shape):
            raise ExportError(
                f"The graph names no shape of {value.name!r}. Export the bundle again."
            )
        dtype = helper.tensor_dtype_to_np_dtype(kind.elem_type)
        found[value.name] = Tensor(str(dtype), shape)
    return found


def _widen_pixels(graph: onnx.GraphProto) -> None:
    casts = []
    for value in graph.input:
        if value.type.tensor_type.elem_type == TensorProto.UINT8:
            wide = f"{value.name}::wide"
            for node in graph.node:
                node.input[:] = [wide if name == value.name else name for name in node.input]
            casts.append(helper.make_node("Cast", [value.name], [wide], to=TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def _widen_steps(graph: onnx.GraphProto) -> None:
    cast = {node.input[0] for node in graph.node if node.op_type == "Cast"}
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.INT8 and tensor.name in cast:
            steps = numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(steps, tensor.name))

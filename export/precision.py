"""Lowers the precision of an encoder in its graph: what multiplies is half, all else is float32.

Typed in the graph, for strongly typed engines (TensorRT) take it from there and from no flag. Only
MatMul, Gemm and Conv compute in half; their weights are stored in it. Norms, softmax, activations
and the residual stream are float32, and so is the last projection, so that features are not
rounded. Between products, half values pass through what only moves or picks values: rounding them
before it or after it is the same.
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from export.compact import store_compactly
from ovml_deploy.errors import ExportError
from ovml_deploy.runtime.telemetry import import_onnxruntime

if TYPE_CHECKING:
    import onnxruntime  # noqa: TID251

PRODUCTS = frozenset({"MatMul", "Gemm", "Conv"})
BFLOAT16_OPSET = 22  # the first whose Conv takes bfloat16

_INSIDE = 128 << 20  # bytes; larger weights lie beside the graph: runtimes map, not parse them
_MOVES = frozenset(  # the first input's values only change places, or are picked
    {"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Slice", "Gather"}
    | {"Expand", "Split", "Concat", "Relu", "Clip", "MaxPool"}
)
_SEVERAL = frozenset({"Concat", "Clip"})  # all their inputs have the type of the values


@dataclass(frozen=True)
class _Half:
    """A half type. ``largest``: the greatest number it holds."""

    name: str
    type: int
    largest: float


_HALVES = {
    "fp16": _Half("float16", TensorProto.FLOAT16, 65504.0),
    "bf16": _Half("bfloat16", TensorProto.BFLOAT16, 3.3895313892515355e38),
}

#: What the export can write; int8 is made from a float32 bundle, by ``export.quantize``.
PRECISIONS = ("fp32", *_HALVES)


def lower_encoder(path: Path, precision: str) -> None:
    """Lower the precision of a float32 graph file; see :func:`lower_precision`."""
    if precision != "fp32":
        model = with_plain_weights(onnx.load(path))
        lower_precision(model, precision)
        store_compactly(model)
        save_graph(model, path)


def lower_precision(model: onnx.ModelProto, precision: str) -> None:
    """Let the products of a float32 ``model`` compute in "fp16" or "bf16", in place.

    "fp32" changes nothing. Raises ExportError for a weight beyond the type's range.
    """
    if precision != "fp32":
        _Lowering(model, _HALVES[precision]).run()


class _Lowering:
    """One pass over the nodes. Each value exists in float32, in half, or in both where needed."""

    def __init__(self, model: onnx.ModelProto, half: _Half) -> None:
        self.model = model
        self.half = half
        self.weights = {tensor.name: tensor for tensor in model.graph.initializer}
        self.halves: dict[str, str] = {}  # float32 name -> its half twin
        self.owed: set[str] = set()  # float32 names of which only the twin exists so far
        self.nodes: list[NodeProto] = []

    def run(self) -> None:
        graph = self.model.graph
        inner = _inner_products(graph)
        for node in graph.node:
            if node.output[0] in inner:
                self._in_half(node, list(node.input))
            elif (moved := self._moved(node)) is not None:
                self._in_half(node, moved)
            elif node.op_type == "Shape":
                node.input[0] = self.halves.get(node.input[0], node.input[0])
                self.nodes.append(node)
            else:
                self._in_float(node)
        self._widen([output.name for output in graph.output])
        del graph.node[:]
        graph.node.extend(self.nodes)
        drop_unused(graph)
        if self.half.type == TensorProto.BFLOAT16:
            for opset in self.model.opset_import:
                if opset.domain == "":
                    opset.version = max(opset.version, BFLOAT16_OPSET)

    def _moved(self, node: NodeProto) -> list[str] | None:
        """The inputs to be taken in half, of a node that may as well move half values; else None."""
        if node.op_type not in _MOVES or node.input[0] not in self.halves:
            return None
        values = [*node.input] if node.op_type in _SEVERAL else [node.input[0]]
        return values if all(self._is_exact(name) for name in values) else None

    def _is_exact(self, name: str) -> bool:
        if name in self.halves or not name:  # an input left out
            return True
        if name not in self.weights:
            return False
        weight = numpy_helper.to_array(self.weights[name])
        return np.array_equal(_rounded(weight, self.half).astype(np.float32), weight)

    def _in_half(self, node: NodeProto, values: list[str]) -> None:
        for index, name in enumerate(node.input):
            if name in values:
                node.input[index] = self._half_of(name)
        for index, name in enumerate(node.output):
            node.output[index] = self.halves[name] = f"{name}::{self.half.name}"
            self.owed.add(name)
        self.nodes.append(node)

    def _in_float(self, node: NodeProto) -> None:
        self._widen(list(node.input))
        self.nodes.append(node)

    def _widen(self, names: list[str]) -> None:
        for name in names:
            if name in self.owed:
                self.owed.discard(name)
                self._cast(self.halves[name], name, TensorProto.FLOAT)

    def _half_of(self, name: str) -> str:
        if name and name not in self.halves:
            self.halves[name] = twin = f"{name}::{self.half.name}"
            if name in self.weights:
                self._store(self.weights[name], twin)
            else:
                self._cast(name, twin, self.half.type)
        return self.halves.get(name, name)

    def _store(self, tensor: TensorProto, twin: str) -> None:
        weight = numpy_helper.to_array(tensor)
        largest = float(np.abs(weight).max(initial=0.0))
        if not largest <= self.half.largest:
            raise ExportError(
                f"The weight {tensor.name!r} reaches {largest:.3g}, and {self.half.name} ends at "
                f"{self.half.largest:.3g}. Export with --precision fp32"
                f"{'' if self.half.type == TensorProto.BFLOAT16 else ' or bf16'}."
            )
        stored = numpy_helper.from_array(_rounded(weight, self.half), twin)
        self.model.graph.initializer.append(stored)

    def _cast(self, source: str, target: str, kind: int) -> None:
        self.nodes.append(helper.make_node("Cast", [source], [target], f"cast_{target}", to=kind))


def drop_unused(graph: onnx.GraphProto) -> None:
    """Drop nodes, weights and types of values that nothing uses any more."""
    used = {output.name for output in graph.output}
    nodes: list[NodeProto] = []
    for node in reversed(graph.node):
        if used.intersection(node.output):
            used.update(node.input)
            nodes.append(node)
    del graph.node[:]
    graph.node.extend(reversed(nodes))
    made = {name for node in nodes for name in node.output}
    for field, kept in ((graph.initializer, used), (graph.value_info, made)):
        left = [entry for entry in field if entry.name in kept]
        del field[:]
        field.extend(left)


def _inner_products(graph: onnx.GraphProto) -> set[str]:
    """Outputs of the products that another product follows: all but the last projections."""
    leading: set[str] = set()  # values that lead to a product
    inner: set[str] = set()
    for node in reversed(graph.node):
        leads = any(name in leading for name in node.output)
        if node.op_type in PRODUCTS and leads:
            inner.add(node.output[0])
        if node.op_type in PRODUCTS or leads:
            leading.update(node.input)
    return inner


def _rounded(weight: np.ndarray, half: _Half) -> np.ndarray:
    dtype = helper.tensor_dtype_to_np_dtype(half.type)
    return np.asarray(weight.astype(dtype))


def in_float_arithmetic(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return ``model`` with the roundings of its half values, but the arithmetic of float32.

    It gives, but for the order of sums, what an engine gives that sums products of half numbers in
    float32, as tensor cores do. ONNX Runtime's CPU can run it; and it leaves out no rounding of it,
    as it does where it runs float16 graphs themselves.
    """
    widened = onnx.ModelProto()
    widened.CopyFrom(model)
    graph = widened.graph
    types: dict[str, int] = {tensor.name: tensor.data_type for tensor in graph.initializer}
    halves = {half.type for half in _HALVES.values()}
    nodes: list[NodeProto] = []
    for node in graph.node:
        kinds = {types[name] for name in node.input if name in types} & halves
        if node.op_type == "Cast":
            types[node.output[0]] = helper.get_node_attr_value(node, "to")
        elif kinds and node.op_type != "Shape":
            (kind,) = kinds
            nodes += _around(node, kind, types)
            continue
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    return widened


def _around(node: NodeProto, kind: int, types: dict[str, int]) -> list[NodeProto]:
    """Casts to float32, the node, and casts back."""
    before, after = [], []
    for index, name in enumerate(node.input):
        if types.get(name) == kind:
            node.input[index] = wide = f"{name}::{node.output[0]}"
            before.append(helper.make_node("Cast", [name], [wide], to=TensorProto.FLOAT))
    for index, name in enumerate(node.output):
        node.output[index] = wide = f"{name}::wide"
        after.append(helper.make_node("Cast", [wide], [name], to=kind))
        types[name] = kind
    return [*before, node, *after]


def reference_encoder(model: onnx.ModelProto) -> Callable[[np.ndarray], np.ndarray]:
    """Return pixels -> features of a lowered encoder, by :func:`in_float_arithmetic`."""
    run = reference_outputs(model)
    return lambda pixels: run(pixels)["features"]


def reference_outputs(model: onnx.ModelProto) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """Return pixels -> all outputs by name of a lowered encoder: see :func:`reference_encoder`."""
    session = open_session(in_float_arithmetic(model))
    names = [output.name for output in model.graph.output]

    def run(pixels: np.ndarray) -> dict[str, np.ndarray]:
        values = session.run(names, {"pixels": pixels})
        return {name: np.asarray(value) for name, value in zip(names, values, strict=True)}

    return run


def with_plain_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return ``model`` with weights in float32 that ``export.compact`` stored in smaller types."""
    plain = onnx.ModelProto()
    plain.CopyFrom(model)
    graph = plain.graph
    found = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    nodes: list[NodeProto] = []
    for node in graph.node:
        if node.op_type in ("Cast", "Mul") and all(name in found for name in node.input):
            first, *rest = (found[name].astype(np.float32) for name in node.input)
            found[node.output[0]] = value = first * rest[0] if rest else first
            graph.initializer.append(numpy_helper.from_array(value, node.output[0]))
        else:
            nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    drop_unused(graph)
    return plain


def open_session(model: onnx.ModelProto) -> "onnxruntime.InferenceSession":
    """Load a graph in ONNX Runtime on the CPU, however large it is."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "graph.onnx"
        save_graph(model, path)
        return import_onnxruntime().InferenceSession(path, providers=["CPUExecutionProvider"])


def save_graph(model: onnx.ModelProto, path: Path) -> None:
    """Write a graph; large weights lie beside it, where they load quicker (2 GB could not be inside)."""
    path.with_name(f"{path.name}.data").unlink(missing_ok=True)  # an earlier graph's
    if sum(len(tensor.raw_data) for tensor in model.graph.initializer) > _INSIDE:
        onnx.save(model, path, save_as_external_data=True, location=f"{path.name}.data")
    else:
        onnx.save(model, path)

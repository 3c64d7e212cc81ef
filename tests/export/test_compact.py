"""Compact storage loses nothing: the same bits come out of ONNX Runtime, from a smaller file."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from onnx import TensorProto, helper, numpy_helper

from export.compact import as_float16, as_int8, store_compactly
from ovml_deploy.models.rounding import round_to_float16_, round_to_int8_

ROWS, COLUMNS = 96, 64


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def rounded(round_: Callable[[torch.Tensor], torch.Tensor], *shape: int) -> np.ndarray:
    return round_(torch.from_numpy(normal(*shape))).numpy()


def int_rows() -> np.ndarray:
    """Rows whose largest step is not 127, one row of zeros, and a scale that is no power of two."""
    steps = np.random.default_rng(1).integers(-100, 101, (ROWS, COLUMNS))
    steps[:, 0], steps[5] = 99, 0
    return (steps * np.float32(25 / 2048)).astype(np.float32)


STORED = {
    "float16": (rounded(round_to_float16_, ROWS, COLUMNS), TensorProto.FLOAT16),
    "int8 rows": (rounded(round_to_int8_, ROWS, COLUMNS), TensorProto.INT8),
    "int8 columns": (rounded(round_to_int8_, COLUMNS, ROWS).T.copy(), TensorProto.INT8),
    "int8 smaller steps": (int_rows(), TensorProto.INT8),
    "zeros": (np.zeros((ROWS, COLUMNS), np.float32), TensorProto.INT8),
}
KEPT = {
    "ordinary": normal(ROWS, COLUMNS),
    "a row that almost fits": np.concatenate(
        [rounded(round_to_int8_, ROWS - 1, COLUMNS), normal(1, COLUMNS)]
    ),
    "mask": np.triu(np.full((ROWS, COLUMNS), -np.inf, dtype=np.float32), 1),
    "too large for float16": np.full((ROWS, COLUMNS), 70000.0, np.float32) + normal(ROWS, COLUMNS),
}


def model_with(weight: np.ndarray) -> onnx.ModelProto:
    """x [B, R] @ weight [R, C]; weights of other shapes are only added up."""
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", weight.shape[0]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["B", weight.shape[1]])],
        [numpy_helper.from_array(weight, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def run(model: onnx.ModelProto, optimized: Path | None = None) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    if optimized:
        options.optimized_model_filepath = str(optimized)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, ["CPUExecutionProvider"]
    )
    return session.run(None, {"x": normal(3, ROWS)})[0]


@pytest.mark.parametrize("name", STORED)
def test_exact_weights_are_stored_small_and_give_the_same_bits(name: str, tmp_path: Path) -> None:
    weight, kind = STORED[name]
    before, model = model_with(weight), model_with(weight)
    store_compactly(model)
    onnx.checker.check_model(model)
    assert model.graph.initializer[0].data_type == kind
    small = {TensorProto.FLOAT16: 0.55, TensorProto.INT8: 0.35}[kind]
    assert len(model.SerializeToString()) < small * len(before.SerializeToString())
    optimized = tmp_path / "optimized.onnx"
    np.testing.assert_array_equal(run(model, optimized), run(before))
    loaded = onnx.load(optimized).graph
    assert [node.op_type for node in loaded.node] == ["MatMul"], "widened at every call"
    weights = {t.name: numpy_helper.to_array(t) for t in loaded.initializer}
    np.testing.assert_array_equal(weights[loaded.node[0].input[1]], weight)


@pytest.mark.parametrize("name", KEPT)
def test_other_weights_are_left_alone(name: str) -> None:
    model = model_with(KEPT[name])
    before = model.SerializeToString()
    store_compactly(model)
    assert model.SerializeToString() == before


def test_small_weights_are_left_alone() -> None:
    model = model_with(np.ones((ROWS, 8), np.float32))
    store_compactly(model)
    assert model.graph.initializer[0].data_type == TensorProto.FLOAT


def test_a_convolution_is_stored_as_float16() -> None:
    """Int8 is for matrices; four axes may still fit float16."""
    weight = rounded(round_to_float16_, 32, 16, 3, 3)
    assert as_int8(weight) is None
    np.testing.assert_array_equal(as_float16(weight), weight)


@pytest.mark.parametrize("turned", [False, True])
def test_matrices_of_heads_are_stored_as_int8(turned: bool) -> None:
    rows = np.random.default_rng(0).integers(-127, 128, (3, 8, 6)).astype(np.float32)
    rows[..., 0] = 127
    weight = rows * np.linspace(0.01, 0.02, 24, dtype=np.float32).reshape(3, 8, 1)
    if turned:
        weight = np.swapaxes(weight, 1, 2)
    found = as_int8(weight)
    assert found is not None
    steps, scales = found
    assert (steps.dtype, steps.shape) == (np.int8, weight.shape)
    assert scales.shape == ((3, 1, 8) if turned else (3, 8, 1))
    np.testing.assert_array_equal(steps.astype(np.float32) * scales, weight)


@given(
    arrays(np.int8, (7, 5), elements=st.integers(-127, 127)),
    arrays(np.int32, 7, elements=st.integers(1, 2**24)),
    st.integers(-140, 80),
)
def test_int8_is_exact_or_refused(steps: np.ndarray, scales: np.ndarray, exponent: int) -> None:
    weight = np.ldexp(steps.astype(np.float32) * scales[:, None].astype(np.float32), exponent)
    found = as_int8(weight)
    if found is not None:
        small, scale = found
        assert small.dtype == np.int8
        np.testing.assert_array_equal(small.astype(np.float32) * scale, weight)


@given(arrays(np.float32, (4, 6), elements=st.floats(width=32, allow_nan=False)))
def test_float16_is_exact_or_refused(weight: np.ndarray) -> None:
    half = as_float16(weight)
    if half is not None:
        np.testing.assert_array_equal(half.astype(np.float32), weight)
    with np.errstate(over="ignore"):
        exact = np.array_equal(weight.astype(np.float16).astype(np.float32), weight)
    assert (half is not None) == exact

"""Lower precision in the graph: what becomes half, what stays float32, and how near that is."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper

from export import onnx as export_onnx
from export.onnx import export_bundle, main
from export.precision import (
    PRODUCTS,
    in_float_arithmetic,
    lower_encoder,
    lower_precision,
    open_session,
    reference_encoder,
    with_plain_weights,
)
from export.verify import Parity, require_parity
from ovml_deploy import assets
from ovml_deploy.commandline import run
from ovml_deploy.errors import ExportError, UsageError
from ovml_deploy.runtime.bundle import ENCODER, GOLDEN, MATCHER, TEXT_ENCODER, TOKENIZER, Bundle
from ovml_deploy.runtime.precision import TOLERANCE, why_not_on_cpu
from ovml_deploy.runtime.selfcheck import read_golden, relative_error
from ovml_deploy.runtime.tagger import Tagger

TYPES = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
DTYPES = {"fp16": np.float16, "bf16": ml_dtypes.bfloat16}
IN_FLOAT = {"LayerNormalization", "Softmax", "Gelu", "Add", "Div", "ReduceMean", "Sigmoid", "Erf"}

random = np.random.default_rng(0)


def graph(nodes: Sequence[NodeProto], **weights: np.ndarray) -> onnx.ModelProto:
    """A model ``pixels`` -> ``features``."""
    free = {
        "pixels": list("nchw")[: 4 if nodes[0].op_type == "Conv" else 2],
        "features": ["n", "m"],
    }
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in free.items()
    ]
    made = helper.make_graph(
        nodes,
        "graph",
        values[:1],
        values[1:],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def node(kind: str, inputs: str, output: str, **attributes: object) -> NodeProto:
    return helper.make_node(kind, inputs.split(), [output], **attributes)


def operators(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def types_of(model: onnx.ModelProto) -> dict[str, int]:
    inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True).graph
    values = [*inferred.value_info, *inferred.input, *inferred.output]
    found = {value.name: value.type.tensor_type.elem_type for value in values}
    return found | {tensor.name: tensor.data_type for tensor in inferred.initializer}


def normal(*shape: int) -> np.ndarray:
    return random.normal(size=shape).astype(np.float32)


def looking_layers(folder: Path) -> int:
    manifest = Bundle.open(folder).manifest
    looks = manifest.get("attention_grid") is not None
    return manifest["head"]["settings"]["layers"] if looks else 0


@pytest.mark.parametrize("precision", TYPES)
@pytest.mark.parametrize("source", ["tiny_bundle", "tuned_bundle", "embedded"])
def test_products_are_half_and_all_else_is_not(
    request, tmp_path: Path, source: str, precision: str
) -> None:
    """A ViT with a QKS stack, one with global and local features, and a convolutional net."""
    folder = assets.MINI if source == "embedded" else request.getfixturevalue(source)
    path = tmp_path / ENCODER
    shutil.copyfile(folder / ENCODER, path)
    lower_encoder(path, precision)
    made = onnx.load(path)
    onnx.checker.check_model(made, full_check=True)
    types = types_of(made)
    products = [node for node in made.graph.node if node.op_type in PRODUCTS]
    half = [node for node in products if types[node.output[0]] == TYPES[precision]]
    exact = [node for node in products if node not in half]
    assert exact[-1:] == products[-1:], "the last projection"
    # in the embedded model, exported when it was a product of its own, where each layer looks
    assert len(exact) == 1 + (looking_layers(folder) if source == "embedded" else 0)
    assert len(half) >= 12
    for some in half:
        assert {types[name] for name in some.input} == {TYPES[precision]}
    for other in made.graph.node:
        if other.op_type in IN_FLOAT:
            kinds = {types[name] for name in other.output}
            assert kinds <= {TensorProto.FLOAT, TensorProto.INT64}, other.op_type
    assert types["features"] == TensorProto.FLOAT
    widened = {n.output[0] for n in made.graph.node if n.op_type == "Cast" and "::" in n.input[0]}
    assert not [n for n in made.graph.node if n.op_type == "Cast" and n.input[0] in widened]


@pytest.mark.parametrize("precision", TYPES)
def test_the_reference_rounds_what_the_graph_rounds(precision: str) -> None:
    first, second, last = normal(6, 8), normal(8, 8), normal(8, 3)
    model = graph(
        [
            node("MatMul", "pixels first", "a"),
            node("Relu", "a", "b"),
            node("MatMul", "b second", "c"),
            node("Softmax", "c", "d"),
            node("MatMul", "d last", "features"),
        ],
        first=first,
        second=second,
        last=last,
    )
    lower_precision(model, precision)
    assert operators(model) == ["Cast", "MatMul", "Relu", "MatMul", "Cast", "Softmax", "MatMul"]

    def rounded(values: np.ndarray) -> np.ndarray:
        return values.astype(DTYPES[precision]).astype(np.float32)

    pixels = normal(4, 6)
    hidden = np.maximum(rounded(rounded(pixels) @ rounded(first)), 0)
    weights = np.exp(rounded(hidden @ rounded(second)))
    expected = weights / weights.sum(axis=1, keepdims=True) @ last
    found = reference_encoder(model)(pixels)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    exact = np.exp(np.maximum(pixels @ first, 0) @ second)
    assert np.abs(exact / exact.sum(axis=1, keepdims=True) @ last - found).max() > 1e-4
    assert operators(in_float_arithmetic(model)).count("Cast") > operators(model).count("Cast")


def convolutions(bound: float) -> onnx.ModelProto:
    return graph(
        [
            node("Conv", "pixels first bias", "a"),
            node("Clip", "a low high", "b"),
            node("MaxPool", "b", "c", kernel_shape=[2, 2]),
            node("Conv", "c second", "d"),
            node("Flatten", "d", "e"),
            node("Shape", "e", "shape"),
            node("Reshape", "e shape", "f"),
            node("Gemm", "f last", "features"),
        ],
        first=normal(4, 3, 1, 1),
        bias=normal(4),
        second=normal(4, 4, 1, 1),
        last=normal(36, 5),
        low=np.array(0, np.float32),
        high=np.array(bound, np.float32),
    )


def test_what_only_picks_values_stays_half_between_products() -> None:
    model = convolutions(6.0)
    lower_precision(model, "fp16")
    moved = ["Clip", "MaxPool", "Conv", "Flatten", "Shape", "Reshape"]
    assert operators(model) == ["Cast", "Conv", *moved, "Cast", "Gemm"]
    model = convolutions(0.1)  # no half number: clipping before rounding would differ
    lower_precision(model, "fp16")
    clipped = ["Cast", "Clip", "MaxPool", "Cast"]
    rest = ["Conv", "Flatten", "Shape", "Reshape", "Cast", "Gemm"]
    assert operators(model) == ["Cast", "Conv", *clipped, *rest]
    open_session(model).run(None, {"pixels": normal(2, 3, 4, 4)})


def test_float32_is_left_as_it_is() -> None:
    model, same = convolutions(6.0), onnx.ModelProto()
    same.CopyFrom(model)
    lower_precision(model, "fp32")
    assert model == same


def test_a_weight_beyond_the_range_is_refused() -> None:
    def large() -> onnx.ModelProto:
        nodes = [node("MatMul", "pixels heavy", "a"), node("MatMul", "a last", "features")]
        return graph(nodes, heavy=np.full((4, 4), 7e4, np.float32), last=normal(4, 2))

    with pytest.raises(ExportError, match=r"'heavy' reaches 7e\+04.*float16.*fp32 or bf16"):
        lower_precision(large(), "fp16")
    lower_precision(large(), "bf16")


def test_bfloat16_takes_the_opset_that_has_its_convolution() -> None:
    for precision, opset in (("fp16", 20), ("bf16", 22)):
        model = convolutions(6.0)
        lower_precision(model, precision)
        assert model.opset_import[0].version == opset
        onnx.checker.check_model(model, full_check=True)


@pytest.fixture
def traced(tiny_bundle: Path, monkeypatch) -> None:
    """Exports of ``tiny_model`` take its graphs from ``tiny_bundle``."""
    names = (ENCODER, MATCHER, TEXT_ENCODER, TOKENIZER, GOLDEN)

    def write(model: object, folder: Path, precision: str) -> None:
        for name in names:
            shutil.copyfile(tiny_bundle / name, folder / name)
        lower_encoder(folder / ENCODER, precision)

    monkeypatch.setattr(export_onnx, "_write_graphs", write)


def test_a_half_bundle(traced, tiny_model, tiny_bundle: Path, pictures, tmp_path: Path) -> None:
    bundle = export_bundle(tiny_model, tmp_path / "half", {"few": ["cat", "dog"]}, "fp16")
    exact = Bundle.open(tiny_bundle)
    assert (bundle.precision, exact.precision) == ("fp16", "fp32")
    for name in (MATCHER, TEXT_ENCODER, TOKENIZER, GOLDEN):
        assert bundle.manifest["files"][name] == exact.manifest["files"][name]
    assert bundle.manifest["files"][ENCODER]["bytes"] < exact.manifest["files"][ENCODER]["bytes"]
    worst = {row["output"]: row for row in bundle.manifest["parity"]["worst"]}
    assert 1e-5 < worst["features"]["relative_error"] <= TOLERANCE["fp16"]
    assert 0.999 < worst["features"]["cosine"] <= 1.0000002
    assert 0.5 < worst["logits"]["top_agreement"] <= 1
    assert worst["label_embeddings"]["relative_error"] <= 1e-5
    half, full = Tagger.load(bundle.path, "cpu"), Tagger.load(tiny_bundle, "cpu")
    assert relative_error(half.encode(pictures), full.encode(pictures)) <= TOLERANCE["fp16"]


def test_a_bfloat16_bundle_says_where_it_runs(traced, tiny_model, tmp_path: Path) -> None:
    bundle = export_bundle(tiny_model, tmp_path / "half", precision="bf16")
    assert bundle.precision == "bf16"
    worst = {row["output"]: row for row in bundle.manifest["parity"]["worst"]}
    assert 1e-4 < worst["features"]["relative_error"] <= TOLERANCE["bf16"]
    assert why_not_on_cpu("fp16") is None
    reason = why_not_on_cpu("bf16")
    assert reason is not None
    assert "openvino, cuda or tensorrt" in reason
    with pytest.raises(Exception, match="NOT_IMPLEMENTED"):
        open_session(onnx.load(bundle.file(ENCODER)))  # else the reason would be wrong


def test_the_embedded_encoder_in_half(tmp_path: Path) -> None:
    """Weights that are stored as int8 and float16 are widened first."""
    bundle = Bundle.open(assets.MINI)
    golden, stored = read_golden(bundle), onnx.load(bundle.file(ENCODER))
    plain = with_plain_weights(stored)
    assert "Cast" not in operators(plain)[:1]
    features = open_session(plain).run(None, {"pixels": golden["pixels"]})[0]
    assert relative_error(features, golden["features"]) < 1e-5
    lower_precision(plain, "fp16")
    rounded = reference_encoder(plain)(golden["pixels"])
    assert 1e-5 < relative_error(rounded, golden["features"]) < TOLERANCE["fp16"]


def test_what_a_precision_allows_and_texts_do_not() -> None:
    features = Parity("features", {"B": 1}, 0.1, 5e-3)
    swapped = Parity("logits", {"B": 1, "K": 9}, 0.1, 5e-3, False, top_agreement=0.8)
    require_parity([features, swapped], "fp16")
    with pytest.raises(ExportError, match=r"features.*allowed 1e-05"):
        require_parity([features])
    text = Parity("text_features", {"P": 4}, 0.1, 5e-3)
    with pytest.raises(ExportError, match=r"text_features.*allowed 1e-05.*--precision fp32"):
        require_parity([features, text], "fp16")
    with pytest.raises(ExportError, match=r"features.*allowed 1e-02"):
        require_parity([Parity("features", {"B": 1}, 0.1, 2e-2)], "fp16")


def test_an_unknown_precision(tiny_model, tiny_siglip, tmp_path: Path, capsys) -> None:
    with pytest.raises(UsageError, match=r"'int8'; it may be fp32, fp16, bf16.*export\.quantize"):
        export_bundle(tiny_model, tmp_path / "out", precision="int8")
    backbone = ["--backbone", tiny_siglip.name, "--pretrained", tiny_siglip.pretrained]
    assert run(main, "onnx", [*backbone, "--precision", "half", "--out", "x"]) == 2
    assert "--precision is 'half'" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []

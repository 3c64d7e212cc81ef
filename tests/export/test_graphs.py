"""The graphs themselves: free dimensions, native LayerNormalization, nothing of this machine."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from backbones import COCA

from export import graphs, precision
from export.graphs import export_encoder, export_matcher, export_text_encoder
from ovml_deploy.errors import BundleError, ExportError
from ovml_deploy.files import sha256_file
from ovml_deploy.runtime.backends import create_backend
from ovml_deploy.runtime.bundle import Bundle

ROOT = Path(__file__).resolve().parents[2]
ZERO_SHOT_KINDS = ["tiny_resnet", "tiny_cnn", "tiny_average", "tiny_hf"]  # others: test_onnx.py


@pytest.mark.parametrize("name", ["encoder", "text_encoder"])
def test_layer_norms_are_native(tiny_bundle: Path, name: str) -> None:
    model = onnx.load(tiny_bundle / f"{name}.onnx")
    onnx.checker.check_model(model)
    assert next(o.version for o in model.opset_import if not o.domain) >= 17
    kinds = [node.op_type for node in model.graph.node]
    # the tower: two blocks of two and ln_final, or ln_pre and ln_post; the head: one and two of 3
    assert kinds.count("LayerNormalization") == {"encoder": 6 + 7, "text_encoder": 5}[name]
    assert not {"Sqrt", "Erf"} & set(kinds), "a norm or GELU was taken apart"
    # of the attention that is an output: over the heads of both layers, and over these
    assert kinds.count("ReduceMean") == {"encoder": 2 + 1, "text_encoder": 0}[name]


def test_where_it_looks_costs_no_product(
    tiny_bundle: Path, tiny_model, tmp_path, monkeypatch
) -> None:
    """What it looked at is what the features were made from."""
    looking = onnx.load(tiny_bundle / "encoder.onnx").graph
    monkeypatch.setattr(type(tiny_model.head), "looks", False)
    export_encoder(tiny_model, tmp_path / "encoder.onnx")
    plain = onnx.load(tmp_path / "encoder.onnx").graph
    products = [
        [node for node in graph.node if node.op_type in ("MatMul", "Gemm")]
        for graph in (looking, plain)
    ]
    assert len(products[0]) == len(products[1]) > 10


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        (
            "encoder",
            {
                "pixels": ["batch", 32, 32, 3],
                "features": ["batch", 3, 32],
                "attention": ["batch", 3, 4, 4],
            },
        ),
        (
            "matcher",
            {
                "features": ["batch", 3, 32],
                "labels": ["labels", 32],
                "logits": ["batch", "labels"],
                "winners": ["batch", "labels"],
            },
        ),
        ("text_encoder", {"token_ids": ["prompts", "length"], "text_features": ["prompts", 32]}),
    ],
)
def test_only_the_free_dimensions_are_free(
    tiny_bundle: Path, name: str, shapes: dict[str, list[str | int]]
) -> None:
    session = onnxruntime.InferenceSession(tiny_bundle / f"{name}.onnx")
    found = {v.name: v.shape for v in [*session.get_inputs(), *session.get_outputs()]}
    assert found == shapes


def test_files_hold_nothing_of_the_machine_that_made_them(tiny_bundle: Path) -> None:
    """Paths in stack traces would be leaked, and would change the hash from place to place."""
    for path in tiny_bundle.glob("*.onnx"):
        content = path.read_bytes()
        for trace in (str(ROOT).encode(), b"site-packages", b".py", b"stack_trace"):
            assert trace not in content, f"{trace!r} in {path.name}"


def test_an_export_can_be_repeated_to_the_byte(tiny_bundle: Path, tiny_model, tmp_path) -> None:
    """Else every vocabulary would be refused after a re-export of the same checkpoint."""
    export_text_encoder(tiny_model, tmp_path / "text_encoder.onnx")
    export_matcher(tiny_model, tmp_path / "matcher.onnx")
    for path in tmp_path.iterdir():
        assert path.read_bytes() == (tiny_bundle / path.name).read_bytes()


@pytest.mark.parametrize("name", ZERO_SHOT_KINDS)
def test_zero_shot_encoders_of_every_tower(request, make_model, tmp_path: Path, name: str) -> None:
    model = make_model(request.getfixturevalue(name), "zero-shot")
    export_encoder(model, tmp_path / "encoder.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "encoder.onnx")
    height, width = model.backbone.preprocessing.size
    for batch in (1, 2, 5):
        pixels = torch.randint(0, 256, (batch, height, width, 3), dtype=torch.uint8)
        with torch.no_grad():
            expected = model.encode(pixels).numpy()
        (features,) = session.run(["features"], {"pixels": pixels.numpy()})
        assert features.shape == expected.shape
        assert np.abs(features - expected).max() <= 1e-5 * np.abs(expected).max()


def test_coca_is_exported(make_backbone, make_model, tmp_path: Path) -> None:
    """Its text tower appends a class token and masks every text of a batch on its own."""
    model = make_model(make_backbone("tiny-coca", COCA), "zero-shot")
    export_text_encoder(model, tmp_path / "text.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "text.onnx")
    texts = ["a cat", "two red cars at the side of a road", "dog", "", "a"]
    for count in (1, 2, 3, 5):
        ids = model.backbone.tokenizer(texts[:count])
        with torch.no_grad():
            expected = model.backbone.model.encode_text(ids).numpy()
        (features,) = session.run(None, {"token_ids": ids.numpy()})
        assert features.shape == expected.shape
        assert np.abs(features - expected).max() <= 1e-5 * np.abs(expected).max()


def test_a_frozen_dimension_is_found() -> None:
    info = onnx.helper.make_tensor_value_info("pixels", onnx.TensorProto.UINT8, [1, 32, 32, 3])
    frozen = onnx.helper.make_model(onnx.helper.make_graph([], "g", [info], []))
    with pytest.raises(ExportError, match="froze the batch dimension of 'pixels' to 1"):
        graphs._check_free_dimensions(frozen, {"pixels": {0: graphs._dim("batch")}})


def test_large_weights_lie_beside_the_graph(
    tiny_model, bundle_copy: Path, tmp_path, monkeypatch
) -> None:
    """Such a file is covered by its own hash, and checked whenever the graph is asked for."""
    monkeypatch.setattr(precision, "_INSIDE", 100)
    export_encoder(tiny_model, bundle_copy / "encoder.onnx")
    weights = bundle_copy / "encoder.onnx.data"
    assert weights.stat().st_size > 100_000
    bundle = Bundle.open(bundle_copy)
    for path in (bundle_copy / "encoder.onnx", weights):
        listed = {"sha256": sha256_file(path), "bytes": path.stat().st_size}
        bundle.manifest["files"][path.name] = listed
    graph = create_backend("cpu").load(bundle, "encoder.onnx")
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    with torch.no_grad():
        expected = tiny_model.encode(torch.from_numpy(pixels)).numpy()
    np.testing.assert_allclose(graph({"pixels": pixels})["features"], expected, atol=1e-4)
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    with pytest.raises(BundleError, match=r"encoder\.onnx\.data was changed after export"):
        bundle.file("encoder.onnx")

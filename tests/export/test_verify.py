"""Parity is a gate: wrong graphs make an export fail, and what was there stays."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import export.onnx as export_onnx
from export.onnx import export_bundle
from export.verify import Parity, _compare_logits, example_images, require_parity, summarise
from ovml_deploy.errors import ExportError, LabelError, OvmlError
from ovml_deploy.runtime.bundle import Bundle


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def nudge(path: Path) -> None:
    """Make the largest weight of a graph wrong by 0.1 %."""
    model = onnx.load(path)
    largest = max(model.graph.initializer, key=lambda t: np.prod(t.dims))
    largest.CopyFrom(
        numpy_helper.from_array(numpy_helper.to_array(largest) * np.float32(1.001), largest.name)
    )
    onnx.save(model, path)


def negate_logits(path: Path) -> None:
    model = onnx.load(path)
    for node in model.graph.node:
        for index, name in enumerate(node.output):
            if name == "logits":
                node.output[index] = "right"
    model.graph.node.append(onnx.helper.make_node("Neg", ["right"], ["logits"]))
    onnx.save(model, path)


def swap_axes(path: Path) -> None:
    model = onnx.load(path)
    (last,) = [node for node in model.graph.node if node.output[0] == "features"]
    last.output[0] = "right"
    model.graph.node.append(
        onnx.helper.make_node("Transpose", ["right"], ["features"], perm=[0, 2, 1])
    )
    onnx.save(model, path)


def look_elsewhere(path: Path) -> None:
    model = onnx.load(path)
    (last,) = [node for node in model.graph.node if node.output[0] == "attention"]
    last.output[0] = "right"
    model.graph.node.append(
        onnx.helper.make_node("Transpose", ["right"], ["attention"], perm=[0, 1, 3, 2])
    )
    onnx.save(model, path)


def forget_golden(path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    golden = load_file(path)
    save_file(golden | {"text_features": golden["text_features"] * 2}, path)


WRONG: dict[str, tuple[str, Callable[[Path], None], type[OvmlError], str]] = {
    "encoder": ("encoder.onnx", nudge, ExportError, "do not agree with PyTorch: "),
    "matcher": ("matcher.onnx", negate_logits, ExportError, "logits at .* of 2.0e"),
    "text": ("text_encoder.onnx", nudge, ExportError, "PyTorch: text_features"),
    "shape": ("encoder.onnx", swap_axes, ExportError, r"shape \(1, 32, 3\).*PyTorch gives \(1, 3,"),
    "attention": ("encoder.onnx", look_elsewhere, ExportError, "attention at .*allowed 1e-04"),
    "golden": ("golden.safetensors", forget_golden, ExportError, "text_features has a relative"),
}


@pytest.fixture
def graphs_of(tiny_bundle: Path, monkeypatch) -> Callable[..., None]:
    """Make exports take the graphs of ``tiny_bundle``, one of them changed."""

    def install(name: str = "", change: Callable[[Path], None] = lambda path: None) -> None:
        def write(model: object, folder: Path, precision: str) -> None:
            shutil.copytree(tiny_bundle, folder, dirs_exist_ok=True)
            if name:
                change(folder / name)

        monkeypatch.setattr(export_onnx, "_write_graphs", write)

    return install


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_graph_fails_the_export_and_leaves_nothing(
    tiny_model, tmp_path: Path, graphs_of, wrong: str
) -> None:
    name, change, kind, message = WRONG[wrong]
    graphs_of(name, change)
    with pytest.raises(kind, match=message):
        export_bundle(tiny_model, tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_export_keeps_the_bundle_that_was_there(
    tiny_model, bundle_copy: Path, graphs_of
) -> None:
    before = contents(bundle_copy)
    graphs_of("matcher.onnx", negate_logits)
    with pytest.raises(ExportError):
        export_bundle(tiny_model, bundle_copy)
    assert contents(bundle_copy) == before
    assert list(bundle_copy.parent.iterdir()) == [bundle_copy]


def test_a_bundle_is_replaced_as_a_whole(tiny_model, bundle_copy: Path, graphs_of) -> None:
    (bundle_copy / "old.plan").write_text("made from the old graphs")
    graphs_of()
    bundle = export_bundle(tiny_model, bundle_copy, {"new": ["cat", "boat"]})
    assert not (bundle_copy / "old.plan").exists()
    assert bundle.default_vocabulary == "new"
    assert list(bundle_copy.parent.iterdir()) == [bundle_copy]


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_what_is_no_bundle_is_not_overwritten(tiny_model, tmp_path: Path, kind: str) -> None:
    target = tmp_path / "thesis"
    kept = target / "chapter1.txt" if kind == "folder" else target
    kept.parent.mkdir(exist_ok=True)
    kept.write_text("irreplaceable")
    with pytest.raises(ExportError, match="not a bundle, so it is not overwritten"):
        export_bundle(tiny_model, target)
    assert kept.read_text() == "irreplaceable"


def test_an_empty_folder_may_be_used(tiny_model, tmp_path: Path, graphs_of) -> None:
    graphs_of()
    (tmp_path / "empty").mkdir()
    assert export_bundle(tiny_model, tmp_path / "empty").default_vocabulary is None


def test_bad_labels_are_refused_before_the_work(tiny_model, tmp_path: Path) -> None:
    with pytest.raises(LabelError, match="repeats"):
        export_bundle(tiny_model, tmp_path / "bundle", {"twice": ["cat", "cat"]})
    assert list(tmp_path.iterdir()) == []


def test_every_size_is_measured_and_written_down(tiny_bundle: Path) -> None:
    parity = Bundle.open(tiny_bundle).manifest["parity"]
    figures = parity["figures"]
    logits = {(f["B"], f["K"]) for f in figures if f["output"] == "logits"}
    assert logits == {(b, k) for b in (1, 2, 3, 7, 32) for k in (1, 2, 80, 4585)}
    for output in ("features", "attention"):
        assert {f["B"] for f in figures if f["output"] == output} == {1, 2, 3, 7, 32}
    for figure in figures:
        assert 0 <= figure["relative_error"] <= 1e-5
        assert figure.get("top_labels_equal", True)
    assert any(f["max_error"] > 0 for f in figures), "compared with itself"
    assert [row["output"] for row in parity["worst"]] == [
        *("features", "attention", "logits", "text_features", "label_embeddings")
    ]


def test_parity_names_the_worst() -> None:
    good = Parity("logits", {"B": 1, "K": 2}, 1e-7, 1e-7, True)
    bad = Parity("features", {"B": 7}, 0.5, 3e-4)
    require_parity([good])
    with pytest.raises(ExportError, match=r"features at \{'B': 7\}.*3\.0e-04 \(allowed 1e-05"):
        require_parity([good, bad])
    swapped = Parity("logits", {"B": 1, "K": 2}, 1e-7, 1e-7, False)
    with pytest.raises(ExportError, match="labels equal: False"):
        require_parity([good, swapped])
    nan = Parity("logits", {"B": 2, "K": 1}, float("nan"), float("inf"), True)
    with pytest.raises(ExportError, match="inf"):
        require_parity([nan])
    assert summarise([good, bad, Parity("logits", {"B": 3, "K": 1}, 1e-6, 2e-6, True)])[0] == {
        "output": "logits",
        "B": 3,
        "K": 1,
        "max_error": 1e-6,
        "relative_error": 2e-6,
        "top_labels_equal": True,
        "sizes": 2,
    }


@pytest.mark.parametrize(
    ("value", "equal"),
    [
        ([[9.0, 8.0, 7.0, 6.0, 5.0, 1.0]], True),
        ([[9.0, 8.0, 7.0, 6.0, 4.0, 5.0]], False),  # another label among the first five
        ([[8.0, 9.0, 7.0, 6.0, 5.0, 1.0]], False),  # the first two change places
    ],
)
def test_the_top_labels_must_be_equal(value: list[list[float]], equal: bool) -> None:
    """Also where all are within the tolerance; not where they are as close as rounding."""
    reference = np.array([[9.0, 8.0, 7.0, 6.0, 5.0, 1.0]])
    near, at_one = (1 + 5e-6 * logits for logits in (np.array(value), reference))
    compared = _compare_logits("logits", {}, near, at_one, at_one)
    assert compared.relative_error < 5e-5
    assert compared.top_labels_equal == equal
    tied, ties = (1 + 1e-7 * logits for logits in (np.array(value), reference))
    assert _compare_logits("logits", {}, tied, ties, ties).top_labels_equal


def test_a_logit_near_zero_is_judged_by_the_range_of_logits() -> None:
    reach = np.array([[12.0, -9.0, 1e-3]])
    value = np.array([[1e-3 + 1e-6]])
    compared = _compare_logits("logits", {"B": 1, "K": 1}, value, reach[:, 2:], reach)
    assert compared.relative_error == pytest.approx(1e-6 / 12, rel=1e-3)
    assert compared.max_error == pytest.approx(1e-6, rel=1e-3)


def test_example_images_differ() -> None:
    images = example_images(4, (20, 30))
    assert images.shape == (4, 20, 30, 3)
    assert images.dtype == np.uint8
    assert len({image.tobytes() for image in images}) == 4
    np.testing.assert_array_equal(images, example_images(4, (20, 30)))

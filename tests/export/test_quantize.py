"""int8: what is quantised, and that a bundle which does not keep its tags is not written."""

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from PIL import Image

from export.precision import PRODUCTS, open_session
from export.quantize import Encoder, Judge, _pixels, main, quantize_bundle
from ovml_deploy import assets
from ovml_deploy.commandline import run
from ovml_deploy.errors import DataError, ExportError
from ovml_deploy.pipelines.labelled_images import read_labelled_folder
from ovml_deploy.runtime.bundle import ENCODER, MATCHER, Bundle
from ovml_deploy.runtime.precision import TOLERANCE
from ovml_deploy.runtime.selfcheck import read_golden, relative_error
from ovml_deploy.runtime.tagger import Tagger


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    """The embedded model's: convolutions, a QKS layer, weights stored in three types."""
    return Encoder(onnx.load(Bundle.open(assets.MINI).file(ENCODER)))


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    return read_golden(Bundle.open(assets.MINI))


def features(model: onnx.ModelProto, pixels: np.ndarray) -> np.ndarray:
    return np.asarray(open_session(model).run(["features"], {"pixels": pixels})[0])


def operators(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def test_products_with_constant_weights_become_int8(encoder: Encoder, golden) -> None:
    pixels = golden["pixels"]
    ranges = encoder.ranges(pixels)
    made = encoder.quantized(ranges, set(encoder.products))
    onnx.checker.check_model(made, full_check=True)
    makers = {node.output[0]: node for node in made.graph.node}
    weights = {tensor.name: tensor for tensor in made.graph.initializer}
    attention = 0
    for node in made.graph.node:
        if node.op_type not in PRODUCTS:
            continue
        sources = [makers[name].op_type for name in node.input[:2] if name in makers]
        if node.output[0] in encoder.products:
            assert sources == ["DequantizeLinear"] * 2
            steps = numpy_helper.to_array(weights[makers[node.input[1]].input[0]])
            assert steps.dtype == np.int8
            assert np.abs(steps.astype(int)).max() in (0, 127)  # one matrix is all zero
        else:
            attention += 1
            assert "DequantizeLinear" not in sources
    assert (len(encoder.products), attention) == (60, 6 + 1)  # the last: where it looks
    error = relative_error(features(made, pixels), golden["features"])
    assert 1e-4 < error < TOLERANCE["int8"]


def test_weights_only(encoder: Encoder, golden) -> None:
    made = encoder.quantized(None, set(encoder.products))
    assert "QuantizeLinear" not in operators(made)
    assert operators(made).count("DequantizeLinear") == 59  # the two projections share one
    error = relative_error(features(made, golden["pixels"]), golden["features"])
    assert 1e-4 < error < TOLERANCE["int8"]


def test_only_what_is_chosen(encoder: Encoder, golden) -> None:
    ranges = encoder.ranges(golden["pixels"][:1])
    name = next(iter(encoder.products))
    made = encoder.quantized(ranges, {name})
    assert operators(made).count("QuantizeLinear") == 1
    none = encoder.quantized(ranges, set())
    assert relative_error(features(none, golden["pixels"]), golden["features"]) < 1e-5


def test_zero_is_exact_in_every_range(encoder: Encoder, golden) -> None:
    """Convolutions pad with it."""
    for low, high in encoder.ranges(golden["pixels"][:1]).values():
        assert low <= 0 <= high


def paths_of(pictures: Sequence[Path]) -> list[str]:
    return [str(path) for path in pictures]


def amid_a_gap(tagger: Tagger, pictures: Sequence[Path]) -> float:
    """Return a threshold as far from every score as can be."""
    logits = np.sort(tagger.match(tagger.encode(list(pictures))).ravel())
    widest = int(np.diff(logits).argmax())
    return float(1 / (1 + np.exp(-logits[widest : widest + 2].mean())))


def test_one_bad_image_is_one_image_less_to_calibrate_on(
    tiny_bundle: Path, pictures, tmp_path: Path, caplog
) -> None:
    bundle, bad = Bundle.open(tiny_bundle), str(tmp_path / "bad.jpg")
    Path(bad).write_bytes(b"no picture")
    assert len(_pixels(bundle, [*map(str, pictures[:2]), bad])) == 2
    assert "bad.jpg: not an image" in caplog.text
    with pytest.raises(DataError, match="None of the 1 images to calibrate on can be read"):
        _pixels(bundle, [bad])


def test_a_bundle_that_keeps_its_tags(
    bundle_copy: Path, pictures: list[Path], tmp_path: Path
) -> None:
    (bundle_copy / "qks.plan").write_text("made from the float32 graph")
    bundle = Bundle.open(bundle_copy)
    tagger = Tagger.load(bundle_copy, "cpu", ["cat", "dog"])
    threshold = amid_a_gap(tagger, pictures[1:3])
    labelled = tmp_path / "labelled"
    for label, picture in zip(("cat", "dog"), pictures[3:5], strict=True):
        (labelled / label).mkdir(parents=True)
        shutil.copy(picture, labelled / label)
    data = read_labelled_folder(labelled)
    judge = Judge(tagger, threshold, paths_of(pictures[1:3]), (data.paths, data))
    made, found = quantize_bundle(bundle, tmp_path / "int8", paths_of(pictures), judge, False)
    assert (made.precision, found.tag_agreement, found.map_change) == ("int8", 1.0, 0.0)
    assert made.model_hash == bundle.model_hash  # vocabularies stay valid
    assert made.manifest["files"][MATCHER] == bundle.manifest["files"][MATCHER]
    assert not list(made.path.glob("*.plan"))
    record = made.manifest["quantization"]
    assert (record["calibration_images"], record["compared_images"]) == (6, 2)
    assert record["tag_agreement"] == 1.0
    outputs = [row["output"] for row in made.manifest["parity"]["worst"]]
    assert {"features", "logits", "text_features", "label_embeddings"} <= {*outputs}
    before, after = Tagger.load(bundle_copy, "cpu"), Tagger.load(made.path, "cpu")
    assert 0 < relative_error(after.encode(pictures), before.encode(pictures)) < TOLERANCE["int8"]
    with pytest.raises(ExportError, match="is int8 already"):
        quantize_bundle(made, tmp_path / "twice", paths_of(pictures), judge, False)


def test_a_bundle_that_loses_tags_is_refused_by_figures(
    tiny_bundle: Path, pictures: list[Path], tmp_path: Path
) -> None:
    """Calibrated on a black image, so that no range fits others; judged amid the scores."""
    tagger = Tagger.load(tiny_bundle, "cpu", [f"{n} cats" for n in range(100)])
    middle = np.median(tagger.match(tagger.encode(pictures)))
    judge = Judge(tagger, float(1 / (1 + np.exp(-middle))), paths_of(pictures))
    black = tmp_path / "black.png"
    Image.new("RGB", (224, 224)).save(black)
    bundle = Bundle.open(tiny_bundle)
    with pytest.raises(ExportError, match="does not keep its tags") as refused:
        quantize_bundle(bundle, tmp_path / "int8", [str(black)], judge, False)
    message = str(refused.value)
    tried = [int(count) for count in re.findall(r"(\d+) of \d+ products: ", message)]
    assert len(tried) == 4
    assert tried == sorted(tried, reverse=True)
    assert re.search(r"\d\.\d\d% of [\d,]+ tags equal|golden images off by 0\.\d", message)
    assert "--precision fp16" in message
    assert list(tmp_path.iterdir()) == [black]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--images", "EMPTY"], 1, "holds 0 images; at least 4 are needed"),
        (["--images", "PICTURES", "--out", "BUNDLE"], 2, "--out is the bundle itself"),
        (["--images", "PICTURES", "--out", "EMPTY"], 1, "exists and is not a bundle"),
        (["--images", "PICTURES", "--data", "absent.csv"], 1, "no data file or folder"),
        (["--images", "PICTURES", "--threshold", "1.0"], 1, "has a score of 1.0"),
    ],
)
def test_what_the_command_refuses(
    tiny_bundle: Path, pictures, tmp_path: Path, capsys, arguments, code: int, message: str
) -> None:
    (tmp_path / "empty").mkdir()
    known = {
        "EMPTY": str(tmp_path / "empty"),
        "PICTURES": str(pictures[0].parent),
        "BUNDLE": str(tiny_bundle),
    }
    given = [known.get(word, word) for word in arguments]
    if "--out" not in given:
        given += ["--out", str(tmp_path / "int8")]
    assert run(main, "quantize", ["--bundle", str(tiny_bundle), *given]) == code
    assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_the_command(tiny_bundle: Path, pictures, tmp_path: Path, capsys) -> None:
    out = tmp_path / "int8"
    given = ["--images", str(pictures[0].parent), "--out", str(out), "--threshold", "0.0"]
    assert run(main, "quantize", ["--bundle", str(tiny_bundle), *given, "--weights-only"]) == 0
    assert "100.00% of 15 tags equal" in capsys.readouterr().out
    assert Bundle.open(out).manifest["quantization"]["weights_only"] is True

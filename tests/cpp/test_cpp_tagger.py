"""C++ gives the logits and tags that the Python runtime gives on the same engine, for every head."""

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cpp import SOURCES, CallError, CTagger, built, require_onnxruntime, require_toolchain, run

from ovml_deploy import assets
from ovml_deploy.errors import LabelError
from ovml_deploy.runtime.calibration import Calibration
from ovml_deploy.runtime.engine import open_text_encoder
from ovml_deploy.runtime.images import open_image
from ovml_deploy.runtime.label_files import read_grouped_labels, read_labels
from ovml_deploy.runtime.tagger import Tagger

_TOLERANCE = 1e-5
_WORDS = ("cat", "Siamese cat", "coffee cup", "rocket", "clock tower", "caf\u00e9", "R&B")

pytestmark = pytest.mark.skipif(
    not (assets.MINI / "bundle.json").exists(), reason="the embedded model is not built"
)


@pytest.fixture(scope="module")
def folder() -> Path:
    return built()


@pytest.fixture(scope="module")
def open_both(folder: Path, device: str) -> Iterator[Callable[[Path], tuple[CTagger, Tagger]]]:
    """A function that opens a bundle in C++ and in Python, both on a device in fp32."""
    opened: list[CTagger] = []

    def both(bundle: Path) -> tuple[CTagger, Tagger]:
        opened.append(CTagger(folder / "libovml.so", bundle, device))
        return opened[-1], Tagger.load(bundle, device=device, precision="fp32")

    yield both
    for tagger in opened:
        tagger.close()


@pytest.fixture(scope="module")
def zero_shot_bundle(make_model: Any, tiny_clip: Any, tmp_path_factory: Any) -> Path:
    from export.onnx import export_bundle

    target = tmp_path_factory.mktemp("bundles") / "zero-shot"
    export_bundle(make_model(tiny_clip, "zero-shot"), target, {"few": ("cat", "dog", "tree")})
    return target


def relative(value: np.ndarray, reference: np.ndarray) -> float:
    return float(np.abs(value - reference).max() / np.abs(reference).max())


def compare(cpp: CTagger, python: Tagger, images: list[Path]) -> None:
    for image in images:
        expected = python.tag(image, top_k=None, threshold=0.0)
        found, identity = cpp.tag(image.read_bytes(), top_k=0, threshold=0.0)
        assert [t.label for t in found] == [t.label for t in expected]
        assert [t.query for t in found] == [t.query for t in expected]
        scores = [t.score for t in expected]
        assert [t.score for t in found] == pytest.approx(scores, rel=1e-4, abs=1e-9)
        pixels = python.bundle.preprocessing(open_image(image))[None]
        assert np.array_equal(cpp.pixels(image.read_bytes()), pixels.ravel())
        features = np.asarray(python.engine.encode(pixels))
        assert relative(cpp.features(pixels), features.ravel()) < _TOLERANCE
        assert relative(cpp.logits(features), python.match(features).ravel()) < _TOLERANCE
        direct = cpp.logits(cpp.features(pixels).reshape(features.shape))
        assert relative(direct, python.match(features).ravel()) < _TOLERANCE
        assert len(identity) == 16


def test_the_embedded_model(open_both) -> None:
    cpp, python = open_both(assets.MINI)
    images = assets.sample_photographs()
    compare(cpp, python, images)
    for image in images:  # the calibrated vocabulary's own threshold
        found, identity = cpp.tag(image.read_bytes())
        expected = python.tag(image)
        assert [t.label for t in found] == [t.label for t in expected]
        assert identity == expected.vocabulary_id


def test_shared_photographs(open_both, photos: list[Path]) -> None:
    cpp, python = open_both(assets.MINI)
    for image in photos[::12]:
        found = cpp.tag(image.read_bytes())[0]
        assert [t.label for t in found] == [t.label for t in python.tag(image)], image.name


@pytest.mark.parametrize("head", ["tiny_bundle", "tuned_bundle", "zero_shot_bundle"])
def test_every_head(
    open_both, head: str, request: pytest.FixtureRequest, pictures: list[Path]
) -> None:
    bundle = request.getfixturevalue(head)
    cpp, python = open_both(bundle)
    compare(cpp, python, pictures)
    for name in python.bundle.vocabulary_names():
        cpp.use_vocabulary(name)
        python.use_vocabulary(name)
        compare(cpp, python, pictures[:2])


@pytest.mark.parametrize("head", ["mini", "tiny_bundle", "zero_shot_bundle"])
def test_new_words(
    open_both, head: str, request: pytest.FixtureRequest, pictures: list[Path]
) -> None:
    bundle = assets.MINI if head == "mini" else request.getfixturevalue(head)
    cpp, python = open_both(bundle)
    cpp.use_labels(_WORDS)
    python.use_vocabulary(list(_WORDS))
    compare(cpp, python, pictures)


def test_new_words_of_a_prompt_tuned_model(open_both, tuned_bundle: Path, pictures) -> None:
    cpp, python = open_both(tuned_bundle)
    groups = {"cat": None, "tiger": "animals", "drone": None, "oak": "plants", "red car": "things"}
    cpp.use_labels(
        [label if group is None else f"{label}\t{group}" for label, group in groups.items()]
    )
    python.use_vocabulary(groups)
    compare(cpp, python, pictures)
    for line, says in (("cat\tplants", "tuned in the group"), ("drone\tnone such", "no group")):
        with pytest.raises(CallError, match=says) as failed:
            cpp.use_labels([line])
        assert failed.value.code == 4


def test_a_calibrated_vocabulary_file(
    open_both, tiny_bundle: Path, tmp_path: Path, pictures
) -> None:
    cpp, python = open_both(tiny_bundle)
    words = python.make_vocabulary(["cat", "caf\u00e9", "tree"])
    offsets = np.array([0.5, -0.25, 0.1], np.float32)
    calibration = Calibration(0.7, offsets, 0.55, 10, 5, None, python.bundle.model_hash)
    calibrated = dataclasses.replace(words, calibration=calibration)
    calibrated.save(tmp_path / "words.safetensors")
    (tmp_path / "words.txt").write_text("cat\r\ncaf\u00e9\n\n  tree \n", "utf-8")
    cpp.use_vocabulary(str(tmp_path / "words.safetensors"))
    python.use_vocabulary(calibrated)
    compare(cpp, python, pictures)
    assert cpp.tag(pictures[0].read_bytes())[1] == calibrated.id
    cpp.use_vocabulary(str(tmp_path / "words.txt"))
    python.use_vocabulary(words)
    compare(cpp, python, pictures)


def test_rgb_frames_with_gaps_between_rows(open_both, tiny_bundle: Path) -> None:
    cpp, python = open_both(tiny_bundle)
    wide = np.random.default_rng(0).integers(0, 256, (50, 90, 3), dtype=np.uint8)
    frame = wide[:, :61]
    expected = python.tag(np.ascontiguousarray(frame))
    assert [t.label for t in cpp.tag(frame)[0]] == [t.label for t in expected]


def test_the_command_says_what_python_s_says(folder: Path, device: str, tmp_path: Path) -> None:
    images = [*map(str, assets.sample_photographs()), str(tmp_path / "absent.jpg")]
    options = ("--labels", "cat, dog,rocket,,temple", "--top-k", 2, "--format", "json")
    options += ("--device", device)
    done = run(folder / "tag_image", "--bundle", assets.MINI, *options, *images)
    python = subprocess.run(
        [
            *(sys.executable, "-m", "ovml_deploy.cli", "tag", *images, *map(str, options)),
            *("--precision", "fp32"),
        ],
        capture_output=True,
    )
    assert done.returncode == python.returncode == 3
    found, expected = json.loads(done.stdout), json.loads(python.stdout)
    assert len(found) == len(images)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours["image"] == theirs["image"]
        assert ("error" in ours) == ("error" in theirs)
        tags = ours.get("tags", [])
        assert [(t["label"], t["query"]) for t in tags] == [
            (t["label"], t["query"]) for t in theirs.get("tags", [])
        ]
        scores = [t["score"] for t in theirs.get("tags", [])]
        assert [t["score"] for t in tags] == pytest.approx(scores, rel=1e-4)
    assert b"absent.jpg: there is no such file" in done.stderr


def test_a_table_for_people(folder: Path) -> None:
    cat = next(path for path in assets.sample_photographs() if path.stem == "cat")
    done = run(folder / "tag_image", "--bundle", assets.MINI, cat)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode().startswith(f"{cat}  domestic cat 1.00")


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("a.jpg",), 2, "--bundle is missing"),
        (("--bundle", "b"), 2, "no images"),
        (("--bundle", "b", "--top-k", "0", "a.jpg"), 2, "--top-k"),
        (("--bundle", "b", "--top-k", "x", "a.jpg"), 2, "'x' is not a number"),
        (("--bundle", "b", "--threshold", "2", "a.jpg"), 2, "[0, 1]"),
        (("--bundle", "b", "--labels", "a", "--vocab", "b", "a.jpg"), 2, "not both"),
        (("--bundle", "b", "--colour", "red", "a.jpg"), 2, "--colour"),
        (("--bundle", "b", "--format", "xml", "a.jpg"), 2, "xml"),
        (("--bundle", "b", "--device", "abacus", "a.jpg"), 2, "no device 'abacus'"),
        (("--bundle", "nowhere", "a.jpg"), 1, "'nowhere' is not a bundle"),
        (("--bundle", str(assets.MINI), "--vocab", "none such", "a.jpg"), 1, "'none such'"),
        (("--bundle", str(assets.MINI), "--labels", "a,b,a", "a.jpg"), 1, "repeats label 1"),
        (("--bundle", "b", "--labels", "--top-k", "3", "a.jpg"), 2, "--labels needs a value"),
        (("--bundle", "b", "--top-k", "3", "--top-k", "4", "a.jpg"), 2, "--top-k is given twice"),
    ],
)
def test_a_wrong_command_line(folder: Path, arguments, code: int, says: str) -> None:
    done = run(folder / "tag_image", *arguments)
    assert done.returncode == code
    assert says in done.stderr.decode()
    assert done.stdout == b""


def test_a_build_on_onnx_runtime_alone() -> None:
    require_onnxruntime()
    tool = built("onnxruntime", "tag_image") / "tag_image"
    assert b"openvino" not in subprocess.run(["ldd", tool], capture_output=True, check=True).stdout
    cat = next(path for path in assets.sample_photographs() if path.stem == "cat")
    done = run(tool, "--bundle", assets.MINI, cat)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode().startswith(f"{cat}  domestic cat 1.00")
    done = run(tool, "--bundle", assets.MINI, "--device", "openvino", cat)
    assert done.returncode == 1
    assert b"'openvino' is not built in: choose 'auto' or 'cpu' (ONNX Runtime)" in done.stderr


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("-DCMAKE_DISABLE_FIND_PACKAGE_onnxruntime=ON",), "Neither OpenVINO nor ONNX Runtime"),
        (("-DONNXRUNTIME_ROOT=/nowhere",), "ONNXRUNTIME_ROOT=/nowhere has no"),
    ],
)
def test_no_engine_is_an_error_of_cmake(tmp_path: Path, options, says: str) -> None:
    require_toolchain()
    command = ["cmake", "-S", SOURCES, "-B", tmp_path, *options]
    command += ["-DCMAKE_DISABLE_FIND_PACKAGE_OpenVINO=ON"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode != 0
    assert says in done.stderr


def test_ctest(folder: Path) -> None:
    """What C++ alone can say: swaps while threads tag, the C interface from C, the fuzzers' corpus."""
    done = subprocess.run(
        ["ctest", "--test-dir", str(folder), "--output-on-failure"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout
    assert "100% tests passed" in done.stdout


#: Label files, by what both languages say of them. What only C++ refuses says so.
LABEL_FILES = {
    "a.txt": ("owl\nOwl\ncat\nCAT\n", "lines 1, 2 ('owl', 'Owl'); lines 3, 4 ('cat', 'CAT')"),
    "b.txt": ("# birds\nowl\r\n\r\nOWL", "lines 2, 4 ('owl', 'OWL')"),
    "c.txt": ("\u68df\ncat\n\u732b", "lines 1, 3 ('\u68df', '\u732b'; unknown to the tokenizer)"),
    "d.txt": (
        "cat\ndog\ncat\ndog",
        "Line 3 ('cat') repeats line 1; Line 4 ('dog') repeats line 2.",
    ),
    "e.txt": ("cat, dog, owl\n", "The file's only line has 3 parts"),
    "f.txt": ("cat,\ndog,\n", "Lines that end with a comma: 1 ('cat,'); 2 ('dog,')."),
    "g.txt": ("cat\n#dog", "Lines that begin with '#': 2 ('#dog')."),
    "h.txt": ('["cat",\n"dog"]', "The file holds JSON"),
    "i.txt": ("- cat\n- dog", "bullet list or YAML"),
    "j.txt": ('"cat"\n"dog"', "in quotation marks on each line"),
    "k.txt": ("cat\0dog", "The file holds NUL bytes"),
    "l.txt": ("# cat\n", "There are no labels"),
    "m.txt": ("%PDF-1.7", "This is a PDF document, not a label file."),
    "n.yaml": ("cat", "This is YAML, not a label file."),
    "o.txt": (b"\xff\xfecat", "is not UTF-16. Save it again, as UTF-8."),
    "p.txt": (b"caf\xe9\ncat", "is not UTF-8"),
}


@pytest.fixture(scope="module")
def mini(folder: Path) -> Iterator[CTagger]:
    """The embedded model in C++, whose vocabulary the tests change."""
    tagger = CTagger(folder / "libovml.so", assets.MINI)
    yield tagger
    tagger.close()


def test_label_files_are_refused_as_in_python(mini: CTagger, tmp_path: Path) -> None:
    encoder = open_text_encoder(assets.MINI, "cpu")
    for name, (content, says) in LABEL_FILES.items():
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(CallError) as in_cpp:
            mini.use_vocabulary(str(path))
        with pytest.raises(LabelError) as in_python:
            encoder.vocabulary(read_grouped_labels(path))
        assert in_cpp.value.code == 4
        for error in (str(in_cpp.value), str(in_python.value)):
            assert error.startswith(f"{path}: ")
            assert says in error, name
    for name in ("x.json", "x.csv"):
        (tmp_path / name).write_text('["cat"]')
        with pytest.raises(CallError, match="read by Python only: 'ovml-deploy vocab build'"):
            mini.use_vocabulary(str(tmp_path / name))


def test_a_label_file_in_every_encoding(mini: CTagger, tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    text = "# words\r\ncat\r\n\r\n\ufeff caf\u00e9 \r\nowl, barn"
    pixels = np.zeros((8, 8, 3), np.uint8)
    for encoding in ("utf-8", "utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"):
        path.write_bytes(f"\ufeff{text}".encode(encoding))
        assert read_labels(path) == ("cat", "caf\u00e9", "owl, barn")
        mini.use_vocabulary(str(path))
        assert {tag.label for tag in mini.tag(pixels)[0]} == {"cat", "caf\u00e9", "owl, barn"}
        mini.use_labels(["dog"])


def test_unknown_labels_are_named(mini: CTagger, folder: Path) -> None:
    mini.use_labels(["cat"])
    assert mini.warning() == ""
    mini.use_labels(["cat", "\u68df"])
    assert "'\u68df' (label 2)" in mini.warning()
    with pytest.raises(CallError, match=r"labels 1, 2 \('owl', 'Owl'\)"):
        mini.use_labels(["owl", "Owl"])
    cat = next(path for path in assets.sample_photographs() if path.stem == "cat")
    done = run(folder / "tag_image", "--bundle", assets.MINI, "--labels", "cat,\u68df", cat)
    assert done.returncode == 0
    assert done.stderr.decode() == f"warning: {mini.warning()}\n"

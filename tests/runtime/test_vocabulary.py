import dataclasses
import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from ovml_deploy.errors import LabelError, VocabularyError
from ovml_deploy.runtime import vocabulary as module
from ovml_deploy.runtime.bundle import Bundle
from ovml_deploy.runtime.calibration import Calibration
from ovml_deploy.runtime.vocabulary import Vocabulary, load_named

LABELS = ("cat", "caf\u00e9 \u732b", '"quoted", [red] \\n', "2024")


def make(labels=LABELS, dims: int = 4, **changes) -> Vocabulary:
    embeddings = np.random.default_rng(0).standard_normal((len(labels), dims))
    values = {"name": "mine", "labels": labels, "text_hash": "t", "prompt_hash": "p"}
    return Vocabulary(**{"embeddings": embeddings.astype(np.float32), **values, **changes})


def calibrated(**changes) -> Vocabulary:
    values = {"slope": 0.1 + 0.2, "threshold": 0.625, "images": 12, "positives": 7}
    offsets = np.array([0.1, -2, 3e-9, 4])
    return make(calibration=Calibration(**{"offsets": offsets, **values, **changes}))


def test_round_trip(tmp_path: Path) -> None:
    written = make()
    path = tmp_path / "new" / "mine.safetensors"
    written.save(path)
    read = Vocabulary.load(path)
    for field in ("name", "labels", "text_hash", "prompt_hash", "id"):
        assert getattr(read, field) == getattr(written, field)
    np.testing.assert_array_equal(read.embeddings, written.embeddings)
    assert [p.name for p in path.parent.iterdir()] == ["mine.safetensors"]


@pytest.mark.parametrize("precision", [None, 0.8])
def test_a_calibration_makes_the_round_trip(tmp_path: Path, precision: float | None) -> None:
    written = calibrated(precision=precision)
    written.save(tmp_path / "v.safetensors")
    read = Vocabulary.load(tmp_path / "v.safetensors")
    for field in ("slope", "threshold", "images", "positives", "precision"):
        assert getattr(read.calibration, field) == getattr(written.calibration, field), field
    np.testing.assert_array_equal(read.calibration.offsets, written.calibration.offsets)
    assert read.calibration.offsets.dtype == np.float32
    assert read.id == written.id
    logits = np.array([1.5, -2, 0, 40], np.float32)
    np.testing.assert_array_equal(
        read.calibration.logits(logits), written.calibration.logits(logits)
    )


def test_numbers_of_numpy_are_stored_too(tmp_path: Path) -> None:
    odd = calibrated(slope=np.float32(0.5), threshold=np.float32(0.5), images=np.int64(3))
    odd = dataclasses.replace(
        odd, calibration=dataclasses.replace(odd.calibration, precision=np.float32(0.5))
    )
    odd.save(tmp_path / "v.safetensors")
    assert Vocabulary.load(tmp_path / "v.safetensors").id == odd.id


def test_a_calibration_needs_an_offset_a_label() -> None:
    with pytest.raises(VocabularyError, match=r"4 labels need as many.*there are 3"):
        calibrated(offsets=np.zeros(3))


def test_without_a_calibration_the_id_is_what_it_ever_was() -> None:
    vocabulary = make()
    digest = hashlib.sha256(json.dumps([LABELS, "t", "p"]).encode())
    digest.update(vocabulary.embeddings.tobytes())
    assert vocabulary.id == digest.hexdigest()[:16]


def test_the_id_names_the_calibration() -> None:
    several = [
        make(),
        calibrated(),
        calibrated(slope=0.3),
        calibrated(offsets=np.zeros(4)),
        calibrated(threshold=0.5),
        calibrated(images=13),
        calibrated(positives=8),
        calibrated(precision=0.9),
    ]
    assert len({vocabulary.id for vocabulary in several}) == len(several)


def test_a_kill_while_saving_leaves_the_old_file(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "mine.safetensors"
    make().save(path)

    def killed(tensors, file: Path, metadata) -> None:
        file.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "save_file", killed)
    with pytest.raises(KeyboardInterrupt):
        calibrated().save(path)
    assert Vocabulary.load(path).id == make().id
    assert list(tmp_path.iterdir()) == [path]


def test_nothing_in_it_can_be_changed() -> None:
    source = np.ones((2, 3), dtype=np.float32)
    vocabulary = make(("a", "b"), embeddings=source)
    before = vocabulary.id
    source[:] = 7
    with pytest.raises(ValueError, match="read-only"):
        vocabulary.embeddings[0, 0] = 5
    with pytest.raises(dataclasses.FrozenInstanceError):
        vocabulary.labels = ("x", "y")
    assert vocabulary.embeddings.max() == 1
    assert vocabulary.id == make(("a", "b"), embeddings=np.ones((2, 3))).id == before


def test_a_memory_map_is_copied_too(tmp_path: Path) -> None:
    source = np.memmap(tmp_path / "map", dtype=np.float32, mode="w+", shape=(1, 3))
    vocabulary = make(("a",), embeddings=source)
    source[:] = 9
    assert vocabulary.embeddings.max() == 0


def test_the_id_names_the_content() -> None:
    changed = [
        make(),
        make(labels=LABELS[::-1]),
        make(embeddings=np.zeros((4, 4))),
        make(text_hash="u"),
        make(prompt_hash="u"),
    ]
    assert len({vocabulary.id for vocabulary in changed}) == 5
    assert make(name="other").id == make().id


@pytest.mark.parametrize(
    ("embeddings", "message"),
    [
        (np.zeros((3, 4)), r"4 labels need embeddings \[4, D\]; these are \[3, 4\]"),
        (np.zeros(4), r"these are \[4\]"),
        (np.full((4, 2), np.nan), "not finite"),
        (np.full((4, 2), np.inf), "not finite"),
    ],
)
def test_misshapen_embeddings_are_refused(embeddings: np.ndarray, message: str) -> None:
    with pytest.raises(VocabularyError, match=message):
        make(embeddings=embeddings)


def test_bad_labels_are_refused() -> None:
    with pytest.raises(LabelError, match="repeats"):
        make(labels=("cat", "cat"))


@pytest.mark.parametrize("field", ["text_hash", "prompt_hash"])
def test_another_encoders_vocabulary_is_refused(tiny_bundle: Path, tiny_tagger, field: str) -> None:
    stranger = dataclasses.replace(tiny_tagger.vocabulary, **{field: "0" * 16})
    what = {"text_hash": "text encoder", "prompt_hash": "prompt pool"}[field]
    remedy = f"ovml-deploy vocab build labels.txt --engine {tiny_bundle}"
    with pytest.raises(VocabularyError, match=f"another {what} \\(0000.*{remedy}"):
        tiny_tagger.use_vocabulary(stranger)
    assert tiny_tagger.vocabulary.name == "few"


def test_another_models_calibration_is_refused(tiny_bundle: Path, tiny_tagger) -> None:
    vocabulary = tiny_tagger.vocabulary
    own = Bundle.open(tiny_bundle).model_hash
    for model_hash in (own, ""):  # "": fitted by hand, so nobody said for which
        calibration = Calibration(1.0, np.zeros(len(vocabulary)), model_hash=model_hash)
        tiny_tagger.make_vocabulary(
            dataclasses.replace(vocabulary, calibration=calibration)
        ).check_fits(tiny_tagger.bundle)
    other = dataclasses.replace(calibration, model_hash="0" * 16)
    stranger = dataclasses.replace(vocabulary, calibration=other)
    with pytest.raises(VocabularyError, match=r"another model \(0000.*vocab calibrate few --data"):
        tiny_tagger.use_vocabulary(stranger)


def test_another_width_is_refused(tiny_bundle: Path) -> None:
    bundle = Bundle.open(tiny_bundle)
    narrow = make(text_hash=bundle.text_hash, prompt_hash=bundle.prompt_hash)
    with pytest.raises(VocabularyError, match="has 4 dimensions, the bundle 32"):
        narrow.check_fits(bundle)


@pytest.mark.parametrize("make", [make, calibrated])
def test_every_changed_byte_is_found(tmp_path: Path, make) -> None:
    """In the header, a label, an embedding: no file with one wrong byte is taken for the old."""
    path = tmp_path / "mine.safetensors"
    make().save(path)
    content = path.read_bytes()
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 0x01
        path.write_bytes(damaged)
        with pytest.raises(VocabularyError, match=r"Build it again|not a vocabulary of this"):
            Vocabulary.load(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "There is no vocabulary file"),
        (b"", "not a readable vocabulary"),
        (b"cat\ndog\n" * 20, "not a readable vocabulary"),
        ({}, "not a vocabulary of this project"),
        ({"format": "ovml-deploy/vocabulary"}, "not a readable vocabulary"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content, message: str) -> None:
    path = tmp_path / "v.safetensors"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        save_file({"embeddings": np.zeros((1, 2), np.float32)}, path, content)
    with pytest.raises(VocabularyError, match=message):
        Vocabulary.load(path)


def test_as_many_labels_as_are_allowed_fit_the_file(tmp_path: Path) -> None:
    """The header of a safetensors file ends at 100 MB, so the labels are not in it."""
    labels = tuple(f"{i} {'long ' * 49}" for i in range(500_000))  # 125 MB
    path = tmp_path / "many.safetensors"
    make(labels, embeddings=np.zeros((len(labels), 1), np.float32)).save(path)
    assert len(Vocabulary.load(path)) == len(labels)


SAVE = """
import numpy as np, resource, sys
from ovml_deploy.errors import VocabularyError
from ovml_deploy.runtime.vocabulary import Vocabulary
path, limit = sys.argv[1], int(sys.argv[2])
labels = tuple(f"label {i}" for i in range(2000))
vocabulary = Vocabulary("big", labels, np.ones((2000, 512)), "t", "p")
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    vocabulary.save(path)
except VocabularyError as error:
    sys.exit(f"refused: {error}")
"""


def save_in_a_process(path: Path, limit: int) -> str:
    done = subprocess.run(
        [sys.executable, "-c", SAVE, str(path), str(limit)], capture_output=True, text=True
    )
    assert done.returncode == 1, (done.returncode, done.stderr)
    return done.stderr


@pytest.mark.parametrize("limit", [100, 1_000_000])
def test_a_full_disk_keeps_the_old_file(tmp_path: Path, limit: int) -> None:
    """The kernel itself refuses the bytes, as a full disk does: at the start, or near the end."""
    path = tmp_path / "mine.safetensors"
    make().save(path)
    before = path.read_bytes()
    message = save_in_a_process(path, limit)
    assert f"refused: The vocabulary cannot be written to '{path}'" in message
    assert "Nothing was changed; free some space" in message
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small disk cannot be mounted here (no permission)")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_really_full_disk(full_disk: Path) -> None:
    path = full_disk / "mine.safetensors"
    make().save(path)
    before = path.read_bytes()
    assert "cannot be written" in save_in_a_process(path, 0)
    assert path.read_bytes() == before
    assert list(full_disk.iterdir()) == [path]


def test_named_vocabularies(tiny_bundle: Path) -> None:
    bundle = Bundle.open(tiny_bundle)
    assert bundle.vocabulary_names() == ["few", "others"]
    assert load_named(bundle, "others").labels[1] == "2024"
    with pytest.raises(VocabularyError, match="no vocabulary 'many'; it has: few, others"):
        load_named(bundle, "many")

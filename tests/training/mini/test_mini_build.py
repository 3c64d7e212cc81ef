"""What the build writes to calibrate the shipped model with."""

import csv
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from ovml_deploy.training.data import read_dataset
from ovml_deploy.training.mini.taxonomy import Taxonomy
from ovml_deploy.training.mini.words import split_words
from ovml_deploy.training.scenes import Picture, Split, split_pictures
from ovml_deploy.training.wordnet import NounIndex

pytest.importorskip("resvg_py", reason="resvg_py, which draws the emoji, is not installed")

from ovml_deploy.training.mini.build import (
    CALIBRATION_FILE,
    BuildOptions,
    _write_calibration,
)
from ovml_deploy.training.mini.material import Material

CAT, TABBY, ORANGE = "n00000003", "n00000004", "n00000009"


@pytest.fixture
def material(
    taxonomy: Taxonomy, index: NounIndex, draw_pictures: Callable[..., list[Picture]]
) -> Material:
    photos = split_pictures(draw_pictures("photos", 16, (CAT, TABBY, ORANGE)))
    words = split_words(taxonomy, ["cat"], index)
    return Material(taxonomy, words, photos, Split((), (), ()), (), ())


@pytest.fixture
def written(material: Material, tmp_path: Path) -> Path:
    words = material.words.all_names.lookup(["cat", "tabby", "food"])
    options = BuildOptions(calibration_scenes=6, seed=3)
    _write_calibration(tmp_path / "calibration", material, words, options)
    return tmp_path / "calibration" / CALIBRATION_FILE


def test_calibration_pictures_can_be_read_back(written: Path, material: Material) -> None:
    data = read_dataset(written)
    assert set(data.labels) == {"cat", "tabby", "food"}
    photos = (*material.photos.train, *material.photos.validation)
    assert [record.path for record in data.records[: len(photos)]] == [p.path for p in photos]
    expected = {CAT: [1, -1, 0], TABBY: [1, 1, 0], ORANGE: [0, 0, 1]}
    targets = data.targets(["cat", "tabby", "food"])
    assert [row.tolist() for row in targets[: len(photos)]] == [expected[p.offset] for p in photos]


def test_calibration_has_mosaics_of_what_no_test_sees(written: Path, material: Material) -> None:
    records = read_dataset(written).records[10:]
    assert [record.path.name for record in records] == [f"mosaic_{n:04}.png" for n in range(6)]
    for record in records:
        with Image.open(record.path) as image:
            assert image.size == (224, 224)
    with open(written, encoding="utf-8", newline="") as file:
        named = {row["image_path"] for row in csv.DictReader(file)}
    assert named.isdisjoint(str(photo.path) for photo in material.photos.test)
    assert any(len(record.positive) == 3 for record in records)

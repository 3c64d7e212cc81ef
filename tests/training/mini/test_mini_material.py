"""The material: what measures the model was never trained on."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import pytest

from ovml_deploy.errors import DataError
from ovml_deploy.training.mini.taxonomy import Taxonomy
from ovml_deploy.training.scenes import Picture, Scene, read_pictures
from ovml_deploy.training.wordnet import NounIndex, WordNet

pytest.importorskip("resvg_py", reason="resvg_py, which draws the emoji, is not installed")

from ovml_deploy.training.mini import material as module
from ovml_deploy.training.mini.cutouts import STAMPS, TEST_STYLE, TRAIN_STYLES
from ovml_deploy.training.mini.material import Material

DOG, TABBY, PERSIAN = "n00000006", "n00000004", "n00000005"
ORANGE, SANDBOX = "n00000009", "n00000012"


class Folders(NamedTuple):
    photos: Path
    cutouts: Path
    icons: Path


@pytest.fixture
def folders(
    tmp_path: Path,
    draw_pictures: Callable[..., list[Picture]],
    taxonomy: Taxonomy,
    index: NounIndex,
    monkeypatch: pytest.MonkeyPatch,
) -> Folders:
    """Photographs of five things and cut-outs; every style shows another thing."""
    draw_pictures("photos", 40, (DOG, TABBY))
    draw_pictures(f"cutouts/{STAMPS}", 32, (ORANGE,))
    for style in TRAIN_STYLES:
        draw_pictures(f"cutouts/{style}", 4, (SANDBOX,))
    draw_pictures(f"cutouts/{TEST_STYLE}", 4, (PERSIAN,))
    monkeypatch.setattr(NounIndex, "load", classmethod(lambda cls: index))
    monkeypatch.setattr(WordNet, "load", classmethod(lambda cls: taxonomy.wordnet))
    classes = list(taxonomy.kinds[: taxonomy.class_count])
    monkeypatch.setattr(module, "imagenet_offsets", lambda: classes)
    return Folders(tmp_path / "photos", tmp_path / "cutouts", tmp_path / "icons")


def shown(scenes: Iterable[Scene]) -> list[set[str]]:
    return [set(scene.offsets) for scene in scenes]


def test_material_is_read_and_split(folders: Folders) -> None:
    material = Material.load(*folders)
    assert len(material.photos.train) == 20
    assert len(material.stamps.test) == 12
    drawn = [p for style in TRAIN_STYLES for p in read_pictures(folders.cutouts / style)]
    assert material.drawn == tuple(drawn)
    assert {picture.offset for picture in material.other_style} == {PERSIAN}
    assert "cat" in material.words.everyday.texts


def test_training_sees_every_kind_of_scene_but_the_other_style(folders: Folders) -> None:
    scenes = shown(Material.load(*folders).training_scenes(12, 32, seed=0))
    assert len(scenes) == 12 + 6 + 6
    assert all(offsets <= {DOG, TABBY} for offsets in scenes[:12])
    assert all(ORANGE in offsets and SANDBOX not in offsets for offsets in scenes[12:18])
    assert all(SANDBOX in offsets and ORANGE not in offsets for offsets in scenes[18:])


def test_each_part_shows_its_own_pictures(
    folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    material = Material.load(*folders)
    opened: set[Path] = set()
    for method in ("open", "open_cutout"):
        original = getattr(Picture, method)

        def spy(picture: Picture, original=original) -> object:
            opened.add(picture.path)
            return original(picture)

        monkeypatch.setattr(Picture, method, spy)

    def pictures_of(scenes: Iterable[Scene]) -> set[Path]:
        opened.clear()
        assert list(scenes)
        return set(opened)

    train = pictures_of(material.training_scenes(80, 32, seed=0))
    validation = pictures_of(material.validation_scenes(40, 32, seed=0))
    tests = material.test_scenes(20, 32, seed=0)
    test = {path for scenes in tests.values() for path in pictures_of(scenes)}
    assert train.isdisjoint(validation)
    assert test.isdisjoint(train | validation)
    assert train == {p.path for p in (*material.photos.train, *material.stamps.train)} | {
        p.path for p in material.drawn
    }


def test_validation_and_test_show_photographs_and_scenes(folders: Folders) -> None:
    material = Material.load(*folders)
    validation = shown(material.validation_scenes(10, 32, seed=0))
    assert validation[:5] == [{photo.offset} for photo in material.photos.validation]
    assert len(validation) == 5 + 10 + 5
    test = {name: shown(scenes) for name, scenes in material.test_scenes(6, 32, seed=0).items()}
    assert test.pop("photographs") == [{photo.offset} for photo in material.photos.test]
    assert {name: len(scenes) for name, scenes in test.items()} == {
        "mosaics": 6,
        "cut-outs": 6,
        "drawings": 6,
    }
    assert all(offsets <= {DOG, TABBY} for offsets in test["mosaics"])
    assert all(ORANGE in offsets for offsets in test["cut-outs"])
    assert all(PERSIAN in offsets for offsets in test["drawings"])


def test_a_picture_of_something_else_is_explained(
    folders: Folders, draw_pictures: Callable[..., list[Picture]]
) -> None:
    draw_pictures("others", 8, (DOG, "n00000007"))
    with pytest.raises(DataError, match=r"n00000007_001\.png.*neither one of the 5 classes"):
        Material.load(folders.photos.parent / "others", folders.cutouts, folders.icons)

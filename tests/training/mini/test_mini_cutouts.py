"""Which pictures become cut-outs, and what they are named."""

import json
from pathlib import Path

import pytest
from PIL import Image

from ovml_deploy.errors import DataError, MissingDependencyError
from ovml_deploy.training.mini.taxonomy import Taxonomy
from ovml_deploy.training.scenes import read_pictures
from ovml_deploy.training.wordnet import NounIndex

pytest.importorskip("resvg_py", reason="resvg_py, which draws the emoji, is not installed")

from ovml_deploy.training.mini import cutouts

STYLES = (*cutouts.TRAIN_STYLES, cutouts.TEST_STYLE)
RED = '<path fill="#f00" d="M4 4h8v8H4z"/>'
ICONS = {
    "width": 16,
    "height": 16,
    "icons": {
        "dog": {"body": RED},
        "tabby-cat": {"body": RED, "width": 32},
        "mandarin": {"body": RED},  # its first meaning is justice
        "justice": {"body": RED},
        "entity": {"body": RED},
        "dog-collar": {"body": RED},
    },
}


@pytest.fixture
def icons(tmp_path: Path) -> Path:
    for style in STYLES:
        (tmp_path / "icons" / style).mkdir(parents=True)
        (tmp_path / "icons" / style / "icons.json").write_text(json.dumps(ICONS))
    return tmp_path / "icons"


@pytest.fixture
def stamps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in the layout of Tux Paint; only the orange and the hound are to be taken."""
    folder = tmp_path / "stamps"
    descriptions = {
        "food/orange1": "A Seville orange.\nda.utf8=En appelsin.\n",
        "food/orange1_mirror": "A Seville orange.\n",
        "animals/rover": "A basset-hound!\n",
        "animals/cartoon/dog": "A dog.\n",
        "people/judge": "Justice.\n",
        "toys/cat": "A cat.\n",
    }
    for name, text in {**descriptions, "food/dog": None}.items():
        path = folder / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image = Image.new("LA", (20, 12), (0, 0))
        image.paste((200, 255), (5, 2, 15, 10))
        image.save(path)
        if text is not None:
            path.with_suffix(".txt").write_text(text, "utf-8")
    monkeypatch.setattr(cutouts, "STAMPS_FOLDER", folder)
    return folder


@pytest.mark.parametrize(
    ("phrase", "offset"),
    [
        ("a Seville orange.", "n00000009"),
        ("An orange", "n00000009"),
        ("Some oranges!", "n00000009"),
        ("two sandboxes", "n00000012"),
        ("the tabby cat", "n00000004"),
        ("A tabby-cat.", "n00000004"),  # the longest name: not a cat
        ("the black cat", "n00000003"),
        ("mandarin", "n00000009"),  # its second meaning
        ("hound", None),  # a dog only in its third
        ("puppy", None),  # not in the taxonomy
        ("justice", None),
        ("an entity", None),  # in the taxonomy, but nothing to be seen
        ("dog collar", None),  # a dog's, not a dog
        ("snorkel", None),
        ("", None),
    ],
)
def test_a_phrase_means_what_its_last_words_name(
    phrase: str, offset: str | None, taxonomy: Taxonomy, index: NounIndex
) -> None:
    assert cutouts.find_meaning(phrase, taxonomy, index) == offset


def test_cutouts_are_written_by_style_and_named_by_offset(
    tmp_path: Path, stamps: Path, icons: Path, taxonomy: Taxonomy, index: NounIndex
) -> None:
    (stamps / "animals" / "rover.txt").write_text("A sheep-dog!\n")
    folder = tmp_path / "out" / "cutouts"
    cutouts.make_cutouts(folder, icons, taxonomy, index)
    assert {path.name for path in folder.iterdir()} == {cutouts.STAMPS, *STYLES}
    found = read_pictures(folder / cutouts.STAMPS)
    assert [p.path.name for p in found] == ["n00000006_rover.png", "n00000009_orange1.png"]
    assert found[0].open_cutout().size == (10, 8)
    for style in STYLES:
        drawn = read_pictures(folder / style)
        assert [p.path.name for p in drawn] == ["n00000004_tabby-cat.png", "n00000006_dog.png"]


def test_icons_are_drawn_large_on_a_transparent_ground(
    tmp_path: Path, stamps: Path, icons: Path, taxonomy: Taxonomy, index: NounIndex
) -> None:
    cutouts.make_cutouts(tmp_path / "cutouts", icons, taxonomy, index)
    with Image.open(tmp_path / "cutouts" / STYLES[0] / "n00000006_dog.png") as image:
        assert image.mode == "RGBA"
        assert image.size == (192, 192)
        assert image.getpixel((96, 96)) == (255, 0, 0, 255)
        assert image.getchannel("A").getbbox() == (48, 48, 144, 144)


def test_a_folder_that_is_there_is_left_alone(
    tmp_path: Path, taxonomy: Taxonomy, index: NounIndex
) -> None:
    folder = tmp_path / "cutouts"
    folder.mkdir()
    (folder / "mine").touch()
    cutouts.make_cutouts(folder, tmp_path / "no icons", taxonomy, index)
    assert [path.name for path in folder.iterdir()] == ["mine"]


def test_missing_stamps_are_explained(
    tmp_path: Path,
    icons: Path,
    taxonomy: Taxonomy,
    index: NounIndex,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cutouts, "STAMPS_FOLDER", tmp_path / "absent")
    with pytest.raises(MissingDependencyError, match="apt-get install tuxpaint-stamps-default"):
        cutouts.make_cutouts(tmp_path / "cutouts", icons, taxonomy, index)
    assert not (tmp_path / "cutouts").exists()


def test_missing_icons_are_explained(
    tmp_path: Path, stamps: Path, icons: Path, taxonomy: Taxonomy, index: NounIndex
) -> None:
    (icons / cutouts.TEST_STYLE / "icons.json").unlink()
    with pytest.raises(DataError, match=r"openmoji.icons\.json.*npm pack @iconify-json/openmoji"):
        cutouts.make_cutouts(tmp_path / "cutouts", icons, taxonomy, index)
    assert not (tmp_path / "cutouts").exists()  # half of it would be taken for all next time

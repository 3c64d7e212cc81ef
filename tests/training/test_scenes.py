"""Mosaics and pasted cut-outs: what they show is what they say."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageChops

from ovml_deploy.errors import DataError
from ovml_deploy.training.scenes import (
    Picture,
    Scene,
    cutout_scenes,
    make_mosaic,
    mosaics,
    read_pictures,
    singles,
    split_pictures,
    tile_boxes,
)

STEP = 40  # of grey: photographs are dark, one level each
CUTOUT = {f"n1000000{number}": (255, 60 * number, 0) for number in range(4)}


@pytest.fixture
def photos(tmp_path: Path) -> list[Picture]:
    """Six grey photographs; number i has the offset n0000000i and the grey i * STEP."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(6):
        grey = Image.new("RGB", (16, 12), (number * STEP,) * 3)
        grey.save(folder / f"n0000000{number}_thing.jpg", quality=100)
    return read_pictures(folder)


@pytest.fixture
def cutouts(tmp_path: Path) -> list[Picture]:
    """Opaque rectangles in the colours of CUTOUT, each with a wide transparent border."""
    folder = tmp_path / "cutouts"
    folder.mkdir()
    for offset, colour in CUTOUT.items():
        image = Image.new("RGBA", (50, 40), (0, 255, 255, 0))
        image.paste((*colour, 255), (20, 10, 40, 20))
        image.save(folder / f"{offset}_stamp.png")
    return read_pictures(folder)


@pytest.fixture(params=["mosaics", "cut-outs"])
def draw(
    request: pytest.FixtureRequest, photos: list[Picture], cutouts: list[Picture]
) -> Callable[[int], Iterator[Scene]]:
    """A function seed -> twelve scenes."""
    if request.param == "mosaics":
        return lambda seed: mosaics(photos, 12, 32, seed)
    return lambda seed: cutout_scenes(photos, cutouts, 12, 60, seed)


def test_pictures_are_named_by_offset_and_other_files_are_left_out(tmp_path: Path) -> None:
    for name in ("n02123045_tabby.jpg", "n02123045.png", "n00000001_a.jpeg"):
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    for name in ("cat.jpg", "n0212_cat.jpg", "n02123045_notes.txt", "n021230456_long.png"):
        (tmp_path / name).touch()
    found = [(picture.path.name, picture.offset) for picture in read_pictures(tmp_path)]
    assert found == [
        ("n00000001_a.jpeg", "n00000001"),
        ("n02123045.png", "n02123045"),
        ("n02123045_tabby.jpg", "n02123045"),
    ]


def test_a_folder_without_pictures_is_explained(tmp_path: Path) -> None:
    (tmp_path / "cat.jpg").touch()
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(DataError, match=f"{folder.name} holds no pictures.*n02123045_tabby"):
            read_pictures(folder)


def test_photographs_stand_upright(tmp_path: Path) -> None:
    image = Image.new("RGB", (30, 20), (0, 0, 255))
    image.paste((255, 0, 0), (0, 0, 15, 20))
    orientation = Image.Exif()
    orientation[274] = 6  # the camera was turned: the left side of the file is the top
    image.save(tmp_path / "n00000001_a.jpg", quality=100, exif=orientation)
    upright = read_pictures(tmp_path)[0].open()
    assert upright.mode == "RGB"
    assert upright.size == (20, 30)
    assert upright.getpixel((10, 3))[0] > 200
    assert upright.getpixel((10, 27))[2] > 200


def test_transparent_borders_are_cropped(cutouts: list[Picture]) -> None:
    image = cutouts[1].open_cutout()
    assert image.mode == "RGBA"
    assert image.size == (20, 10)
    assert image.getcolors() == [(200, (*CUTOUT[cutouts[1].offset], 255))]


def test_photographs_are_in_one_part_only() -> None:
    pictures = [Picture(Path(f"{number}.jpg"), "n00000000") for number in range(80)]
    split = split_pictures(pictures)
    parts = [*split.train, *split.validation, *split.test]
    assert sorted(p.path for p in parts) == sorted(p.path for p in pictures)
    assert (len(split.train), len(split.validation), len(split.test)) == (40, 10, 30)
    assert split == split_pictures(pictures)


def test_splits_are_joined_part_by_part() -> None:
    first, second = (
        split_pictures([Picture(Path(f"{name}{i}.jpg"), "n00000000") for i in range(8)])
        for name in "ab"
    )
    both = first.plus(second)
    assert both.train == first.train + second.train
    assert both.validation == first.validation + second.validation
    assert both.test == first.test + second.test


@pytest.mark.parametrize("upright", [True, False])
@pytest.mark.parametrize("size", [20, 21])
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_tiles_cover_the_square_once(count: int, size: int, upright: bool) -> None:
    boxes = tile_boxes(count, size, upright)
    assert len(boxes) == count
    covered = torch.zeros(size, size)
    for left, top, right, bottom in boxes:
        covered[top:bottom, left:right] += 1
    assert torch.equal(covered, torch.ones(size, size))


@pytest.mark.parametrize("upright", [True, False])
def test_mosaic_shows_every_picture(upright: bool) -> None:
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    images = [Image.new("RGB", (30, 50), colour) for colour in colours]
    mosaic = make_mosaic(images, 40, upright)
    points = [(5, 20), (30, 5), (30, 35)]
    assert mosaic.size == (40, 40)
    assert [mosaic.getpixel(p if upright else p[::-1]) for p in points] == colours


def test_scenes_follow_their_seed(draw: Callable[[int], Iterator[Scene]]) -> None:
    def bytes_of(scenes: Iterator[Scene]) -> list[tuple[bytes, tuple[str, ...]]]:
        return [(scene.image.tobytes(), scene.offsets) for scene in scenes]

    first = bytes_of(draw(5))
    assert first == bytes_of(draw(5))
    other = bytes_of(draw(6))
    assert sum(a != b for a, b in zip(first, other, strict=True)) > 8


def test_singles_are_the_photographs_as_they_are(photos: list[Picture]) -> None:
    scenes = list(singles(photos))
    assert [scene.offsets for scene in scenes] == [(photo.offset,) for photo in photos]
    assert all(scene.image.size == (16, 12) for scene in scenes)
    assert [scene.image.tobytes() for scene in scenes] == [p.open().tobytes() for p in photos]


def test_mosaics_name_their_contents(photos: list[Picture]) -> None:
    scenes = list(mosaics(photos, 8, 32, seed=5))
    assert [len(scene.offsets) for scene in scenes] == [1, 2, 3, 4, 1, 2, 3, 4]
    for scene in scenes:
        corners = [(4, 4), (28, 4), (4, 28), (28, 28)]
        shown = {round(scene.image.getpixel(corner)[0] / STEP) for corner in corners}
        assert scene.image.size == (32, 32)
        assert shown == {int(offset[-1]) for offset in scene.offsets}


def test_cutout_scenes_name_their_contents(photos: list[Picture], cutouts: list[Picture]) -> None:
    scenes = list(cutout_scenes(photos, cutouts, 30, 100, seed=1))
    assert [len(scene.offsets) for scene in scenes] == [2, 3, 4] * 10
    assert {scene.offsets[0] for scene in scenes} == {photo.offset for photo in photos}
    for scene in scenes:
        background, *pasted = scene.offsets
        assert scene.image.mode == "RGB"
        assert scene.image.size == (100, 100)
        grey = (int(background[-1]) * STEP,) * 3
        seen = {colour for count, colour in scene.image.getcolors(10_000) if count >= 20}
        coloured = {colour for colour in seen if colour[0] - colour[2] == 255}
        assert any(max(abs(a - b) for a, b in zip(grey, c, strict=True)) < 4 for c in seen)
        assert CUTOUT[pasted[-1]] in coloured  # nothing covers the last
        assert coloured <= {CUTOUT[offset] for offset in pasted}
        assert len(set(pasted)) == len(pasted)


def test_a_cutout_lies_inside_whole_and_is_as_large_as_promised(
    photos: list[Picture], cutouts: list[Picture]
) -> None:
    boxes = set()
    for scene in cutout_scenes(photos, cutouts, 60, 100, seed=2):
        if len(scene.offsets) == 2:
            red, _, blue = scene.image.split()
            coloured = ImageChops.subtract(red, blue).point(lambda value: 255 * (value > 127))
            boxes.add(coloured.getbbox())
    assert len(boxes) == 20  # each has a place of its own
    for left, top, right, bottom in boxes:
        assert 35 <= right - left <= 55
        assert bottom - top == pytest.approx((right - left) / 2, abs=1)


def test_too_few_pictures_for_a_scene_are_explained(
    photos: list[Picture], cutouts: list[Picture]
) -> None:
    with pytest.raises(DataError, match=r"shows 4 different pictures.* only 3"):
        list(mosaics(photos[:3], 4, 32, seed=0))
    with pytest.raises(DataError, match=r"shows 2 different pictures.* only 1"):
        list(cutout_scenes(photos, cutouts[:1], 2, 32, seed=0))

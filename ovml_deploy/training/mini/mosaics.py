"""Photographs whose names begin with their WordNet offset, and mosaics of one to four of them."""

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageOps

from ovml_deploy.errors import DataError

Box = tuple[int, int, int, int]
_NAME = re.compile(r"(n\d{8})[_.]")
_GROUP = 8


@dataclass(frozen=True)
class Photo:
    """A photograph and the WordNet offset of what it shows."""

    path: Path
    offset: str

    def open(self) -> Image.Image:
        """Return the picture in RGB."""
        with Image.open(self.path) as image:
            return image.convert("RGB")


def read_photos(folder: Path) -> list[Photo]:
    """List the photographs of a folder by name. Raises DataError where there are none."""
    paths = sorted(folder.glob("*.jpg")) if folder.is_dir() else []
    photos = [Photo(path, match[1]) for path in paths if (match := _NAME.match(path.name))]
    if not photos:
        raise DataError(
            f"{folder} holds no training photographs. It needs JPEG files whose names begin with "
            "the WordNet offset of what they show, such as n02123045_tabby.jpg; name their folder "
            "with --photos."
        )
    return photos


@dataclass(frozen=True)
class PhotoSplit:
    """Photographs to train on, to choose by, and to measure on; no class needs to be in two."""

    train: tuple[Photo, ...]
    validation: tuple[Photo, ...]
    test: tuple[Photo, ...]


def split_photos(photos: Sequence[Photo]) -> PhotoSplit:
    """Of every eight photographs two are for testing and one is for validation."""
    parts: dict[str, list[Photo]] = {"train": [], "validation": [], "test": []}
    for index, photo in enumerate(photos):
        place = index % _GROUP
        parts["test" if place % 4 == 0 else "validation" if place == 2 else "train"].append(photo)
    return PhotoSplit(**{name: tuple(part) for name, part in parts.items()})


def tile_boxes(count: int, size: int, upright: bool) -> list[Box]:
    """Return ``count`` (1 to 4) boxes that cover a square; ``upright`` cuts it left to right."""
    half = size // 2
    boxes: dict[int, list[Box]] = {
        1: [(0, 0, size, size)],
        2: [(0, 0, half, size), (half, 0, size, size)],
        3: [(0, 0, half, size), (half, 0, size, half), (half, half, size, size)],
        4: [
            (0, 0, half, half),
            (half, 0, size, half),
            (0, half, half, size),
            (half, half, size, size),
        ],
    }
    if upright:
        return boxes[count]
    return [(top, left, bottom, right) for left, top, right, bottom in boxes[count]]


def make_mosaic(images: Sequence[Image.Image], size: int, upright: bool) -> Image.Image:
    """Tile one to four RGB pictures into a square; each fills its tile, cut to fit."""
    canvas = Image.new("RGB", (size, size))
    for image, box in zip(images, tile_boxes(len(images), size, upright), strict=True):
        tile = ImageOps.fit(image, (box[2] - box[0], box[3] - box[1]), Image.Resampling.BICUBIC)
        canvas.paste(tile, box)
    return canvas


def make_mosaics(
    photos: Sequence[Photo], count: int, size: int, seed: int
) -> Iterator[tuple[Image.Image, list[str]]]:
    """Yield ``count`` mosaics with the offsets of the photographs in them.

    Mosaic i shows i mod 4 + 1 photographs, drawn without repetition and mirrored at random.
    """
    generator = random.Random(seed)
    for index in range(count):
        chosen = generator.sample(photos, index % 4 + 1)
        images = [photo.open() for photo in chosen]
        mirrored = [ImageOps.mirror(i) if generator.random() < 0.5 else i for i in images]
        mosaic = make_mosaic(mirrored, size, upright=generator.random() < 0.5)
        yield mosaic, [photo.offset for photo in chosen]

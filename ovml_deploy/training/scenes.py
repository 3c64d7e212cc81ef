"""Pictures with known contents: mosaics of photographs, and photographs with things pasted on.

Source pictures are files whose names begin with the WordNet offset of what they show
("n02123045_tabby.jpg", as ImageNet's do): photographs, and cut-outs with a transparent background.
Everything drawn at random follows a seed.
"""

import random
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageOps

from ovml_deploy.errors import DataError
from ovml_deploy.runtime.images import open_image

Box = tuple[int, int, int, int]

_NAME = re.compile(r"(n\d{8})[_.]")
_SUFFIXES = (".jpg", ".jpeg", ".png")
_MOST_PARTS = 4
_MOST_PASTED = 3
_PASTED_SIZE = (0.35, 0.55)  # of the scene's side
_EIGHTH = 8


@dataclass(frozen=True)
class Picture:
    """A picture of one thing, and the WordNet offset of what it shows."""

    path: Path
    offset: str

    def open(self) -> Image.Image:
        """Return the picture as upright RGB, as the tagger sees it. Raises ImageError."""
        return open_image(self.path)

    def open_cutout(self) -> Image.Image:
        """Return the picture in RGBA, cropped to what is not transparent."""
        with Image.open(self.path) as image:
            cutout = image.convert("RGBA")
        return cutout.crop(cutout.getchannel("A").getbbox())


@dataclass(frozen=True)
class Scene:
    """An RGB picture of one or more things, and their WordNet offsets."""

    image: Image.Image
    offsets: tuple[str, ...]


@dataclass(frozen=True)
class Split:
    """Pictures to train on, to choose by, and to measure on; a kind may be in one part only."""

    train: tuple[Picture, ...]
    validation: tuple[Picture, ...]
    test: tuple[Picture, ...]

    def plus(self, other: "Split") -> "Split":
        """Return these pictures and the other's."""
        return Split(
            self.train + other.train, self.validation + other.validation, self.test + other.test
        )


def read_pictures(folder: Path) -> list[Picture]:
    """List a folder's pictures by name. Raises DataError where there are none."""
    paths = sorted(p for p in folder.glob("*") if p.suffix in _SUFFIXES) if folder.is_dir() else []
    pictures = [Picture(path, match[1]) for path in paths if (match := _NAME.match(path.name))]
    if not pictures:
        raise DataError(
            f"{folder} holds no pictures. It needs JPEG or PNG files whose names begin with the "
            "WordNet offset of what they show, such as n02123045_tabby.jpg."
        )
    return pictures


def split_pictures(pictures: Sequence[Picture]) -> Split:
    """Of every eight pictures in order three are for testing and one is for validation."""
    parts: dict[str, list[Picture]] = {"train": [], "validation": [], "test": []}
    for index, picture in enumerate(pictures):
        place = index % _EIGHTH
        parts[{1: "test", 3: "test", 5: "test", 2: "validation"}.get(place, "train")].append(
            picture
        )
    return Split(**{name: tuple(part) for name, part in parts.items()})


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


def singles(photos: Iterable[Picture]) -> Iterator[Scene]:
    """Yield each photograph as it is, not cut to a square."""
    for photo in photos:
        yield Scene(photo.open(), (photo.offset,))


def mosaics(photos: Sequence[Picture], count: int, size: int, seed: int) -> Iterator[Scene]:
    """Yield ``count`` mosaics; number i shows i mod 4 + 1 photographs, mirrored at random.

    Raises DataError where there are fewer photographs than a mosaic shows.
    """
    generator = random.Random(seed)
    for index in range(count):
        chosen = _draw(photos, index % _MOST_PARTS + 1, generator)
        images = [_mirrored(photo.open(), generator) for photo in chosen]
        image = make_mosaic(images, size, upright=generator.random() < 0.5)
        yield Scene(image, tuple(photo.offset for photo in chosen))


def cutout_scenes(
    photos: Sequence[Picture], cutouts: Sequence[Picture], count: int, size: int, seed: int
) -> Iterator[Scene]:
    """Yield ``count`` photographs with i mod 3 + 1 cut-outs pasted onto each.

    A cut-out's longer side is 35 to 55% of the scene's, its place anywhere inside; a later one may
    cover an earlier one. The photograph counts as shown however much of it is covered. Raises
    DataError where there are fewer cut-outs than a scene shows.
    """
    generator = random.Random(seed)
    for index in range(count):
        background = generator.choice(photos)
        pasted = _draw(cutouts, index % _MOST_PASTED + 1, generator)
        canvas = make_mosaic([_mirrored(background.open(), generator)], size, upright=True)
        for cutout in pasted:
            _paste(canvas, _mirrored(cutout.open_cutout(), generator), generator)
        yield Scene(canvas, (background.offset, *(cutout.offset for cutout in pasted)))


def _draw(pictures: Sequence[Picture], count: int, generator: random.Random) -> list[Picture]:
    if count > len(pictures):
        raise DataError(
            f"A scene shows {count} different pictures, and there are only {len(pictures)} for it. "
            "Add pictures to the folder: of every eight one is for validation, three for testing."
        )
    return generator.sample(pictures, count)


def _mirrored(image: Image.Image, generator: random.Random) -> Image.Image:
    return ImageOps.mirror(image) if generator.random() < 0.5 else image


def _paste(canvas: Image.Image, cutout: Image.Image, generator: random.Random) -> None:
    longest = round(canvas.width * generator.uniform(*_PASTED_SIZE))
    small = ImageOps.contain(cutout, (longest, longest), Image.Resampling.BICUBIC)
    left = generator.randint(0, canvas.width - small.width)
    top = generator.randint(0, canvas.height - small.height)
    canvas.paste(small, (left, top), small)

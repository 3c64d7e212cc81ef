"""What large photographs cost to read, exactly and at a lower resolution, and how near the tags stay.

    python benchmarks/large_photos.py [--engine BUNDLE] [--megapixels 12] [--images 200] [--write]

Photographs are enlarged and saved as JPEG first. ``exact`` is what ``Tagger`` does. A JPEG decoder can
also leave out detail and give an eighth to a half of the width (Pillow's ``draft``), here no less
than so many times the model's input, from where we go on as ever. One thread, in turns; from the bytes of
the file to the pixels of the model's input. Tags are the five best, and all that reach their threshold, of
the bundle's own vocabulary.
"""

import argparse
import io
from collections.abc import Callable
from functools import partial

import numpy as np
from inputs import photographs
from PIL import Image
from report import Report, add_write

from ovml_deploy import assets
from ovml_deploy.runtime.engine import Engine
from ovml_deploy.runtime.images import open_image
from ovml_deploy.runtime.preprocessing import Preprocessing
from ovml_deploy.runtime.tagger import Tagger
from ovml_deploy.runtime.turns import median, ratio, take_turns

_EXACT = "exact"
_TIMES = (4, 2, 1)  # the model's input
_QUALITY = 92

Read = Callable[[bytes], np.ndarray]


def enlarged(image: Image.Image, megapixels: float) -> bytes:
    """Return an image as a JPEG of so many pixels."""
    times = (megapixels * 1e6 / (image.width * image.height)) ** 0.5
    size = round(image.width * times), round(image.height * times)
    file = io.BytesIO()
    image.resize(size, Image.Resampling.BICUBIC).save(file, "JPEG", quality=_QUALITY)
    return file.getvalue()


def readers(preprocessing: Preprocessing) -> dict[str, Read]:
    """Return ways from a file's bytes to pixels ``[H, W, 3]``."""
    height, width = preprocessing.size

    def scaled(times: int, content: bytes) -> np.ndarray:
        image = Image.open(io.BytesIO(content))
        image.draft("RGB", (times * width, times * height))
        return preprocessing(open_image(image))

    ways: dict[str, Read] = {_EXACT: lambda content: preprocessing(open_image(content))}
    return ways | {f"at least {times}x the input": partial(scaled, times) for times in _TIMES}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engine", default=str(assets.MINI))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--megapixels", type=float, default=12.0)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--timed", type=int, default=4, help="how many of them are timed")
    parser.add_argument("--photos", default="../shared/photos")
    parser.add_argument("--seconds", type=float, default=20.0)
    add_write(parser)
    given = parser.parse_args()
    tagger = Tagger.of(Engine.open(given.engine, given.device))
    report = Report(f"Large photographs, {tagger.bundle.path.name}", tagger.engine)
    paths = photographs(given.photos, given.images)[: given.images]
    files = [enlarged(open_image(path), given.megapixels) for path in paths]
    ways = readers(tagger.bundle.preprocessing)
    some = files[: given.timed]
    calls = {name: partial(_read, read, some) for name, read in ways.items()}
    turns = take_turns(calls, given.seconds)
    pixels = {name: np.stack(_read(read, files)) for name, read in ways.items()}
    five = {name: _tags(tagger, found, top_k=5) for name, found in pixels.items()}
    all_ = {name: _tags(tagger, found, top_k=None) for name, found in pixels.items()}
    rows = [["JPEG decoded", "ms a photograph", "x exact", "levels off, mean", "five best", "tags"]]
    for name, taken in turns.items():
        off = np.abs(pixels[name].astype(int) - pixels[_EXACT]).mean()
        times = "{:.2f} ({:.2f} to {:.2f})".format(*ratio(taken, turns[_EXACT]))
        equal = [f"{100 * _shared(found[name], found[_EXACT]):.1f}%" for found in (five, all_)]
        rows.append([name, f"{1e3 * median(taken) / len(some):.0f}", times, f"{off:.2f}", *equal])
    report.table(f"{len(files)} JPEG files of {given.megapixels:g} megapixels", rows)
    for row in rows[1:]:
        report.headline(f"reading, {row[0]}", f"{row[1]} ms", f"{row[2]} of exact")
    report.write(given.write)


def _read(read: Read, files: list[bytes]) -> list[np.ndarray]:
    return [read(content) for content in files]


def _tags(tagger: Tagger, pixels: np.ndarray, top_k: int | None) -> list[set[str]]:
    """The labels of images that are the model's input already."""
    threshold = 0.0 if top_k else None  # the five best, whatever their score
    results = tagger.tag_many([*pixels], top_k=top_k, threshold=threshold)
    return [{tag.label for tag in result.tags} for result in results]


def _shared(one: list[set[str]], other: list[set[str]]) -> float:
    """The share of all tags that both have."""
    pairs = [*zip(one, other, strict=True)]
    return sum(len(a & b) for a, b in pairs) / max(1, sum(len(a | b) for a, b in pairs))


if __name__ == "__main__":
    main()

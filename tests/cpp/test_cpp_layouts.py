"""C++ reads each layout of JPEG and PNG as Python does, or refuses it."""

from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from cpp import built, pixels
from drawn import encoded, picture
from image_files import jpeg_with_adobe, jpeg_without, png, png_chunk

from ovml_deploy import assets
from ovml_deploy.errors import ImageError
from ovml_deploy.runtime.bundle import Bundle
from ovml_deploy.runtime.images import open_image

WIDTH, HEIGHT = 60, 44
ADOBE = 0xEE

Compare = Callable[[dict[str, bytes]], list[str]]


@pytest.fixture
def compare(tmp_path: Path) -> Compare:
    """A function that asserts equal pixels or two errors; it returns what C++ refuses."""
    bundle = Bundle.open(assets.MINI)
    tool = built() / "tests" / "pixels"

    def run(files: dict[str, bytes]) -> list[str]:
        paths = []
        for name, content in files.items():
            paths.append(tmp_path / name)
            paths[-1].write_bytes(content)
        found = pixels(tool, assets.MINI / "bundle.json", paths, bundle.preprocessing.size)
        refused = []
        for path, value in zip(paths, found, strict=True):
            try:
                expected = bundle.preprocessing(open_image(path))
            except ImageError:
                assert isinstance(value, str), f"{path.name}: Python refuses it, C++ does not"
                refused.append(path.name)
                continue
            if isinstance(value, str):
                refused.append(path.name)
            else:
                assert np.array_equal(value, expected), path.name
        return refused

    return run


def smooth(samples: int, bits: int = 8) -> np.ndarray:
    rgb = np.asarray(picture(WIDTH, HEIGHT), dtype=np.float64) / 255
    values = np.dstack([rgb, rgb[::-1, ::-1, 0]])[..., :samples]
    return np.round(values * (2**bits - 1)).astype(np.uint8 if bits <= 8 else np.uint16)


def test_png_of_every_depth_with_transparency_and_interlaced(compare: Compare) -> None:
    files = {}
    kinds = [(b, c, s) for b in (8, 16) for c, s in ((0, 1), (4, 2), (2, 3), (6, 4))]
    for bits, colour, samples in kinds + [(b, 0, 1) for b in (1, 2, 4)]:
        values = smooth(samples, bits)
        transparent = png_chunk(b"tRNS", values[0, 0].astype(">u2").tobytes())
        hints = png_chunk(b"gAMA", b"\0\1\x86\xa0") + png_chunk(b"cICP", b"\x09\x10\x00\x01")
        hints += png_chunk(b"sBIT", bytes([1] * samples))
        for name, chunks in (("plain", b""), ("hints", hints), ("clear", transparent)):
            for interlaced in (False, True):
                if name != "clear" or colour in (0, 2):
                    file = png(values, bits, colour, chunks, interlaced)
                    files[f"{bits}-{colour}-{name}-{interlaced}.png"] = file
    assert compare(files) == []


def test_png_with_a_palette(compare: Compare) -> None:
    files = {}
    for bits in (1, 2, 4, 8):
        palette = np.random.default_rng(0).integers(0, 256, (2**bits, 3), dtype=np.uint8)
        for interlaced in (False, True):
            for alpha in (b"", png_chunk(b"tRNS", bytes(range(2**bits)))):
                chunks = png_chunk(b"PLTE", palette.tobytes()) + alpha
                file = png(smooth(1, bits), bits, 3, chunks, interlaced)
                files[f"{bits}-{interlaced}-{bool(alpha)}.png"] = file
    assert compare(files) == []


def test_jpeg_with_any_segments(compare: Compare) -> None:
    files = {}
    for stored in ("rgb", "ycc"):
        file = encoded(picture(WIDTH, HEIGHT), "JPEG", quality=90, keep_rgb=stored == "rgb")
        files[f"{stored}.jpg"] = file
        files[f"{stored}-none.jpg"] = jpeg_without(file, 0xE0, ADOBE)
        for transform in (0, 1, 2):
            files[f"{stored}-{transform}.jpg"] = jpeg_with_adobe(file, transform)
    for stored in ("CMYK", "YCCK"):
        file = imagecodecs.jpeg8_encode(
            smooth(4), level=90, colorspace="CMYK", outcolorspace=stored
        )
        files[f"{stored}.jpg"] = file
        files[f"{stored}-none.jpg"] = jpeg_without(file, ADOBE)
        for transform in (0, 2):
            files[f"{stored}-{transform}.jpg"] = jpeg_with_adobe(file, transform)
    assert compare(files) == []


def test_twelve_bits_are_refused_and_lossless_is_never_misread(compare: Compare) -> None:
    files = {
        "twelve.jpg": imagecodecs.jpeg8_encode(smooth(3, 12), bitspersample=12),
        "twelve-grey.jpg": imagecodecs.jpeg8_encode(smooth(1, 12)[..., 0], bitspersample=12),
        "lossless.jpg": imagecodecs.jpeg8_encode(smooth(3), lossless=True),
    }
    refused = compare(files)
    assert "twelve.jpg" in refused
    assert "twelve-grey.jpg" in refused

"""C++ gives the pixels that the Python runtime gives, byte for byte, or refuses what it refuses."""

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from cpp import built, pixels
from PIL import Image, ImageCms

from ovml_deploy import assets
from ovml_deploy.errors import ImageError
from ovml_deploy.runtime.images import open_image
from ovml_deploy.runtime.preprocessing import Preprocessing

_SEED = 7


@pytest.fixture(scope="module")
def tool() -> Path:
    return built() / "tests" / "pixels"


@pytest.fixture
def same(tool: Path, tmp_path: Path) -> Callable[..., None]:
    """A function that compares images under a preprocessing: equal pixels, or an error on both sides."""

    def compare(images: list[Path], **changes: object) -> None:
        manifest = json.loads((assets.MINI / "bundle.json").read_text())
        manifest["preprocessing"].update(changes)
        (tmp_path / "bundle.json").write_text(json.dumps(manifest))
        python = Preprocessing.from_config(manifest["preprocessing"])
        found = pixels(tool, tmp_path / "bundle.json", images, python.size)
        for image, value in zip(images, found, strict=True):
            expected = in_python(python, image)
            where = f"{image.name} {changes}"
            if isinstance(expected, str) or isinstance(value, str):
                assert isinstance(expected, str), f"{where}: C++ says {value}"
                assert isinstance(value, str), f"{where}: Python says {expected}"
                continue
            assert np.array_equal(value, expected), (
                f"{image.name} {changes}: {np.count_nonzero(value != expected)} values differ"
            )

    return compare


def in_python(preprocessing: Preprocessing, image: Path) -> np.ndarray | str:
    try:
        return preprocessing(open_image(image))
    except ImageError as error:
        return str(error)


def picture(width: int, height: int, mode: str = "RGB", seed: int = _SEED) -> Image.Image:
    """Coarse colours with noise on them, so that every rounding matters."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 256, (5, 5, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), dtype=np.int16)
    noise = random.integers(-30, 31, smooth.shape)
    return Image.fromarray(np.clip(smooth + noise, 0, 255).astype(np.uint8)).convert(mode)


def test_photographs(same) -> None:
    same(assets.sample_photographs())


def test_the_shared_photographs(same, photos: list[Path]) -> None:
    same(photos[::7])


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"interpolation": "bilinear"},
        {"resize_mode": "squash"},
        {"resize_mode": "longest", "fill_color": 119},
        {"size": [37, 64]},
        {"size": [64, 37], "interpolation": "bilinear"},
        {"size": [33, 48], "resize_mode": "longest", "interpolation": "bilinear"},
        {"size": 336},
    ],
)
def test_odd_sizes(same, tmp_path: Path, changes: dict[str, object]) -> None:
    sizes = [(1, 1), (2, 3), (1, 40), (40, 1), (223, 225), (224, 224), (225, 224), (37, 1000)]
    sizes += [(1000, 37), (999, 501), (448, 448), (449, 673), (5, 2000), (64, 37), (1333, 799)]
    images = []
    for width, height in sizes:
        images.append(tmp_path / f"{width}x{height}.png")
        picture(width, height).save(images[-1])
    same(images, **changes)


def test_thin_ones_are_refused_alike(same, tmp_path: Path) -> None:
    images = [tmp_path / "long.png", tmp_path / "tall.png", tmp_path / "thin.png"]
    for image, size in zip(images, [(6000, 1), (1, 5200), (1, 3000)], strict=True):
        picture(*size).save(image)
    same(images)
    same(images, resize_mode="longest")


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_jpeg_of_every_kind(same, tmp_path: Path, mode: str) -> None:
    images = []
    for subsampling in ("4:4:4", "4:2:2", "4:2:0"):
        for options in ({}, {"progressive": True}, {"restart_marker_rows": 1}):
            for quality in (30, 95):
                images.append(tmp_path / f"{len(images)}.jpg")
                made = picture(301, 211, mode, len(images))
                made.save(images[-1], quality=quality, subsampling=subsampling, **options)
    same(images)


def test_jpeg_kept_as_rgb(same, tmp_path: Path) -> None:
    picture(150, 97).save(tmp_path / "rgb.jpg", keep_rgb=True)
    same([tmp_path / "rgb.jpg"])


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16", "PA"])
def test_png_of_every_kind(same, tmp_path: Path, mode: str) -> None:
    images = [tmp_path / "one.png", tmp_path / "clear.png"]
    if mode == "I;16":
        values = np.random.default_rng(1).integers(0, 65536, (91, 130), dtype=np.uint16)
        made = Image.fromarray(values)
    else:
        made = picture(130, 91, "RGBA").convert("P" if mode == "PA" else mode)
    made.save(images[0], bits=4) if mode == "P" else made.save(images[0])
    made.save(images[1], transparency=0 if mode in ("P", "L", "1", "PA") else None)
    same(images)


def test_png_of_sixteen_bits_and_interlaced(same, tmp_path: Path) -> None:
    """Made by hand, for Pillow writes neither."""
    images = []
    random = np.random.default_rng(2)
    for channels, colour in ((3, 2), (4, 6), (2, 4)):
        rows = random.integers(0, 256, (40, 50 * channels * 2), dtype=np.uint8)
        images.append(tmp_path / f"sixteen{colour}.png")
        images[-1].write_bytes(png(50, 40, 16, colour, rows))
    for bits in (1, 2, 4):
        rows = random.integers(0, 256, (40, (50 * bits + 7) // 8), dtype=np.uint8)
        images.append(tmp_path / f"grey{bits}.png")
        images[-1].write_bytes(png(50, 40, bits, 0, rows))
    same(images)


def png(width: int, height: int, bits: int, colour: int, rows: np.ndarray) -> bytes:
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    body = b"".join(b"\0" + row.tobytes() for row in rows)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(body))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_every_exif_rotation(same, tmp_path: Path, suffix: str) -> None:
    images = []
    for orientation in (*range(10), 65535):
        exif = Image.Exif()
        exif[0x0112] = orientation
        images.append(tmp_path / f"{orientation}.{suffix}")
        picture(90, 61).save(images[-1], exif=exif)
    assert open_image(images[6]).size == (61, 90)
    same(images)


def test_exif_in_either_byte_order_and_in_xmp(same, tmp_path: Path) -> None:
    images = []
    xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    entry = {
        "<": b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0",
        ">": b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0",
        "long": b"II*\0\x08\0\0\0\x01\0\x12\x01\x04\0\x01\0\0\0\x08\0\0\0\0\0\0\0",
        "bytes": b"II*\0\x08\0\0\0\x01\0\x12\x01\x01\0\x01\0\0\0\x06\0\0\0\0\0\0\0",
        "many": b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x02\0\0\0\x06\0\x03\0\0\0\0\0",
        "cut": b"II*\0\x08\0\0\0\x02\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\x12",
        "beyond": b"II*\0\xff\xff\0\0",
        "short": b"II*",
        "junk": b"no TIFF at all",
        "empty": b"",
    }
    for name, data in entry.items():
        images.append(tmp_path / f"{ord(name[0])}{name[1:]}.jpg")
        picture(90, 61).save(images[-1], exif=b"Exif\0\0" + data)
    for name, options in (
        ("xmp", {"xmp": xmp}),
        ("both", {"xmp": xmp, "exif": b"Exif\0\0" + entry["long"]}),
    ):
        images.append(tmp_path / f"{name}.jpg")
        picture(90, 61).save(images[-1], **options)
    assert open_image(images[-2]).size == (61, 90)
    same(images)


def test_damaged_files_are_errors_on_both_sides(same, tmp_path: Path) -> None:
    whole = io.BytesIO()
    picture(120, 80).save(whole, "JPEG")
    png_file = io.BytesIO()
    picture(120, 80).save(png_file, "PNG")
    damaged = {
        "empty.jpg": b"",
        "half.jpg": whole.getvalue()[: len(whole.getvalue()) // 2],
        "head.jpg": whole.getvalue()[:40],
        "half.png": png_file.getvalue()[: len(png_file.getvalue()) // 2],
        "page.jpg": b"<!doctype html><html></html>",
        "huge.png": png(60000, 60000, 8, 2, np.zeros((1, 1), np.uint8)),
    }
    for name, data in damaged.items():
        (tmp_path / name).write_bytes(data)
    images = [tmp_path / name for name in damaged]
    images += [tmp_path / "absent.jpg", tmp_path]
    same(images)


def test_an_embedded_profile_changes_nothing(same, tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    picture(90, 61).save(tmp_path / "a.jpg", icc_profile=profile)
    picture(90, 61).save(tmp_path / "a.png", icc_profile=profile)
    same([tmp_path / "a.jpg", tmp_path / "a.png"])

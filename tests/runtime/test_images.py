"""Opening images nobody vouches for."""

import io
import os
import struct
import subprocess
import sys
import threading
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from drawn import encoded, picture
from PIL import Image

from ovml_deploy.errors import ImageError
from ovml_deploy.runtime.images import MAX_PIXELS, describe, open_image

EXIF_ORIENTATION = 0x0112


def png(width: int, height: int, pixels: bytes) -> bytes:
    """An 8-bit RGB PNG with any size in its header, around any pixel data."""

    def chunk(name: bytes, data: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(name + data))
        return struct.pack(">I", len(data)) + name + data + checksum

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + data


# --- what is wrong is named, with the remedy


def test_missing_file() -> None:
    with pytest.raises(ImageError, match=r"nowhere/cat\.jpg: there is no such file"):
        open_image("nowhere/cat.jpg")


def test_folder(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=f"{tmp_path}: is a folder"):
        open_image(tmp_path)


def test_empty_file(tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").touch()
    with pytest.raises(ImageError, match=r"empty\.jpg: is empty \(0 bytes\)"):
        open_image(tmp_path / "empty.jpg")
    with pytest.raises(ImageError, match="<0 bytes>"):
        open_image(b"")


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.95])
def test_truncated_file(tmp_path: Path, kind: str, share: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    whole = encoded(Image.fromarray(noise), kind)
    path = tmp_path / f"half.{kind.lower()}"
    path.write_bytes(whole[: int(len(whole) * share)])
    for source in (path, path.read_bytes(), path.open("rb")):
        with pytest.raises(ImageError, match=r"fetch it again|damaged|not an image") as caught:
            open_image(source)
        assert describe(source) in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\n <!DOCTYPE html><html><body>404</body></html>", "HTML page; the download"),
        (b"<html><head></head></html>", "HTML page"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG or XML; render it to PNG"),
        (b"not an image at all", "not an image that can be read"),
        (b"\xff\xd8\xff", "half.jpg"),
    ],
)
def test_not_an_image(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "half.jpg"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=message) as caught:
        open_image(path)
    assert str(path) in str(caught.value)
    with pytest.raises(ImageError):
        open_image(content)


@pytest.mark.parametrize("size", [(20_000, 10_000), (9500, 9500), (100_000, 100_000)])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_bomb_is_refused_before_it_is_decoded(tmp_path: Path, size: tuple[int, int]) -> None:
    """Zeros deflate 1000-fold: 600 MB of pixels in a small file."""
    path = tmp_path / "bomb.png"
    path.write_bytes(png(*size, bytes(1000)))
    with pytest.raises(ImageError, match=r"bomb\.png: too many pixels.*Scale it down"):
        open_image(path)


def test_the_limit_on_pixels_holds_for_arrays_and_images_too() -> None:
    side = int(MAX_PIXELS**0.5) + 1
    array = np.broadcast_to(np.zeros((1, 1, 3), dtype=np.uint8), (side, side, 3))
    with pytest.raises(ImageError, match="too many pixels"):
        open_image(array)
    lazy = Image.new("1", (side, side))
    with pytest.raises(ImageError, match="too many pixels"):
        open_image(lazy)


def test_the_limit_on_bytes(tmp_path: Path) -> None:
    path = tmp_path / "huge.png"
    with open(path, "wb") as file:
        file.truncate(257 * 1024 * 1024)  # sparse
    with pytest.raises(ImageError, match=r"huge\.png: 269,484,032 bytes; at most"):
        open_image(path)


def test_an_image_without_pixels() -> None:
    with pytest.raises(ImageError, match="no pixels"):
        open_image(Image.new("RGB", (0, 5)))


def test_postscript_is_never_run() -> None:
    with pytest.raises(ImageError, match=r"PostScript.*Save it as PNG"):
        open_image(encoded(picture(), "EPS"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_without_permission(tmp_path: Path) -> None:
    path = tmp_path / "secret.png"
    path.write_bytes(encoded(picture(), "PNG"))
    path.chmod(0)
    with pytest.raises(ImageError, match=r"secret\.png: cannot be read"):
        open_image(path)


@pytest.mark.parametrize("path", ["nul\0l.jpg", "a" * 5000 + ".jpg"])
def test_impossible_paths(path: str) -> None:
    with pytest.raises(ImageError):
        open_image(path)


@pytest.mark.parametrize("source", [None, 3, ["a.jpg"], object()])
def test_other_things_are_refused(source) -> None:
    with pytest.raises(ImageError, match=f"An image is a path.*not {type(source).__name__}"):
        open_image(source)


def test_a_closed_file(tmp_path: Path) -> None:
    (tmp_path / "cat.png").write_bytes(encoded(picture(), "PNG"))
    file = (tmp_path / "cat.png").open("rb")
    file.close()
    with pytest.raises(ImageError, match=r"cat\.png"):
        open_image(file)


# --- what is right is upright RGB


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_exif_orientation_is_applied(orientation: int, kind: str) -> None:
    upright = picture(24, 16)
    pixels = np.asarray(upright)
    # how a camera held that way stores it: the inverse of what a viewer does
    stored = {
        1: pixels,
        2: pixels[:, ::-1],
        3: pixels[::-1, ::-1],
        4: pixels[::-1],
        5: pixels.transpose(1, 0, 2),
        6: np.rot90(pixels, 1),
        7: pixels.transpose(1, 0, 2)[::-1, ::-1],
        8: np.rot90(pixels, -1),
    }[orientation]
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    quality = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}
    data = encoded(
        Image.fromarray(np.ascontiguousarray(stored)), kind, exif=exif, **quality.get(kind, {})
    )
    opened = open_image(data)
    assert opened.size == (24, 16)
    difference = np.asarray(opened).astype(int) - pixels
    assert np.abs(difference).max() <= (8 if kind == "JPEG" else 0)
    # a second pass must not turn it again
    assert np.array_equal(np.asarray(open_image(opened)), np.asarray(opened))


@pytest.mark.parametrize("exif", [b"", b"Exif\0\0", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", b"\0" * 50])
def test_damaged_exif_is_no_reason_to_fail_otherwise_than_with_an_image_error(exif: bytes) -> None:
    data = encoded(picture(), "JPEG", exif=exif)
    assert open_image(data).size == (12, 8)


MODES = ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "LAB", "PA", "RGBX"]


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_becomes_what_pillow_makes_of_it(mode: str) -> None:
    source = {
        "LAB": lambda: Image.new("LAB", (12, 8), (120, 20, 30)),
        "PA": lambda: picture().convert("P").convert("PA"),
    }.get(mode, lambda: picture().convert(mode))()
    opened = open_image(source)
    assert opened.mode == "RGB"
    assert np.array_equal(np.asarray(opened), np.asarray(source.convert("RGB")))


@pytest.mark.parametrize(
    ("mode", "kind"),
    [("1", "PNG"), ("L", "PNG"), ("LA", "PNG"), ("P", "PNG"), ("RGBA", "PNG"), ("CMYK", "JPEG"),
     ("CMYK", "TIFF"), ("RGBA", "WEBP"), ("P", "GIF"), ("L", "JPEG"), ("P", "BMP"), ("1", "TIFF")],
)  # fmt: skip
def test_every_mode_from_a_file(tmp_path: Path, mode: str, kind: str) -> None:
    path = tmp_path / f"{mode}.{kind.lower()}"
    picture().convert(mode).save(path, kind)
    opened = open_image(path)
    with Image.open(path) as plain:
        assert plain.mode == mode or kind == "WEBP"
        assert np.array_equal(np.asarray(opened), np.asarray(plain.convert("RGB")))


def test_alpha_is_dropped_not_blended() -> None:
    rgba = np.dstack([np.asarray(picture()), np.zeros((8, 12), dtype=np.uint8)])
    opened = open_image(encoded(Image.fromarray(rgba), "PNG"))
    assert np.array_equal(np.asarray(opened), np.asarray(picture()))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("transparency", [0, bytes([0, 128, 255])])
def test_palette_with_transparency(transparency: int | bytes) -> None:
    image = Image.new("P", (2, 2))
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    image.putdata([0, 1, 2, 1])
    opened = open_image(encoded(image, "PNG", transparency=transparency))
    expected = [[[10, 20, 30], [40, 50, 60]], [[70, 80, 90], [40, 50, 60]]]
    assert np.asarray(opened).tolist() == expected


SIXTEEN = np.array([[0, 128, 129, 257], [1000, 32768, 65407, 65535]], dtype=np.uint16)
EIGHT = [[0, 0, 1, 1], [4, 128, 255, 255]]


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "array", "big-endian", "PPM", "int32"])
def test_sixteen_bits_are_scaled_not_clipped(kind: str) -> None:
    image = Image.fromarray(SIXTEEN)
    assert image.mode == "I;16"
    if kind == "big-endian":
        image = Image.frombytes("I;16B", (4, 2), SIXTEEN.astype(">u2").tobytes())
    elif kind == "int32":
        image = Image.fromarray(SIXTEEN.astype(np.int32))
        assert image.mode == "I"
    source = image if kind in ("array", "big-endian", "int32") else encoded(image, kind)
    opened = open_image(source)
    assert opened.mode == "RGB"
    assert np.asarray(opened)[..., 0].tolist() == EIGHT
    assert np.ptp(np.asarray(opened), axis=2).max() == 0


def test_sixteen_bits_are_rotated() -> None:
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = 6
    opened = open_image(encoded(Image.fromarray(SIXTEEN), "PNG", exif=exif))
    assert np.asarray(opened)[..., 0].tolist() == np.rot90(EIGHT, -1).tolist()


@pytest.mark.parametrize("values", [[[-1, 5]], [[0, 65536]], [[0, 2**31 - 1]]])
def test_thirty_two_bit_integers_beyond_sixteen_are_refused(values) -> None:
    data = encoded(Image.fromarray(np.array(values, dtype=np.int32)), "TIFF")
    with pytest.raises(ImageError, match=r"exceed 16 bits.*Save it as 8-bit RGB"):
        open_image(data)


def test_float_tiff_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "heights.tif"
    Image.fromarray(np.ones((2, 2), dtype=np.float32)).save(path)
    with pytest.raises(ImageError, match=r"heights\.tif: float pixels.*Save it as 8-bit RGB"):
        open_image(path)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_an_animation_gives_its_first_frame(kind: str) -> None:
    frames = [Image.new("RGB", (6, 4), colour) for colour in ("red", "lime", "blue")]
    settings = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **settings)
    assert np.asarray(open_image(data))[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("name", ["photo.png", "no-suffix", "wrong.jpg", "größe 照片.png"])
def test_every_kind_of_source_gives_the_same(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    picture().save(path, "PNG")
    data = path.read_bytes()
    with path.open("rb") as file, Image.open(path) as lazy:
        sources = [str(path), path, data, io.BytesIO(data), file, lazy, np.asarray(picture())]
        for source in sources:
            opened = open_image(source)
            assert opened.mode == "RGB"
            assert np.array_equal(np.asarray(opened), np.asarray(picture())), source


def test_a_callers_image_and_array_are_never_shared() -> None:
    image, array = picture(), np.asarray(picture()).copy()
    before = image.tobytes()
    open_image(image).putpixel((0, 0), (1, 2, 3))
    open_image(array).putpixel((0, 0), (1, 2, 3))
    assert image.tobytes() == before == array.tobytes()
    opened = open_image(array)
    array[:] = 0
    assert opened.tobytes() == before


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "MPO"])
def test_no_file_stays_open(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "frames"
    others = {} if kind == "PNG" else {"save_all": True, "append_images": [picture()]}
    picture().save(path, kind, **others)
    opened = open_image(path)
    links = [fd.readlink() for fd in Path("/proc/self/fd").iterdir() if fd.is_symlink()]
    assert path not in links
    assert opened.size == picture().size


def test_postscript_that_pillow_has_opened_is_refused_too() -> None:
    file = io.BytesIO()
    picture().save(file, "EPS")
    with Image.open(file) as lazy, pytest.raises(ImageError, match="PostScript is a program"):
        open_image(lazy)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("orientation", [1, 6])
def test_the_pixels_of_a_large_photograph_are_not_held_thrice(tmp_path, orientation: int) -> None:
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    path = tmp_path / "large.jpg"
    Image.new("RGB", (6000, 5000)).save(path, exif=exif)
    code = f"""
import re
from ovml_deploy.runtime.images import open_image

def memory(name):
    return int(re.search(name + r":\\s+(\\d+)", open("/proc/self/status").read())[1]) << 10

before = memory("VmRSS")
image = open_image({str(path)!r})
print((memory("VmHWM") - before) / (4 * image.width * image.height))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) < (1.5 if orientation == 1 else 2.5)  # turning takes another copy


def test_arrays_may_be_views() -> None:
    array = np.asarray(picture())[::2, ::-1]
    assert np.array_equal(np.asarray(open_image(array)), array)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4, 3)),
        np.zeros((4, 4, 3), dtype=np.uint16),
        np.zeros((4, 4), dtype=np.uint8),
        np.zeros((4, 4, 4), dtype=np.uint8),
        np.zeros((3, 4, 4), dtype=np.uint8),
        np.zeros((1, 4, 4, 3), dtype=np.uint8),
        np.zeros((0, 4, 3), dtype=np.uint8),
        np.zeros((), dtype=np.uint8),
    ],
)
def test_arrays_of_another_kind_are_refused(array: np.ndarray) -> None:
    with pytest.raises(ImageError, match=r"must be uint8 \[H, W, 3\].*this is") as caught:
        open_image(array)
    assert str(array.dtype) in str(caught.value)
    assert str(list(array.shape)) in str(caught.value)


def test_threads_leave_the_warning_filters_alone(tmp_path: Path) -> None:
    """Python's filters are one list for all threads: changing them in one breaks the others."""
    path = tmp_path / "cat.png"
    picture(200, 200).save(path)
    before = list(warnings.filters)

    def read() -> None:
        for _ in range(60):
            open_image(path)

    threads = [threading.Thread(target=read) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(warnings.filters) == before

"""HEIC and camera RAW through optional packages, and what other files are called."""

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from raw_files import make_dng

from ovml_deploy.errors import ImageError
from ovml_deploy.runtime.images import open_image

HEIC = Path(__file__).parent / "heic"
RED, GREEN, BLUE, YELLOW = (200, 30, 30), (30, 180, 40), (40, 60, 220), (240, 220, 60)
SERVER = ("JPEG", "PNG", "TIFF", "AVIF")


def quarters(width: int = 96, height: int = 64) -> Image.Image:
    """Red and green above, blue and yellow below."""
    image = Image.new("RGB", (width, height), RED)
    image.paste(GREEN, (width // 2, 0, width, height // 2))
    image.paste(BLUE, (0, height // 2, width // 2, height))
    image.paste(YELLOW, (width // 2, height // 2, width, height))
    return image


def corners(image: Image.Image) -> list[tuple[int, ...]]:
    """The colours of the four quarters, each the nearest of the four."""
    colours = np.array([RED, GREEN, BLUE, YELLOW])
    points = [(x, y) for y in (0.25, 0.75) for x in (0.25, 0.75)]
    found = []
    for x, y in points:
        pixel = np.array(image.getpixel((int(x * image.width), int(y * image.height))))
        nearest = np.abs(colours - pixel).sum(axis=1)
        assert nearest.min() < 24, pixel
        found.append(tuple(colours[nearest.argmin()].tolist()))
    return found


UPRIGHT = [RED, GREEN, BLUE, YELLOW]
CLOCKWISE = [BLUE, RED, YELLOW, GREEN]


@pytest.mark.parametrize(
    ("name", "size", "colours"),
    [
        ("upright", (96, 64), UPRIGHT),
        ("turned", (64, 96), CLOCKWISE),  # once, not by its EXIF orientation as well
        ("tenbit", (96, 64), UPRIGHT),
        ("two", (96, 64), UPRIGHT),
    ],
)
@pytest.mark.parametrize("kind", ["path", "bytes", "file", "renamed"])
def test_heic_is_read_upright_with_8_bits(name, size, colours, kind, tmp_path) -> None:
    pytest.importorskip("pi_heif", reason="the extra 'heif' (pi-heif) is not installed")
    path = HEIC / f"{name}.heic"
    renamed = tmp_path / "a.jpg"
    renamed.write_bytes(path.read_bytes())
    sources = {"path": path, "bytes": path.read_bytes(), "renamed": renamed}
    source = sources.get(kind) or io.BytesIO(path.read_bytes())
    image = open_image(source, formats=SERVER if kind == "bytes" else None)
    assert (image.mode, image.size) == ("RGB", size)
    assert corners(image) == colours


def test_too_many_pixels_of_heic_are_refused_before_they_are_decoded(monkeypatch) -> None:
    pi_heif = pytest.importorskip("pi_heif", reason="the extra 'heif' (pi-heif) is not installed")
    monkeypatch.setattr(pi_heif.HeifImageFile, "load", lambda image: pytest.fail("it was decoded"))
    with pytest.raises(ImageError, match=r"too many pixels \(96x64\); at most 6,143 are decoded"):
        open_image(HEIC / "upright.heic", 96 * 64 - 1)


@pytest.mark.parametrize("kept", [24, 100, 400, 570])
def test_a_truncated_heic_is_called_damaged(kept: int) -> None:
    pytest.importorskip("pi_heif", reason="the extra 'heif' (pi-heif) is not installed")
    with pytest.raises(
        ImageError, match=r"damaged image \(.*\)\. If it is truncated, fetch it again"
    ):
        open_image((HEIC / "upright.heic").read_bytes()[:kept])


@pytest.mark.parametrize("formats", [None, SERVER])
def test_without_the_extra_heic_is_named_with_the_remedy(monkeypatch, formats) -> None:
    monkeypatch.setitem(sys.modules, "pi_heif", None)
    with pytest.raises(
        ImageError, match=r"is a HEIC image.*pip install 'ovml-deploy\[heif\]'; or convert"
    ):
        open_image((HEIC / "upright.heic").read_bytes(), formats=formats)


def test_avif_with_the_brand_of_any_image_file_stays_pillows() -> None:
    file = io.BytesIO()
    quarters().save(file, "AVIF", quality=90)
    data = file.getvalue()
    assert data[8:12] == b"avif"
    assert b"mif1" in data[16:32]
    swapped = data[:8] + b"mif1" + data[12:16] + data[16:32].replace(b"mif1", b"avif") + data[32:]
    assert corners(open_image(swapped)) == UPRIGHT


@pytest.mark.parametrize(
    ("orientation", "size", "colours"),
    [
        (1, (96, 64), UPRIGHT),
        (3, (96, 64), UPRIGHT[::-1]),
        (6, (64, 96), CLOCKWISE),
        (8, (64, 96), CLOCKWISE[::-1]),
    ],
)
@pytest.mark.parametrize("kind", ["path", "bytes"])
def test_camera_raw_is_read_by_its_preview(tmp_path, orientation, size, colours, kind) -> None:
    pytest.importorskip("rawpy", reason="the extra 'raw' (rawpy) is not installed")
    path = tmp_path / "caf\udce9.DNG"
    path.write_bytes(make_dng(quarters(), orientation))
    image = open_image(path if kind == "path" else path.read_bytes())
    assert (image.mode, image.size) == ("RGB", size)
    assert corners(image) == colours


def test_the_limit_of_pixels_holds_for_previews() -> None:
    pytest.importorskip("rawpy", reason="the extra 'raw' (rawpy) is not installed")
    with pytest.raises(ImageError, match="too many pixels"):
        open_image(make_dng(quarters()), 96 * 64 - 1)


def test_raw_is_named_where_it_is_not_read(monkeypatch) -> None:
    with pytest.raises(ImageError, match=r"is a camera RAW file\. Send a JPEG"):
        open_image(make_dng(quarters()), formats=SERVER)
    monkeypatch.setitem(sys.modules, "rawpy", None)
    for data in (make_dng(quarters()), b"\0\0\0\x18ftypcrx \0\0\0\x01", b"FUJIFILMCCD-RAW 0201"):
        with pytest.raises(ImageError, match=r"camera RAW.*pip install 'ovml-deploy\[raw\]'"):
            open_image(data)


def test_damaged_raw_is_an_image_error() -> None:
    pytest.importorskip("rawpy", reason="the extra 'raw' (rawpy) is not installed")
    with pytest.raises(ImageError):
        open_image(b"FUJIFILMCCD-RAW 0201" + bytes(500))


def test_an_ordinary_image_with_a_raw_suffix_is_read(tmp_path) -> None:
    for name, form in (("a.nef", "JPEG"), ("b.dng", "TIFF"), ("c.heic", "PNG")):
        quarters().save(tmp_path / name, form)
        assert corners(open_image(tmp_path / name)) == UPRIGHT


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"%PDF-1.7\n", "PDF; render"),
        (b"\xff\x0a\xfa\x1f", "JPEG XL; convert"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL; convert"),
        (b"\0\x05\x16\x07\0\x02\0\0", "AppleDouble"),
        (b"\0\0\0\x18ftypisom\0\0\x02\0", "video; use tag-video"),
        (b"\0\0\0\x14ftypqt  \0\0\0\0", "video; use tag-video"),
        (b"<svg xmlns='x'/>", "SVG"),
        (b"<!doctype html>", "HTML page"),
    ],
)
def test_other_files_are_named_from_any_source(data: bytes, kind: str, tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(data)
    for source in (data, path, io.BytesIO(data)):
        with pytest.raises(ImageError, match=f"not an image that can be read .*{kind}"):
            open_image(source)


def test_photoshop_is_named_by_the_server() -> None:
    with pytest.raises(ImageError, match="Photoshop"):
        open_image(b"8BPS\0\x01" + bytes(100), formats=SERVER)


def test_a_broken_link_is_called_one(tmp_path) -> None:
    link = tmp_path / "cat.jpg"
    link.symlink_to("gone/cat.jpg")
    with pytest.raises(ImageError, match=r"cat\.jpg: a broken link to 'gone/cat\.jpg'"):
        open_image(link)


def test_a_stream_that_cannot_be_rewound_is_read() -> None:
    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

    file = Pipe()
    quarters().save(file, "PNG")
    file.seek(0)
    assert corners(open_image(file)) == UPRIGHT


def test_a_damaged_item_that_crashes_the_decoder_is_not_given_to_it(tmp_path) -> None:
    pytest.importorskip("pi_heif", reason="the extra 'heif' (pi-heif) is not installed")
    path = tmp_path / "crash.heic"
    path.write_bytes(
        (HEIC / "turned.heic").read_bytes().replace(b"Exif\0\0\0", b"Exi\xf2\0\0\0", 1)
    )
    code = "import sys; from ovml_deploy.runtime.images import open_image; open_image(sys.argv[1])"
    assert subprocess.run([sys.executable, "-c", code, path]).returncode == 0
    assert corners(open_image(path)) == CLOCKWISE

"""Decoders print nothing beside the command's own lines."""

import logging
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from drawn import encoded, picture
from image_files import png, png_chunk
from tiff_files import DEFLATE, RAW, Tiff

from ovml_deploy import decoder_messages
from ovml_deploy.runtime.images import open_image

ROOT = Path(__file__).resolve().parents[2]
PIXELS = np.asarray(picture(64, 48))


def damaged(tiff: Tiff) -> bytes:
    """A TIFF whose compressed strip is noise."""
    return tiff.of_chunks([bytes(range(200))], 64, 48, 3)


def with_transparency() -> bytes:
    chunks = png_chunk(b"PLTE", bytes(range(48))) + png_chunk(b"tRNS", bytes(range(16)))
    return png(PIXELS[..., :1] // 16, 8, 3, chunks)


def invalid_animation() -> bytes:
    return png(PIXELS, 8, 2, png_chunk(b"acTL", b"\0" * 8))


def bomb() -> bytes:
    header = b"\0\0\x27\x10\0\0\x27\x10\x08\2\0\0\0"  # 10,000 x 10,000
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", b"")


def of_a_phone(length: int) -> bytes:
    """A JPEG whose multi-picture segment is cut short."""
    stream = encoded(picture(64, 48), "MPO", save_all=True, append_images=[picture(64, 48)])
    at = stream.index(b"MPF\0")
    return stream[: at + 4] + bytes(length) + stream[at + 4 + length :]


#: Files that are read, and what Pillow warns of or logs; libtiff's lines name "tempfile.tif".
READ = {
    "exif.jpg": encoded(picture(64, 48), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff"),
    "too-many.tif": Tiff(8, 2, tags=((284, "H", (1, 1)),)).file(PIXELS),
    "palette.png": with_transparency(),
    "animation.png": invalid_animation(),
    "phone.jpg": of_a_phone(40),
}
FAIL = {
    "bomb.png": bomb(),
    "damaged.tif": damaged(Tiff(8, 2, compression=DEFLATE)),
    "webp.tif": damaged(Tiff(8, 2, compression=50001)),
    "cut.tif": Tiff(8, 2, compression=RAW).file(PIXELS)[:-60],
    "samples.tif": Tiff(8, 2).file(np.dstack([PIXELS] * 4)),
}


def run(arguments: list[str], cache: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *options, "-m", "ovml_deploy.cli", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "OVML_CACHE": str(cache)},
    )


def test_a_command_prints_its_own_lines_only(tiny_bundle: Path, tmp_path: Path) -> None:
    for name, content in (READ | FAIL).items():
        (tmp_path / name).write_bytes(content)
    paths = [str(tmp_path / name) for name in READ | FAIL]
    options = ["--engine", str(tiny_bundle), "--device", "cpu", "--format", "csv"]
    done = run(["tag", *paths, *options], tmp_path / "cache")
    assert done.returncode == 3, done.stderr
    for noise in ("Warning", "warn", "tempfile", "PIL", "libtiff", "TIFFRead", "entries"):
        assert noise not in done.stderr
    for name in FAIL:
        assert name in done.stdout
        assert ",".join([str(tmp_path / name), "", ""]) in done.stdout
    for name in READ:
        assert f"{tmp_path / name},,," not in done.stdout


def test_pillow_warns_who_uses_the_library(tmp_path: Path) -> None:
    """The control: these files do warn, and a caller's own filters are not touched."""
    before = list(warnings.filters)
    for name in ("exif.jpg", "too-many.tif", "animation.png"):
        with pytest.warns(UserWarning, match=r"EXIF|entries|APNG"):
            open_image(READ[name])
    assert warnings.filters == before


@pytest.mark.skipif(sys.platform != "linux", reason="libtiff is silenced on Linux only")
def test_libtiff_prints_until_it_is_silenced(tmp_path: Path) -> None:
    (tmp_path / "damaged.tif").write_bytes(FAIL["damaged.tif"])
    code = f"""
import os, sys
from ovml_deploy.decoder_messages import silence_decoders
from ovml_deploy.errors import ImageError
from ovml_deploy.runtime.images import open_image
for silent in (False, True):
    if silent:
        os.write(2, b"silenced\\n")
        silence_decoders()
    try:
        open_image({str(tmp_path / "damaged.tif")!r})
    except ImageError:
        pass
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, after = done.stderr.split("silenced\n")
    assert "ZIPDecode" in before
    assert after == ""


@pytest.mark.parametrize("chosen", [[], ["error"]])
def test_filters_of_the_command_line_are_kept(
    chosen: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "warnoptions", chosen)
    level = logging.getLogger("PIL").level
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        before = list(warnings.filters)
        decoder_messages.silence_decoders()
        assert (warnings.filters == before) == bool(chosen)
    logging.getLogger("PIL").setLevel(level)

"""Pixel layouts that Pillow opens and reads wrongly, in all formats: corrected, or refused by name."""

import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import BinaryIO

from PIL import Image, TiffImagePlugin

from ovml_deploy.errors import ImageError
from ovml_deploy.runtime.tiff_layouts import TIFF_STARTS, Layout, tiff_layout, unknown_tiff

_START = 16
_JPEG_START = b"\xff\xd8\xff"
_MOST_SEGMENTS = 1000
_CODESTREAM = b"\xff\x4f\xff\x51"  # SOC and SIZ, ISO/IEC 15444-1
_COMPONENTS = 40  # where SIZ counts the components
#: PSD's color modes and their channels (Adobe Photoshop File Formats Specification).
_PSD_BITMAP, _PSD_CHANNELS, _PSD_MULTICHANNEL = 0, {1: 1, 2: 1, 3: 3, 4: 4, 8: 1, 9: 3}, 7


def layout_of(image: Image.Image, name: str, most: int) -> Layout:
    """Return the layout of an opened image. Raises ImageError where Pillow would misread it.

    ``most``: the most pixels that a tile of a TIFF may have. Of an image that was loaded before, only
    the tags of a TIFF are checked: its file may be closed.
    """
    misread = _MISREAD.get(image.format or "")
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        with _file_of(image) as file:
            return tiff_layout(image, name, most, file)
    if misread is None:
        return Layout()
    with _file_of(image) as file:
        reason = misread(image, file) if file is not None else None
    if reason is not None:
        raise ImageError(f"{name}: {reason}. Save it as 8-bit RGB.")
    return Layout()


@contextmanager
def _file_of(image: Image.Image) -> Iterator[BinaryIO | None]:
    """Give an image's file from its start, or None once it is closed; restore its position."""
    file: BinaryIO | None = getattr(image, "fp", None)
    if file is None or getattr(file, "closed", False):
        yield None
        return
    position = file.tell()
    try:
        file.seek(0)
        yield file
    finally:
        file.seek(position)


def unknown_layout(file: BinaryIO) -> str:
    """Name the layout of a TIFF or JPEG that Pillow does not open; return nothing for another file."""
    start = file.read(_START)
    layout = ""
    if start.startswith(TIFF_STARTS):
        layout = unknown_tiff(start, file)
    elif start.startswith(_JPEG_START):
        file.seek(2)
        bits = _jpeg_bits(file)
        layout = f"JPEG of {bits} bits; save it as 8-bit" if bits not in (0, 8) else ""
    return f" ({layout})" if layout else ""


def _jpeg_bits(file: BinaryIO) -> int:
    """Return the bits of a sample that the frame header gives, 0 where there is none."""
    for _ in range(_MOST_SEGMENTS):
        head = file.read(4)
        if len(head) < 4 or head[0] != 0xFF:
            break
        marker, size = head[1], int.from_bytes(head[2:], "big")
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return int.from_bytes(file.read(1), "big")
        file.seek(size - 2, 1)
    return 0


def _jpeg2000(image: Image.Image, file: BinaryIO) -> str | None:
    """Refuse fewer than 8 bits, which are darkened, and more of colors, whose white wraps to 0."""
    depths = _jpeg2000_depths(file)
    if any(depth < 8 for depth in depths):
        return f"JPEG 2000 of {min(depths)} bits is not read"
    if any(depth > 8 for depth in depths) and image.mode != "I;16":
        return f"JPEG 2000 of {max(depths)} bits is read as gray without alpha only"
    return None


def _jpeg2000_depths(file: BinaryIO) -> list[int]:
    """Return the bits of each component, nothing where the file is damaged."""
    start = file.read(len(_CODESTREAM))
    at = 0
    while start != _CODESTREAM:
        file.seek(at)
        head = file.read(16)
        if len(head) < 16:
            return []
        size, kind, large = struct.unpack(">I4sQ", head)
        content = at + (16 if size == 1 else 8)
        if kind == b"jp2c":
            at = content
            break
        size = large if size == 1 else size
        if size < 8:
            return []
        at += size
    file.seek(at)
    marker = file.read(_COMPONENTS + 2)
    if not marker.startswith(_CODESTREAM) or len(marker) < _COMPONENTS + 2:
        return []
    count = int.from_bytes(marker[_COMPONENTS:], "big")
    return [(depth & 0x7F) + 1 for depth in file.read(3 * count)[::3]]


def _psd(image: Image.Image, file: BinaryIO) -> str | None:
    """Refuse what Pillow inverts, and planes that it looks for at a wrong place."""
    header = file.read(26)
    channels, mode = int.from_bytes(header[12:14], "big"), int.from_bytes(header[24:26], "big")
    if mode in (_PSD_BITMAP, _PSD_MULTICHANNEL):
        return "Photoshop files in bitmap and multichannel mode are not read"
    tiles = getattr(image, "tile", [])
    packed = bool(tiles) and tiles[0].codec_name == "packbits"
    if packed and image.mode != "RGBA" and channels > _PSD_CHANNELS.get(mode, channels):
        return f"Photoshop files with {channels} channels in this mode are not read"
    return None


def _fits(image: Image.Image, file: BinaryIO) -> str | None:
    """Refuse more than 8 bits: Pillow ignores their sign and offset (BZERO)."""
    return None if image.mode == "L" else "FITS of more than 8 bits is not read"


def _sun(image: Image.Image, file: BinaryIO) -> str | None:
    """Refuse 32 bits: the first of 4 bytes is padding, but Pillow takes it for a channel."""
    depth = int.from_bytes(file.read(16)[12:], "big")
    return "Sun raster images of 32 bits are not read" if depth == 32 else None


_MISREAD: dict[str, Callable[[Image.Image, BinaryIO], str | None]] = {
    "JPEG2000": _jpeg2000,
    "PSD": _psd,
    "FITS": _fits,
    "SUN": _sun,
}

"""TIFF layouts that Pillow opens and reads wrongly: corrected, or refused by name.

``tests/runtime/test_tiff_layouts.py`` compares every layout that Pillow 13 opens with tifffile.
"""

import io
import struct
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, BinaryIO

from PIL import TiffImagePlugin

from ovml_deploy.errors import ImageError

_BITS, _COMPRESSION, _PHOTOMETRIC, _FILL_ORDER = 258, 259, 262, 266
_SAMPLES, _PLANAR, _COLORMAP, _TILE_WIDTH, _TILE_LENGTH = 277, 284, 320, 322, 323
_INK_SET, _EXTRA_SAMPLES, _SAMPLE_FORMAT = 332, 338, 339
_YCBCR_COEFFICIENTS, _YCBCR_SUBSAMPLING, _REFERENCE_BLACK_WHITE = 529, 530, 532

_OLD_JPEG, _JPEG = 6, 7
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _CMYK, _YCBCR, _CIELAB = 0, 1, 2, 3, 5, 6, 8
_COLOURS = {
    0: "white-is-zero", 1: "black-is-zero", 2: "RGB", 3: "palette", 4: "mask", 5: "CMYK",
    6: "YCbCr", 8: "CIELab", 9: "ICCLab", 10: "ITULab", 32803: "color filter array",
    32844: "LogL", 32845: "LogLuv", 34892: "linear RAW",
}  # fmt: skip
_BITS_SHOWN = 4
_FORMATS = {1: "", 2: " signed", 3: " float", 4: " untyped", 5: " complex", 6: " complex"}
_SAMPLES_OF = {_RGB: 3, _CMYK: 4, _YCBCR: 3, _CIELAB: 3}
#: Photometric interpretation and extra samples of uncompressed planes that Pillow reads.
_RAW_PLANES = {(_BLACK_IS_ZERO, ()), (_PALETTE, ()), (_CMYK, ()), (_RGB, ()), (_RGB, (2,))}
#: Photometric interpretation and bits of reversed bits that Pillow lists and has no reader for.
_REVERSED_UNREAD = {(_WHITE_IS_ZERO, (8,)), *((_PALETTE, (bits,)) for bits in (1, 2, 4))}
#: The first bytes of TIFF and BigTIFF, in both byte orders.
TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


@dataclass(frozen=True)
class Layout:
    """What Pillow leaves out of an opened image.

    ``largest``: the integer that is white (black if ``inverted``), in images of 16-bit integers.
    ``palette``: the colours (RGB, 8-bit) that replace Pillow's, if not None.
    """

    largest: int = 65535
    inverted: bool = False
    palette: tuple[int, ...] | None = None


def tiff_layout(
    image: TiffImagePlugin.TiffImageFile, name: str, most: int, file: BinaryIO | None
) -> Layout:
    """Return the layout of an opened TIFF. Raises ImageError where Pillow would misread it.

    ``most``: the most pixels that a tile may have, as memory holds whole tiles. ``file``: the TIFF
    from its start, if it is still open.
    """
    tags = image.tag_v2
    if file is not None and _directory_is_cut(tags, file):
        raise ImageError(
            f"{name}: damaged image (TIFF: the directory ends early). If it is truncated, fetch it again."
        )
    width, length = tags.get(_TILE_WIDTH, 0), tags.get(_TILE_LENGTH, 0)
    if isinstance(width, int) and isinstance(length, int) and width * length > most:
        raise ImageError(
            f"{name}: a tile has too many pixels ({width}x{length}); at most {most:,} are decoded. "
            "Save it with smaller tiles."
        )
    if (reason := _misread(tags, image.info.get("compression") == "raw")) is not None:
        raise ImageError(f"{name}: {reason} (TIFF: {_described(tags)}). Save it as 8-bit RGB.")
    integers = image.mode.startswith("I;16")
    return Layout(
        largest=2 ** _bits(tags)[0] - 1 if integers else Layout.largest,
        inverted=integers and tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO,
        palette=_narrow_palette(tags) if image.mode in ("P", "PA") else None,
    )


def unknown_tiff(start: bytes, file: BinaryIO) -> str:
    """Describe the layout of a TIFF that Pillow does not open; ``start``: its first 16 bytes."""
    if start.startswith(b"MM\0+"):
        return "TIFF: big-endian BigTIFF; save it as a classic TIFF or PNG"
    with suppress(Exception):  # Pillow's decoders raise anything on damaged files
        tags = TiffImagePlugin.ImageFileDirectory_v2(start if start[2] == 43 else start[:8])
        file.seek(tags.next)
        tags.load(file)
        if _PHOTOMETRIC in tags:
            return f"TIFF: {_described(tags)}; save it as 8-bit RGB"
    return "TIFF: its directory is damaged; if it is truncated, fetch it again"


def _directory_is_cut(tags: TiffImagePlugin.ImageFileDirectory_v2, file: BinaryIO) -> bool:
    """Whether the file ends within the directory: Pillow goes on without the rest of the tags."""
    if tags.offset is None:
        return False
    order = "<" if tags.prefix == b"II" else ">"
    count, entry = ("Q", 20) if 43 in file.read(4)[2:] else ("H", 12)
    file.seek(tags.offset)
    head = file.read(struct.calcsize(order + count))
    end = file.tell() + entry * struct.unpack(order + count, head)[0]
    return file.seek(0, io.SEEK_END) < end


def _misread(tags: Mapping[int, Any], raw: bool) -> str | None:
    """Say what Pillow would read wrongly. ``raw``: Pillow reads it, not libtiff."""
    bits, photometric = _bits(tags), tags.get(_PHOTOMETRIC)
    if photometric is None and bits != (1,) and tags.get(_COMPRESSION) != _OLD_JPEG:
        return "whether 0 is black or white is not given"
    if _sample_format(tags) == 2 and max(bits) < 32:
        return "signed pixels have no known range"
    if photometric == _CMYK and tags.get(_INK_SET, 1) != 1:
        return "its inks are not CMYK"
    if tags.get(_PLANAR) == 2 and not _planes_are_read(tags, raw):
        return "this layout in planes is not read"
    if raw and tags.get(_FILL_ORDER) == 2 and (photometric, bits) in _REVERSED_UNREAD:
        return "this layout with reversed bits is not read"
    if photometric == _YCBCR and not _ycbcr_is_read(tags, raw):
        return "YCbCr of this kind is not read"
    return None


def _planes_are_read(tags: Mapping[int, Any], raw: bool) -> bool:
    photometric, extra = tags.get(_PHOTOMETRIC), tags.get(_EXTRA_SAMPLES, ())
    if tags.get(_SAMPLES, 1) > _SAMPLES_OF.get(photometric or 0, 1) + len(extra):
        return False  # extra samples without the tag that names them
    if not raw:
        associated_grey = photometric == _BLACK_IS_ZERO and 1 in extra
        colours_are_read = photometric not in (_YCBCR, _CIELAB) and not associated_grey
        return colours_are_read and (len(extra) < 2 or not any(extra))
    plain = set(_bits(tags)) == {8} and tags.get(_FILL_ORDER, 1) == 1
    return plain and (photometric, tuple(extra)) in _RAW_PLANES


def _ycbcr_is_read(tags: Mapping[int, Any], raw: bool) -> bool:
    """Whether it is decoded by libtiff, or is as in JPEG with a color for each pixel."""
    if tags.get(_SAMPLES) == 1:
        return raw or tags.get(_COMPRESSION) == _JPEG
    if not raw:
        return True
    if tuple(tags.get(_YCBCR_SUBSAMPLING, (2, 2))) != (1, 1):
        return False
    usual = (0, 255, 128, 255, 128, 255)
    coefficients = tags.get(_YCBCR_COEFFICIENTS, (0.299, 0.587, 0.114))
    return tuple(map(float, tags.get(_REFERENCE_BLACK_WHITE, usual))) == usual and all(
        abs(float(c) - jpeg) < 1e-3
        for c, jpeg in zip(coefficients, (0.299, 0.587, 0.114), strict=True)
    )


def _narrow_palette(tags: Mapping[int, Any]) -> tuple[int, ...] | None:
    """Return a palette that some writers store in 8 bits instead of 16, as libtiff recognises it."""
    colours = tags.get(_COLORMAP, ())
    if not colours or max(colours) > 255:
        return None
    size = len(colours) // 3
    return tuple(colours[channel * size + index] for index in range(size) for channel in range(3))


def _bits(tags: Mapping[int, Any]) -> tuple[int, ...]:
    bits = tags.get(_BITS, (1,))
    return tuple(bits) if isinstance(bits, tuple) else (bits,)


def _sample_format(tags: Mapping[int, Any]) -> int:
    formats = tags.get(_SAMPLE_FORMAT, (1,))
    return int(formats[0] if isinstance(formats, tuple) else formats)


def _described(tags: Mapping[int, Any]) -> str:
    """Describe a layout, such as ``3 samples of 16 bits, RGB, in planes, compression raw``."""
    bits = sorted({int(each) for each in _bits(tags)})[:_BITS_SHOWN]
    samples, compression = int(tags.get(_SAMPLES, 1)), int(tags.get(_COMPRESSION, 1))
    photometric = None if _PHOTOMETRIC not in tags else int(tags[_PHOTOMETRIC])
    parts = [
        f"{samples} sample{'s' if samples != 1 else ''} of {'/'.join(map(str, bits))}"
        f"{_FORMATS.get(_sample_format(tags), ' unknown')} bits",
        "colors not given"
        if photometric is None
        else _COLOURS.get(photometric, f"colors {photometric}"),
        f"compression {TiffImagePlugin.COMPRESSION_INFO.get(compression, compression)}",
    ]
    if tags.get(_PLANAR) == 2:
        parts.append("in planes")
    if tags.get(_FILL_ORDER, 1) == 2:
        parts.append("bits reversed")
    return ", ".join(parts)

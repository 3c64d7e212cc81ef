"""Image formats that Pillow does not read: HEIC and camera RAW, through optional packages.

Each is recognised by its first bytes, and its package is imported only then. No decoder is registered
with Pillow.
"""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image

from ovml_deploy.errors import ImageError

#: Suffixes of HEIC and HEIF images, in lower case.
HEIF_SUFFIXES = frozenset({".heic", ".heics", ".heif", ".heifs", ".hif"})
#: Suffixes of camera RAW files, in lower case.
RAW_SUFFIXES = frozenset(
    {".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".erf", ".fff", ".iiq", ".kdc"}
    | {".mef", ".mos", ".mrw", ".nef", ".nrw", ".orf", ".pef", ".raf", ".rw2", ".rwl"}
    | {".sr2", ".srf", ".srw", ".x3f"}
)

_HEAD = 256
_HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"hevm", b"hevs")
_IMAGE_BRANDS = (b"mif1", b"mif2", b"msf1")
_UNUSED_REFERENCES = (b"cdsc", b"thmb", b"auxl")
_RAW_STARTS = (b"FUJIFILMCCD-RAW", b"IIRO", b"IIRS", b"MMOR", b"IIU\0", b"\0MRM", b"FOVb")
_TIFF_STARTS = (b"II*\0", b"MM\0*")
_NEW_SUBFILE_TYPE, _ORIENTATION, _SUB_IFDS, _DNG_VERSION = 254, 274, 330, 50706
_TURNS = {
    3: Image.Transpose.ROTATE_180,
    5: Image.Transpose.ROTATE_90,
    6: Image.Transpose.ROTATE_270,
}

_STARTS = (
    (b"%PDF", "it is a PDF; render its pages to PNG first"),
    (b"8BPS", "it is a Photoshop file; save it as JPEG or PNG"),
    (b"\xff\x0a", "it is JPEG XL; convert it to JPEG or PNG"),
    (b"\0\0\0\x0cJXL ", "it is JPEG XL; convert it to JPEG or PNG"),
    (b"\0\x05\x16\x07", "it is AppleDouble metadata of macOS, without an image"),
    (b"\x1aE\xdf\xa3", "it is a Matroska or WebM video; use tag-video"),
    (b"PK\x03\x04", "it is a ZIP archive; unpack it first"),
    (b"gimp xcf", "it is a GIMP file; export it as PNG"),
)


def open_image_file(
    file: Path | BinaryIO, name: str, formats: tuple[str, ...] | None
) -> Image.Image:
    """Open an image with Pillow or, for HEIC and camera RAW, an optional package; decode nothing yet.

    HEIC: the primary image, 8-bit, turned as the file says. RAW: the embedded preview. ``formats``:
    Pillow's formats that are tried, None for all; HEIC is always tried, RAW only with None.
    Raises ImageError that names the format and the missing extra, and what Pillow raises.
    """
    start = head_of(file)
    if _is_heif(start):
        return _open_heif(file, name)
    suffix = Path(name).suffix.lower()
    if _is_raw(start) or (suffix in RAW_SUFFIXES and start.startswith(_TIFF_STARTS)):
        preview = _open_raw(file, name, formats is None)
        if preview is not None:
            return preview
    image = Image.open(file, formats=formats)
    if image.format == "TIFF" and _is_reduced(image):
        preview = _open_raw(file, name, formats is None)
        if preview is not None:
            image.close()
            return preview
    return image


def head_of(file: Path | BinaryIO) -> bytes:
    """Return the first bytes of a file, and none where it cannot be read or rewound."""
    try:
        if isinstance(file, Path):
            with open(file, "rb") as opened:
                return opened.read(_HEAD)
        if not file.seekable():
            return b""
        position = file.tell()
        start = file.read(_HEAD)
        file.seek(position)
        return start
    except (OSError, ValueError, AttributeError):  # ValueError: closed, or an impossible path
        return b""


def looks_like(start: bytes) -> str:
    """Name what is no image, or one that is not read, by its first bytes: `` (it is ...)`` or nothing."""
    text = start.lstrip().lower()
    if text.startswith((b"<!doctype html", b"<html", b"<head")):
        return " (it is an HTML page; the download probably failed)"
    if text.startswith((b"<svg", b"<?xml")):
        return " (it is SVG or XML; render it to PNG first)"
    for magic, kind in _STARTS:
        if start.startswith(magic):
            return f" ({kind})"
    if start[4:8] == b"ftyp" and not _is_heif(start) and start[8:12] not in (b"avif", b"avis"):
        return " (it is an MP4 or QuickTime video; use tag-video)"
    return ""


def _is_heif(start: bytes) -> bool:
    """By the brands of its first box; AVIF has the same box, and Pillow reads it."""
    if start[4:8] != b"ftyp":
        return False
    major = start[8:12]
    if major in _IMAGE_BRANDS:
        size = min(int.from_bytes(start[:4], "big"), len(start))
        others = [start[at : at + 4] for at in range(16, size - 3, 4)]
        return b"avif" not in others and b"avis" not in others
    return major in _HEIF_BRANDS


def _is_raw(start: bytes) -> bool:
    canon = start[4:12] == b"ftypcrx " or start[8:10] == b"CR" or start[6:14] == b"HEAPCCDR"
    return start.startswith(_RAW_STARTS) or canon


def _is_reduced(image: Any) -> bool:
    """Whether the first page of a TIFF is a thumbnail of an image elsewhere in it: DNG, NEF, ARW."""
    tags = image.tag_v2
    reduced = bool(tags.get(_NEW_SUBFILE_TYPE, 0) & 1)
    return _DNG_VERSION in tags or (reduced and _SUB_IFDS in tags)


def _open_heif(file: Path | BinaryIO, name: str) -> Image.Image:
    try:
        from pi_heif import HeifImageFile
    except ModuleNotFoundError as error:
        raise ImageError(
            f"{name}: is a HEIC image. To read it, install: pip install 'ovml-deploy[heif]'; or "
            "convert it to JPEG."
        ) from error
    data = file.read_bytes() if isinstance(file, Path) else file.read()
    try:
        return HeifImageFile(io.BytesIO(_without_references(data)))
    except Exception as error:  # libheif's errors arrive as several types
        reason = " ".join(str(error).split())
        raise ImageError(
            f"{name}: damaged image (HEIC: {reason}). If it is truncated, fetch it again."
        ) from error


def _without_references(data: bytes) -> bytes:
    """Return a HEIF file whose image has no metadata, thumbnails and auxiliary images.

    None of them is needed: the rotation is a property of the image. A damaged one makes pi-heif crash
    (1.4.0, segmentation fault), so that one upload would end a server.
    """
    changed = bytearray(data)
    for kind, start, end in _boxes(changed, 0, len(changed)):
        if kind != b"meta":
            continue
        for inner, first, last in _boxes(changed, start + 4, end):
            if inner == b"iref":
                references = bytes(changed[first:last])
                for unused in _UNUSED_REFERENCES:
                    references = references.replace(unused, b"skip")
                changed[first:last] = references
    return bytes(changed)


def _boxes(data: bytearray, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield the type, and the start and end of the content, of boxes (ISO/IEC 14496-12, 4.2)."""
    while start + 8 <= end:
        size, head = int.from_bytes(data[start : start + 4], "big"), 8
        if size == 1:
            size, head = int.from_bytes(data[start + 8 : start + 16], "big"), 16
        elif size == 0:
            size = end - start
        if size < head:
            return
        yield bytes(data[start + 4 : start + 8]), start + head, min(start + size, end)
        start += size


def _open_raw(file: Path | BinaryIO, name: str, allowed: bool) -> Image.Image | None:
    """Open the preview of a camera RAW file, turned as the camera was; None where it is not RAW."""
    if not allowed:
        raise ImageError(f"{name}: is a camera RAW file. Send a JPEG of it.")
    try:
        import rawpy
    except ModuleNotFoundError as error:
        raise ImageError(
            f"{name}: is a camera RAW file. To read its embedded preview, install: "
            "pip install 'ovml-deploy[raw]'; or convert it to JPEG."
        ) from error
    try:
        if isinstance(file, Path):
            with open(file, "rb") as opened:
                preview, flip = _preview(rawpy, opened)
        else:
            preview, flip = _preview(rawpy, file)
    except rawpy.LibRawFileUnsupportedError:
        return None
    except (rawpy.LibRawNoThumbnailError, rawpy.LibRawUnsupportedThumbnailError) as error:
        raise ImageError(
            f"{name}: this camera RAW file has no preview that can be read. Convert it to JPEG."
        ) from error
    except rawpy.LibRawError as error:
        raise ImageError(
            f"{name}: damaged camera RAW file ({error}). If it is truncated, fetch it again."
        ) from error
    return _upright(preview, flip, rawpy.ThumbFormat.JPEG)


def _preview(rawpy: Any, file: BinaryIO) -> tuple[Any, int]:
    """The largest preview, and how the camera was turned, as LibRaw tells it."""
    file.seek(0)
    try:
        with rawpy.imread(file) as raw:
            return raw.extract_thumb(), raw.sizes.flip
    finally:
        file.seek(0)


def _upright(preview: Any, flip: int, jpeg: Any) -> Image.Image:
    """A preview whose EXIF orientation is right, which LibRaw writes where it has no EXIF at all."""
    if preview.format != jpeg:
        image = Image.fromarray(preview.data)
    else:
        image = Image.open(io.BytesIO(preview.data), formats=("JPEG",))
        if _ORIENTATION in image.getexif():
            return image
    return image.transpose(_TURNS[flip]) if flip in _TURNS else image

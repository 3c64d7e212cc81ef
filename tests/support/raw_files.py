"""A DNG file with an embedded JPEG preview, written by hand."""

import io
import struct

from PIL import Image

_FORMATS = {1: "B", 3: "H", 4: "I"}
_SIGNED = 10
_MATRIX = [(1, 1), (0, 1), (0, 1), (0, 1), (1, 1), (0, 1), (0, 1), (0, 1), (1, 1)]

Entry = tuple[int, int, list]


def make_dng(preview: Image.Image, orientation: int = 1) -> bytes:
    """A DNG as cameras write it: a thumbnail, a grey Bayer mosaic, and a JPEG preview."""
    file = io.BytesIO()
    preview.save(file, "JPEG", quality=95)
    jpeg = file.getvalue()
    jpeg += b"\0" * (len(jpeg) % 2)
    mosaic, thumbnail = struct.pack("<H", 1000) * (128 * 96), bytes(16 * 12 * 3)
    mosaic_at = 8 + len(jpeg)
    thumbnail_at = mosaic_at + len(mosaic)
    first_at = thumbnail_at + len(thumbnail)

    def first(*subs: int) -> bytes:
        entries = [
            *_page(1, (16, 12), (8, 8, 8), 1, 2, (thumbnail_at, len(thumbnail))),
            (274, 3, [orientation]), (330, 4, [*subs]), (50706, 1, [1, 4, 0, 0]),
            (50721, _SIGNED, _MATRIX), (50778, 3, [21]),
        ]  # fmt: skip
        return _directory(entries, first_at)

    sub_at = first_at + len(first(0, 0))
    raw = _page(0, (128, 96), (16,), 1, 32803, (mosaic_at, len(mosaic)))
    sub = _directory([*raw, (33421, 3, [2, 2]), (33422, 1, [0, 1, 1, 2])], sub_at)
    last_at = sub_at + len(sub)
    last = _directory(_page(1, preview.size, (8, 8, 8), 7, 6, (8, len(jpeg))), last_at)
    header = struct.pack("<2sHI", b"II", 42, first_at)
    return header + jpeg + mosaic + thumbnail + first(sub_at, last_at) + sub + last


def _page(
    kind: int,
    size: tuple[int, int],
    bits: tuple[int, ...],
    compression: int,
    colours: int,
    strip: tuple[int, int],
) -> list[Entry]:
    """The tags of a page whose pixels are one strip, at an offset and with a number of bytes."""
    return [
        (254, 4, [kind]), (256, 4, [size[0]]), (257, 4, [size[1]]), (258, 3, [*bits]),
        (259, 3, [compression]), (262, 3, [colours]), (273, 4, [strip[0]]),
        (277, 3, [len(bits)]), (278, 4, [size[1]]), (279, 4, [strip[1]]),
    ]  # fmt: skip


def _directory(entries: list[Entry], offset: int) -> bytes:
    """A TIFF directory at ``offset``, with the values that do not fit into it behind it."""
    values_at = offset + 2 + 12 * len(entries) + 4
    table, values = b"", b""
    for tag, kind, items in sorted(entries):
        if kind == _SIGNED:
            data = b"".join(struct.pack("<ii", *item) for item in items)
        else:
            data = struct.pack(f"<{len(items)}{_FORMATS[kind]}", *items)
        if len(data) > 4:
            at = values_at + len(values)
            values += data + b"\0" * (len(data) % 2)
            data = struct.pack("<I", at)
        table += struct.pack("<HHI", tag, kind, len(items)) + data.ljust(4, b"\0")
    return struct.pack("<H", len(entries)) + table + struct.pack("<I", 0) + values

"""A DNG file with an embedded JPEG preview, written by hand."""

import io
import struct

from PIL import Image

_FORMATS = {1: "B", 3: "H", 4: "I"}
_SIGNED = 10
_MATRIX = [(1, 1), (0, 1), (0, 1), (0, 1), (1, 1), (0, 1), (0, 1), (0, 1), (1, 1)]

Entry = tuple[int, int, list]


def make_dng(preview: Image.Image, orientation: int = 1) -> bytes:
    """A DNG whose first page is the preview and whose sub-image is a grey Bayer mosaic."""
    file = io.BytesIO()
    preview.save(file, "JPEG", quality=95)
    jpeg = file.getvalue()
    jpeg += b"\0" * (len(jpeg) % 2)
    mosaic = struct.pack("<H", 1000) * (128 * 96)
    raw_at, first_at = 8 + len(jpeg), 8 + len(jpeg) + len(mosaic)

    def first(sub_at: int) -> bytes:
        return _directory(
            [
                (254, 4, [1]), (256, 4, [preview.width]), (257, 4, [preview.height]),
                (258, 3, [8, 8, 8]), (259, 3, [7]), (262, 3, [6]), (273, 4, [8]),
                (274, 3, [orientation]), (277, 3, [3]), (278, 4, [preview.height]),
                (279, 4, [len(jpeg)]), (330, 4, [sub_at]), (50706, 1, [1, 4, 0, 0]),
                (50721, _SIGNED, _MATRIX), (50778, 3, [21]),
            ],
            first_at,
        )  # fmt: skip

    sub_at = first_at + len(first(0))
    sub = _directory(
        [
            (254, 4, [0]), (256, 4, [128]), (257, 4, [96]), (258, 3, [16]), (259, 3, [1]),
            (262, 3, [32803]), (273, 4, [raw_at]), (277, 3, [1]), (278, 4, [96]),
            (279, 4, [len(mosaic)]), (33421, 3, [2, 2]), (33422, 1, [0, 1, 1, 2]),
        ],
        sub_at,
    )  # fmt: skip
    return struct.pack("<2sHI", b"II", 42, first_at) + jpeg + mosaic + first(sub_at) + sub


def _directory(entries: list[Entry], offset: int) -> bytes:
    """A TIFF directory at ``offset``, with the values that do not fit into it behind it."""
    values_at = offset + 2 + 12 * len(entries) + 4
    table, values = b"", b""
    for tag, kind, items in entries:
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

"""Image files of layouts that Pillow does not write, from NumPy arrays."""

import struct
import zlib

import imagecodecs
import numpy as np

_ADAM7 = (
    (0, 0, 8, 8),
    (0, 4, 8, 8),
    (4, 0, 8, 4),
    (0, 2, 4, 4),
    (2, 0, 4, 2),
    (0, 1, 2, 2),
    (1, 0, 2, 1),
)


def png_chunk(kind: bytes, data: bytes) -> bytes:
    checksum = struct.pack(">I", zlib.crc32(kind + data))
    return struct.pack(">I", len(data)) + kind + data + checksum


def png(
    samples: np.ndarray, bits: int, colour: int, chunks: bytes = b"", interlaced: bool = False
) -> bytes:
    """A PNG of ``[H, W, S]``; ``colour``: its color type; ``chunks``: more of them."""
    height, width = samples.shape[:2]
    places = _ADAM7 if interlaced else ((0, 0, 1, 1),)
    images = [samples[y::down, x::across] for y, x, down, across in places]
    rows = [row for image in images if image.size for row in image]
    data = b"".join(b"\0" + _packed(row, bits) for row in rows)
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, interlaced)
    body = png_chunk(b"IHDR", header) + chunks + png_chunk(b"IDAT", zlib.compress(data))
    return b"\x89PNG\r\n\x1a\n" + body + png_chunk(b"IEND", b"")


def _packed(row: np.ndarray, bits: int) -> bytes:
    if bits >= 8:
        return row.astype(f">u{bits // 8}").tobytes()
    places = row.ravel()[:, None] >> np.arange(bits - 1, -1, -1) & 1
    return np.packbits(places.astype(np.uint8)).tobytes()


def jpeg_without(file: bytes, *markers: int) -> bytes:
    """A JPEG without the segments that have these markers."""
    kept, at = file[:2], 2
    while file[at + 1] != 0xDA:
        end = at + 2 + int.from_bytes(file[at + 2 : at + 4], "big")
        if file[at + 1] not in markers:
            kept += file[at:end]
        at = end
    return kept + file[at:]


def jpeg_with_adobe(file: bytes, transform: int) -> bytes:
    """A JPEG whose only application segment is Adobe's."""
    plain = jpeg_without(file, 0xE0, 0xEE)
    return (
        plain[:2] + b"\xff\xee\x00\x0eAdobe\x00d\x00\x00\x00\x00" + bytes([transform]) + plain[2:]
    )


def bmp(
    rows: np.ndarray,
    width: int,
    bits: int,
    compression: int = 0,
    masks: tuple[int, ...] = (),
    palette: np.ndarray | None = None,
    top_down: bool = False,
    data: bytes | None = None,
) -> bytes:
    """A BMP of packed rows (``[H, bytes]``, from the top); ``palette``: ``[N, 3]`` RGB."""
    height = len(rows)
    if data is None:
        padded = np.pad(rows, ((0, 0), (0, -rows.shape[1] % 4)))
        data = (padded if top_down else padded[::-1]).tobytes()
    colours = (
        b"" if palette is None else b"".join(bytes([*rgb[::-1], 0]) for rgb in palette.tolist())
    )
    rest = struct.pack(f"<{len(masks)}I", *masks) + colours
    start = 14 + 40 + len(rest)
    header = struct.pack(
        "<IiiHHIIiiII", 40, width, -height if top_down else height, 1, bits, compression,
        len(data), 0, 0, 0 if palette is None else len(palette), 0,
    )  # fmt: skip
    return b"BM" + struct.pack("<IHHI", start + len(data), 0, 0, start) + header + rest + data


def tga(pixels: np.ndarray, kind: int, bits: int, descriptor: int, palette: bytes = b"") -> bytes:
    """A TGA of rows as stored; ``palette``: 16 colors (BGR)."""
    height, width = pixels.shape[:2]
    header = struct.pack(
        "<BBBHHBHHHHBB", 0, bool(palette), kind, 0, 16 if palette else 0, 24 if palette else 0,
        0, 0, width, height, bits, descriptor,
    )  # fmt: skip
    return header + palette + pixels.tobytes()


def psd(planes: np.ndarray, mode: int, packed: bool = False, bits: int = 8) -> bytes:
    """A Photoshop file of ``[S, H, W]`` (``[S, H, bytes]`` of 1 bit), without layers."""
    samples, height, width = planes.shape
    width = width * 8 if bits == 1 else width
    header = struct.pack(">4sH6xHIIHH12xH", b"8BPS", 1, samples, height, width, bits, mode, packed)
    if not packed:
        return header + planes.tobytes()
    lines = [imagecodecs.packbits_encode(row.tobytes()) for plane in planes for row in plane]
    return header + struct.pack(f">{len(lines)}H", *map(len, lines)) + b"".join(lines)


def fits(values: np.ndarray, bits: int) -> bytes:
    """A FITS image (``[H, W]``, from the top)."""
    height, width = values.shape
    cards = {"SIMPLE": "T", "BITPIX": bits, "NAXIS": 2, "NAXIS1": width, "NAXIS2": height}
    text = "".join(f"{name:8}= {value!s:>20}".ljust(80) for name, value in cards.items()) + "END"
    content = values[::-1].tobytes()
    return text.ljust(2880).encode() + content.ljust(-(-len(content) // 2880) * 2880, b"\0")


def sun(pixels: np.ndarray, depth: int, kind: int) -> bytes:
    """A Sun raster image."""
    height, width = pixels.shape[:2]
    size = pixels.nbytes
    return struct.pack(">8I", 0x59A66A95, width, height, depth, size, kind, 0, 0) + pixels.tobytes()


def pnm(values: np.ndarray, largest: int, text: bool = False) -> bytes:
    """A PGM or PPM of ``[H, W, S]``."""
    height, width, samples = values.shape
    kind = {1: (5, 2), 3: (6, 3)}[samples][text]
    head = f"P{kind}\n{width} {height}\n{largest}\n".encode()
    if text:
        return head + " ".join(map(str, values.ravel().tolist())).encode() + b"\n"
    return head + values.astype(np.uint8 if largest < 256 else ">u2").tobytes()


def masked(rgb: np.ndarray, masks: tuple[int, int, int], kind: str) -> np.ndarray:
    """Pixels whose channels fill these bit masks, as rows of bytes."""
    values = np.zeros(rgb.shape[:2], np.uint32)
    for channel, mask in enumerate(masks):
        kept = rgb[..., channel].astype(np.uint32) >> 8 - mask.bit_count()
        values |= kept << (mask & -mask).bit_length() - 1
    return values.astype(kind).view(np.uint8)

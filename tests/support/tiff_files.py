"""TIFF files of any layout, written sample by sample (TIFF 6.0; Adobe's technical notes 1 to 3)."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

import imagecodecs
import numpy as np

RAW, LZW, DEFLATE, PACKBITS, ZSTD = 1, 5, 8, 32773, 50000
_TYPES = {"B": 1, "H": 3, "I": 4, "Q": 16}

Tag = tuple[int, str, Sequence[int]]


@dataclass(frozen=True)
class Tiff:
    """A layout; ``file(samples)`` writes ``[H, W, S]`` in it."""

    bits: int
    photometric: int
    planar: int = 1
    compression: int = RAW
    order: str = "<"
    big: bool = False
    fill_order: int = 1
    sample_format: int = 1
    extra: tuple[int, ...] = ()
    tile: int | None = None
    rows: int | None = None
    predictor: int = 1
    tags: tuple[Tag, ...] = field(default=())
    without: tuple[int, ...] = ()

    def file(self, samples: np.ndarray) -> bytes:
        """Return the file."""
        height, width, count = samples.shape
        planes = np.split(samples, count, axis=2) if self.planar == 2 else [samples]
        chunks = [self._packed(block) for plane in planes for block in self._blocks(plane)]
        return self.of_chunks(chunks, width, height, count)

    def of_chunks(self, chunks: Sequence[bytes], width: int, height: int, samples: int) -> bytes:
        """Return a file of strips or tiles that are encoded already."""
        offset, sizes = ("Q", 16) if self.big else ("I", 8)
        starts = np.cumsum([sizes, *map(len, chunks)]).tolist()
        lengths = [len(chunk) for chunk in chunks]
        tags: list[Tag] = [
            (256, "I", [width]), (257, "I", [height]), (258, "H", [self.bits] * samples),
            (259, "H", [self.compression]), (262, "H", [self.photometric]),
            (266, "H", [self.fill_order]), (277, "H", [samples]), (284, "H", [self.planar]),
            (317, "H", [self.predictor]), (339, "H", [self.sample_format] * samples),
        ]  # fmt: skip
        if self.extra:
            tags.append((338, "H", self.extra))
        if self.tile:
            tags += [(322, "I", [self.tile]), (323, "I", [self.tile])]
            tags += [(324, offset, starts[:-1]), (325, offset, lengths)]
        else:
            tags += [(278, "I", [self.rows or height])]
            tags += [(273, offset, starts[:-1]), (279, offset, lengths)]
        kept = {tag[0]: tag for tag in (*tags, *self.tags) if tag[0] not in self.without}
        return self._head(starts[-1]) + b"".join(chunks) + self._directory(kept, starts[-1])

    def _blocks(self, plane: np.ndarray) -> list[np.ndarray]:
        height, width = plane.shape[:2]
        if not self.tile:
            rows = self.rows or height
            return [plane[y : y + rows] for y in range(0, height, rows)]
        size = self.tile
        padded = np.pad(plane, ((0, -height % size), (0, -width % size), (0, 0)), mode="edge")
        places = [(y, x) for y in range(0, height, size) for x in range(0, width, size)]
        return [padded[y : y + size, x : x + size] for y, x in places]

    def _packed(self, block: np.ndarray) -> bytes:
        if self.predictor == 2:
            block = np.concatenate([block[:, :1], np.diff(block, axis=1)], axis=1)
        rows = block.reshape(len(block), -1)
        if self.bits in (8, 16, 32):
            data = rows.astype(rows.dtype.newbyteorder(self.order)).tobytes()
        else:
            bits = rows[..., None] >> np.arange(self.bits - 1, -1, -1) & 1
            data = np.packbits(bits.reshape(len(rows), -1).astype(np.uint8), axis=1).tobytes()
        encode = {
            RAW: bytes,
            LZW: imagecodecs.lzw_encode,
            DEFLATE: imagecodecs.zlib_encode,
            ZSTD: imagecodecs.zstd_encode,
            PACKBITS: lambda data: _packbits(data, len(block)),
        }[self.compression]
        return _reversed(encode(data)) if self.fill_order == 2 else bytes(encode(data))

    def _head(self, end: int) -> bytes:
        mark = b"II" if self.order == "<" else b"MM"
        if self.big:
            return mark + struct.pack(self.order + "HHHQ", 43, 8, 0, end)
        return mark + struct.pack(self.order + "HI", 42, end)

    def _directory(self, tags: dict[int, Tag], start: int) -> bytes:
        pointer, inline = ("Q", 8) if self.big else ("I", 4)
        head = struct.pack(self.order + ("Q" if self.big else "H"), len(tags))
        rest_start = start + len(head) + len(tags) * (12 + 2 * (inline - 4)) + inline
        entries, rest = b"", b""
        for tag, kind, values in sorted(tags.values()):
            data = struct.pack(f"{self.order}{len(values)}{kind}", *values)
            if len(data) > inline:
                rest, data = rest + data, struct.pack(self.order + pointer, rest_start + len(rest))
            entries += struct.pack(self.order + "HH" + pointer, tag, _TYPES[kind], len(values))
            entries += data.ljust(inline, b"\0")
        return head + entries + bytes(inline) + rest


def _packbits(data: bytes, rows: int) -> bytes:
    size = len(data) // rows
    lines = (data[y * size : (y + 1) * size] for y in range(rows))
    return b"".join(imagecodecs.packbits_encode(line) for line in lines)


def _reversed(data: bytes) -> bytes:
    bits = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")
    return np.packbits(bits).tobytes()

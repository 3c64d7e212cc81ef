"""Reads an archive, a block of images at a time."""

import os
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ovml_deploy.pipelines.archives.arrow import DAMAGED, pa, pq
from ovml_deploy.pipelines.archives.layout import (
    Manifest,
    copies_file,
    count_parts,
    damaged,
    part_file,
)
from ovml_deploy.pipelines.archives.quantized import DTYPES, unpack
from ovml_deploy.runtime.iteration import called_ahead

#: Threads that read, so that the disk is busy while one of them unpacks what came; and row groups
#: that are there at once, or on their way.
_READERS, _AHEAD = 2, 4


@dataclass(frozen=True)
class Block:
    """Images of an archive: their ``names`` (an Arrow array), and ``columns`` as they are stored.

    ``row``: the number of the first of them, counted over all parts.
    """

    row: int
    names: Any
    columns: Mapping[str, np.ndarray]
    centre: np.ndarray | None

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def features(self) -> np.ndarray:
        """Their features ``[B, M, D]`` (float32)."""
        return self.unpacked()

    def unpacked(self, rows: slice = slice(None), out: np.ndarray | None = None) -> np.ndarray:
        """Return the features of some images, written over those in ``out`` if it is given."""
        return unpack({n: column[rows] for n, column in self.columns.items()}, self.centre, out)


class Copies:
    """Names whose content is in a row of the archive: 16 bytes each, and the name."""

    def __init__(self, names: Any, rows: np.ndarray) -> None:
        order = np.argsort(rows, kind="stable")
        self._names, self._order, self._rows = names, order, rows[order]

    def __len__(self) -> int:
        return len(self._rows)

    def of(self, block: Block) -> tuple[Any, np.ndarray]:
        """Return the names of the copies of a block's images, and the images' places in it."""
        ends = (block.row, block.row + len(block))
        first, last = np.searchsorted(self._rows, ends)
        names = self._names.take(pa.array(self._order[first:last]))
        return names, self._rows[first:last] - block.row


@dataclass(frozen=True)
class Group:
    """Rows that are read at once: a row group of a part.

    ``row``: the first, over all parts. ``start``, ``size``: which bytes of the part they are.
    """

    part: int
    number: int
    row: int
    start: int
    size: int


class StoredFeatures:
    """The features of an archive, as its finished parts were when it was opened."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest = Manifest.read(folder)
        self._parts = [part_file(folder, number) for number in range(count_parts(folder))]
        self.groups: list[Group] = []
        self._rows = 0
        for number, path in enumerate(self._parts):
            self._learn(number, path)

    def __len__(self) -> int:
        return self._rows

    @cached_property
    def copies(self) -> Copies:
        """All images whose content another one had first."""
        tables = []
        for number in range(len(self._parts)):
            path = copies_file(self.folder, number)
            if path.exists():
                with _naming(path):
                    tables.append(pq.read_table(path, columns=["path", "row"], use_threads=False))
        if not tables:
            return Copies(pa.array([], pa.large_string()), np.empty(0, np.int64))
        table = pa.concat_tables(tables)
        names = table.column("path").cast(pa.large_string()).combine_chunks()
        return Copies(names, table.column("row").to_numpy())

    def blocks(self, size: int, groups: slice = slice(None)) -> Generator[Block, None, None]:
        """Yield all images, or those of some groups, in order, at most ``size`` at once.

        Some groups are read ahead. Raises ArchiveError.
        """
        wanted = self.groups[groups]
        with called_ahead(self._read, wanted, _AHEAD, _READERS, "ovml-read") as calls:
            for group, reading in zip(wanted, calls, strict=True):
                was_there = reading.done()
                table = reading.result()
                if was_there and self._is_large:
                    self._forget(group)
                for start in range(0, len(table), size):
                    yield self._block(table.slice(start, size), group.row + start)

    def _read(self, group: Group) -> Any:
        columns = ["path", "features", *(["scales"] if self.manifest.precision == "int8" else [])]
        path = self._parts[group.part]
        with _naming(path), pq.ParquetFile(path, pre_buffer=False) as file:
            return file.read_row_group(group.number, columns=columns, use_threads=False)

    @cached_property
    def _is_large(self) -> bool:
        """Whether it would fill a good part of the system's cache: a quarter of memory."""
        if not hasattr(os, "posix_fadvise"):
            return False
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return sum(group.size for group in self.groups) > memory / 4

    def _forget(self, group: Group) -> None:
        """Drop what was read from the system's cache.

        Where the disk is quick enough, keeping it helps nobody, and to find room for what comes
        next takes the processor longer than reading.
        """
        with suppress(OSError), open(self._parts[group.part], "rb") as file:
            os.posix_fadvise(file.fileno(), group.start, group.size, os.POSIX_FADV_DONTNEED)

    def _block(self, table: Any, row: int) -> Block:
        manifest = self.manifest
        shape = (manifest.features, manifest.embedding)
        columns = {"features": _array(table, "features", DTYPES[manifest.precision], shape)}
        if manifest.precision == "int8":
            columns["scales"] = _array(table, "scales", np.dtype("<f4"), shape[:1])
        names = table.column("path").combine_chunks()
        return Block(row, names, columns, manifest.centre_array)

    def _learn(self, number: int, path: Path) -> None:
        """Read where a part's rows are."""
        with _naming(path), pq.ParquetFile(path) as file:
            size = DTYPES[self.manifest.precision].itemsize
            wanted = size * self.manifest.features * self.manifest.embedding
            found = file.schema_arrow.field("features").type
            if found != pa.binary(wanted):
                raise ValueError(f"its features are {found}, not {wanted} bytes")
            for group in range(file.num_row_groups):
                facts = file.metadata.row_group(group)
                if facts.num_rows == 0:  # the part has copies only
                    continue
                columns = [facts.column(i) for i in range(facts.num_columns)]
                start = min(c.dictionary_page_offset or c.data_page_offset for c in columns)
                bytes_ = sum(c.total_compressed_size for c in columns)
                self.groups.append(Group(number, group, self._rows, start, bytes_))
                self._rows += facts.num_rows


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Turn what Arrow says of a damaged file into an ArchiveError that names it."""
    try:
        yield
    except (*DAMAGED, KeyError) as error:
        raise damaged(path, error) from error


def _array(table: Any, column: str, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    """A column of fixed-size binary, where it lies."""
    chunks = []
    for chunk in table.column(column).chunks:
        width = int(np.prod(shape)) * dtype.itemsize
        raw = np.frombuffer(chunk.buffers()[1], np.uint8)
        raw = raw[chunk.offset * width : (chunk.offset + len(chunk)) * width]
        chunks.append(raw.view(dtype).reshape(len(chunk), *shape))
    return chunks[0] if len(chunks) == 1 else np.concatenate(chunks)

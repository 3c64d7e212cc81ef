"""Fills an archive: one process at a time, a part at a time, each whole or not at all."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

import numpy as np

from ovml_deploy.files import write_atomically
from ovml_deploy.pipelines.archives.arrow import DAMAGED, pa, pq
from ovml_deploy.pipelines.archives.digests import DigestIndex
from ovml_deploy.pipelines.archives.layout import (
    ERRORS,
    LOCK,
    MANIFEST,
    ArchiveError,
    Manifest,
    copies_file,
    count_parts,
    damaged,
    part_file,
)
from ovml_deploy.pipelines.archives.quantized import DTYPES, Loss

_NAME_DIGEST = 16
_CONTENT_DIGEST = 32
_ROWS_OF_A_GROUP = 1024


@dataclass
class _Part:
    """Rows in the order of their sources."""

    first_row: int
    names: list[str] = field(default_factory=list)
    digests: list[bytes] = field(default_factory=list)
    columns: list[dict[str, np.ndarray]] = field(default_factory=list)
    copies: list[tuple[str, bytes, int]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.names) + len(self.copies)


class Filling:
    """An archive that is being filled. Made by :func:`filling`.

    ``images`` and ``copies``: how many are in it, those of the unfinished part included.
    """

    def __init__(self, folder: Path, manifest: Manifest, encoded_on: str, errors: IO[str]) -> None:
        self.folder, self.manifest = folder, manifest
        self.failed = 0
        self._errors = errors
        self._failed_names: set[bytes] = set()
        self._encoded_on = encoded_on
        self._names = DigestIndex(_NAME_DIGEST)
        self._contents = DigestIndex(_CONTENT_DIGEST)
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="ovml-archive")
        self._written: Future[None] | None = None
        self._parts = count_parts(folder)
        self.images = self.copies = 0
        for number in range(self._parts):
            self._learn(number)
        self._part = _Part(self.images)

    @property
    def rows_of_part(self) -> int:
        """How many images the unfinished part has."""
        return len(self._part)

    def take_name(self, name: str) -> bool:
        """Whether a name is new; from now on it is not."""
        digest = name_digest(name)
        if self._names.find(digest) is not None:
            return False
        self._names.add(digest, 0)
        return True

    def find(self, digest: bytes) -> int | None:
        """Return the row that has a content, or None. For any thread."""
        return self._contents.find(digest)

    def add(self, name: str, digest: bytes, columns: dict[str, np.ndarray]) -> None:
        """Add an image of new content, with its stored features ``[M, D]``."""
        self._contents.add(digest, self.images)
        self._part.names.append(name)
        self._part.digests.append(digest)
        self._part.columns.append(columns)
        self.images += 1

    def add_copy(self, name: str, digest: bytes, row: int) -> None:
        """Add an image whose content is in a row already."""
        self._part.copies.append((name, digest, row))
        self.copies += 1

    def fail(self, name: str, reason: str) -> None:
        """Report an image that could not be read."""
        self.failed += 1
        self._failed_names.add(name_digest(name))
        self._errors.write(_error_line(name, reason))

    def end_part(self, loss: Loss | None = None) -> None:
        """Write the unfinished part, on a thread. ``loss``: as measured, if none is known yet."""
        self._wait()
        if loss is not None and self.manifest.loss is None:
            self.manifest = replace(self.manifest, loss=loss)
        part, number, manifest = self._part, self._parts, self.manifest
        self._part = _Part(self.images)
        self._parts += 1
        self._written = self._writer.submit(self._write, part, number, manifest)

    def close(self, complete: bool) -> None:
        """Wait for the last part; if all sources were read, settle which images failed."""
        try:
            if complete:
                if not (self.folder / MANIFEST).exists() and self._written is None:
                    self.manifest.write(self.folder)  # of no images
                self._wait()
                self._keep_old_errors()
        finally:
            self._writer.shutdown()

    def _wait(self) -> None:
        if self._written is not None:
            self._written.result()

    def _write(self, part: _Part, number: int, manifest: Manifest) -> None:
        if number == 0:
            manifest.write(self.folder)
        if part.copies:
            with write_atomically(copies_file(self.folder, number)) as path:
                pq.write_table(_copies_table(part), path, compression="zstd")
        else:  # a kill may have left some, of a part that was never there
            copies_file(self.folder, number).unlink(missing_ok=True)
        with write_atomically(part_file(self.folder, number)) as path:
            pq.write_table(
                _part_table(part, manifest, self._encoded_on),
                path,
                row_group_size=_ROWS_OF_A_GROUP,
                compression={"path": "zstd"} | dict.fromkeys(_plain(manifest), "none"),
                use_dictionary=False,
                write_statistics=["path"],
                write_page_checksum=True,
            )

    def _learn(self, number: int) -> None:
        """Read what a finished part has."""
        part, copies = part_file(self.folder, number), copies_file(self.folder, number)
        rows = _read(part, ["path", "sha256"])
        self._contents.add_many(
            _digests(rows.column("sha256")), np.arange(self.images, self.images + len(rows))
        )
        self._learn_names(rows)
        self.images += len(rows)
        if copies.exists():
            more = _read(copies, ["path"])
            self._learn_names(more)
            self.copies += len(more)

    def _learn_names(self, rows: Any) -> None:
        names = [name_digest(name) for name in rows.column("path").to_pylist()]
        if names:
            raw = np.frombuffer(b"".join(names), np.uint8).reshape(-1, _NAME_DIGEST)
            self._names.add_many(raw, np.zeros(len(names), np.int64))

    def _keep_old_errors(self) -> None:
        """Errors of sources that this run did not read stay."""
        for name, reason in read_errors(self.folder):
            digest = name_digest(name)
            if digest not in self._failed_names and self._names.find(digest) is None:
                self._errors.write(_error_line(name, reason))


@contextmanager
def filling(folder: Path, manifest: Manifest, encoded_on: str) -> Iterator[Filling]:
    """Open an archive to fill it, or make one; ``encoded_on`` is written into each new part.

    Removes what a kill left half written. Raises ArchiveError where another process fills it, where
    it is of another model or precision, or the folder is something else.
    """
    is_archive = (folder / MANIFEST).exists()
    folder.mkdir(parents=True, exist_ok=True)
    foreign = [path.name for path in folder.iterdir() if not path.name.startswith(".")]
    if foreign and not is_archive:
        raise ArchiveError(
            f"{str(folder)!r} is no archive and not empty (it has {foreign[0]!r}). Name a new folder."
        )
    with open(folder / LOCK, "a+b") as lock:
        _take(lock, folder)
        _sweep(folder)
        if is_archive:
            manifest = _checked(Manifest.read(folder), manifest, folder)
        with write_atomically(folder / ERRORS) as path, open(path, "w", encoding="utf-8") as errors:
            archive = Filling(folder, manifest, encoded_on, errors)
            try:
                yield archive
            except BaseException:
                archive.close(complete=False)
                raise
            archive.close(complete=True)


def name_digest(name: str) -> bytes:
    """Return 16 bytes that stand for a name."""
    return hashlib.sha256(name.encode()).digest()[:_NAME_DIGEST]


def read_errors(folder: Path) -> Iterable[tuple[str, str]]:
    """Yield the names and reasons of the images that failed. Raises ArchiveError."""
    path = folder / ERRORS
    if not path.exists():
        return
    try:
        with open(path, encoding="utf-8") as lines:
            for line in lines:
                value = json.loads(line)
                yield value["path"], value["error"]
    except (ValueError, KeyError, TypeError) as error:
        raise ArchiveError(f"{path} is damaged ({error}). Remove it.") from error


def _error_line(name: str, reason: str) -> str:
    return json.dumps({"path": name, "error": reason}) + "\n"


def _checked(found: Manifest, wanted: Manifest, folder: Path) -> Manifest:
    if found.model != wanted.model:
        raise ArchiveError(
            f"{str(folder)!r} holds features of another model ({found.head}, {found.model}, not "
            f"{wanted.head}, {wanted.model}). Name another folder with --out, or its own model with "
            "--engine."
        )
    if found.precision != wanted.precision:
        raise ArchiveError(
            f"{str(folder)!r} stores features in {found.precision}, not {wanted.precision}. Say "
            f"--precision {found.precision}, or name another folder with --out."
        )
    return found


def _take(lock: IO[bytes], folder: Path) -> None:
    """Take the lock, which the system drops with the process, however that ends."""
    try:
        import fcntl
    except ImportError:
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise ArchiveError(
            f"Another process is filling {str(folder)!r}. Wait for it, or name another folder."
        ) from error


def _sweep(folder: Path) -> None:
    for path in folder.glob(".*.part"):
        path.unlink()


def _read(path: Path, columns: list[str]) -> Any:
    try:
        return pq.read_table(path, columns=columns, use_threads=False, partitioning=None)
    except DAMAGED as error:
        raise damaged(path, error) from error


def _digests(column: Any) -> np.ndarray:
    raw = np.frombuffer(b"".join(column.to_pylist()), np.uint8)
    return raw.reshape(-1, _CONTENT_DIGEST)


def _plain(manifest: Manifest) -> list[str]:
    """The columns that no compression makes smaller."""
    return ["sha256", "features", *(["scales"] if manifest.precision == "int8" else [])]


def _part_table(part: _Part, manifest: Manifest, encoded_on: str) -> Any:
    shape = (manifest.features, manifest.embedding)
    sizes = {"features": int(np.prod(shape)) * DTYPES[manifest.precision].itemsize}
    if manifest.precision == "int8":
        sizes["scales"] = 4 * manifest.features
    arrays = {
        "path": pa.array(part.names, pa.string()),
        "sha256": pa.array(part.digests, pa.binary(_CONTENT_DIGEST)),
    }
    for name, size in sizes.items():
        values = [np.ascontiguousarray(columns[name]) for columns in part.columns]
        stacked = np.stack(values) if values else np.empty(0, np.uint8)
        arrays[name] = pa.FixedSizeBinaryArray.from_buffers(
            pa.binary(size), len(values), [None, pa.py_buffer(stacked)]
        )
    schema = pa.schema([pa.field(n, a.type, nullable=False) for n, a in arrays.items()])
    facts = {
        "model": manifest.model,
        "features": {"dtype": DTYPES[manifest.precision].str, "shape": shape},
        "encoded_on": encoded_on,
    }
    schema = schema.with_metadata({"ovml-deploy": json.dumps(facts)})
    return pa.Table.from_arrays([*arrays.values()], schema=schema)


def _copies_table(part: _Part) -> Any:
    names, digests, rows = zip(*part.copies, strict=True)
    return pa.table(
        {
            "path": pa.array(names, pa.string()),
            "sha256": pa.array(digests, pa.binary(_CONTENT_DIGEST)),
            "row": pa.array(rows, pa.int64()),
        }
    )

"""A .npy file that grows row by row and says, beside itself, how many rows count."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np

from ovml_deploy.files import write_atomically

_PROGRESS = "progress.json"


@dataclass(frozen=True)
class Progress:
    """How many images a feature file holds for good, and why some of them have no features.

    ``size`` is the part of the file, in bytes, that holds those images.
    """

    key: str
    done: int = 0
    size: int = 0
    unreadable: Mapping[int, str] = field(default_factory=dict)

    @classmethod
    def read(cls, home: Path, key: str) -> "Progress":
        """Return what ``home`` records; nothing done where there is no usable record."""
        try:
            content: Any = json.loads((home / _PROGRESS).read_text("utf-8"))
            on_disk = (home / FeatureFile.NAME).stat().st_size
            reasons = {int(index): reason for index, reason in content["unreadable"].items()}
            progress = cls(content["key"], content["done"], content["size"], reasons)
        except (FileNotFoundError, ValueError, LookupError, TypeError):
            return cls(key)
        return progress if progress.key == key and on_disk >= progress.size else cls(key)

    def write(self, home: Path) -> None:
        """Replace the record in ``home``, whole or not at all."""
        with write_atomically(home / _PROGRESS) as temporary:
            temporary.write_text(json.dumps(asdict(self)), "utf-8")


class FeatureFile:
    """Appends rows after those that ``progress`` counts; use as a context manager.

    Plain writes, not a memory map: on a full disk those fail with OSError, where a map would end
    the process. On leaving, also by an exception, what was appended is committed.
    """

    NAME = "features.npy"

    def __init__(
        self, home: Path, shape: tuple[int, int, int], dtype: str, progress: Progress, views: int
    ) -> None:
        self.progress = progress
        self._home = home
        self._image_bytes = views * shape[1] * shape[2] * np.dtype(dtype).itemsize
        self._appended = progress
        self._header = {
            "descr": np.lib.format.dtype_to_descr(np.dtype(dtype)),
            "fortran_order": False,
            "shape": shape,
        }

    def __enter__(self) -> "FeatureFile":
        fresh = self.progress.done == 0
        self._file: BinaryIO = open(self._home / self.NAME, "wb" if fresh else "rb+")
        if fresh:
            np.lib.format.write_array_header_1_0(self._file, self._header)
        else:
            np.lib.format.read_magic(self._file)
            np.lib.format.read_array_header_1_0(self._file)
        self._start = self._file.tell()
        # rows beyond the record may be torn: they are written again
        self._file.truncate(self._start + self.progress.done * self._image_bytes)
        self._file.seek(0, os.SEEK_END)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self.commit()
        finally:
            self._file.close()

    def append(self, rows: np.ndarray, images: int, unreadable: Mapping[int, str]) -> None:
        """Write the rows ``[images * views, N, W]`` of the next images. Raises OSError."""
        self._file.write(np.ascontiguousarray(rows).data)
        done = self._appended.done + images
        reasons = {**self._appended.unreadable, **unreadable}
        size = self._start + done * self._image_bytes
        self._appended = Progress(self.progress.key, done, size, reasons)

    def commit(self) -> None:
        """Put the rows on the disk, then the record that counts them."""
        if self._appended == self.progress:
            return
        self._file.flush()
        os.fsync(self._file.fileno())
        self._appended.write(self._home)
        self.progress = self._appended

"""Label embeddings kept on disk, so that a label is encoded once per text encoder and prompt pool.

SQLite keeps the file whole through kills and lets several processes share it. The cache only
saves time: when it cannot be used, labels are encoded again and a warning says why.
"""

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ovml_deploy.user_folders import NoFolderError, cache_folder, go_on_without_cache

_AT_ONCE = 500  # below SQLite's limit on variables in one statement
_EMBEDDINGS = "labels"
#: A table of its own, so that caches of earlier releases can be used, and by them.
_MARKS = "marks"
_TABLES = (
    f"CREATE TABLE IF NOT EXISTS {_EMBEDDINGS} (label TEXT PRIMARY KEY, embedding BLOB NOT NULL)",
    f"CREATE TABLE IF NOT EXISTS {_MARKS} (label TEXT PRIMARY KEY, mark BLOB NOT NULL) WITHOUT ROWID",
)


class LabelCache:
    """Embeddings ``[D]`` (float32) by label, for one text encoder and one prompt pool.

    A label is any text: one that belongs to a group is kept as ``label<TAB>group``.
    """

    def __init__(self, text_hash: str, prompt_hash: str, folder: Path | None = None) -> None:
        self._name = f"{text_hash}-{prompt_hash}.sqlite"
        self._folder = folder

    @property
    def path(self) -> Path:
        """The SQLite file. Raises NoFolderError, an OSError, where the user has no cache folder."""
        return (self._folder or cache_folder()) / "labels" / self._name

    def get(self, labels: Sequence[str]) -> dict[str, np.ndarray]:
        """Return the embeddings of those labels that are known."""
        found = self._read(_EMBEDDINGS, "embedding", labels)
        try:
            return {label: np.frombuffer(value, dtype="<f4") for label, value in found.items()}
        except (ValueError, TypeError) as error:
            self._warn("read", error)
            return {}

    def put(self, embeddings: Mapping[str, np.ndarray]) -> None:
        """Remember embeddings; a failure is a warning."""
        rows = ((label, row.astype("<f4").tobytes()) for label, row in embeddings.items())
        self._write(_EMBEDDINGS, rows)

    def marks(self, labels: Sequence[str]) -> dict[str, bytes]:
        """Return the marks of those labels that have one; see ``label_tokens``."""
        return self._read(_MARKS, "mark", labels)

    def put_marks(self, marks: Mapping[str, bytes]) -> None:
        """Remember marks; a failure is a warning."""
        self._write(_MARKS, marks.items())

    def _read(self, table: str, column: str, labels: Sequence[str]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        try:
            if not self.path.exists():
                return found
            with self._connection() as connection:
                # a cache of an earlier release lacks a table, and may be read-only
                if not connection.execute(f"PRAGMA table_info({table})").fetchall():
                    return found
                query = f"SELECT label, {column} FROM {table}"
                for start in range(0, len(labels), _AT_ONCE):
                    some = labels[start : start + _AT_ONCE]
                    marks = ",".join("?" * len(some))
                    # Fetched at once: a cursor left half read would keep the file locked.
                    found.update(
                        connection.execute(f"{query} WHERE label IN ({marks})", some).fetchall()
                    )
        except (sqlite3.Error, OSError) as error:
            self._warn("read", error)
            return {}
        return found

    def _write(self, table: str, rows: Iterable[tuple[str, bytes]]) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self._connection() as connection, connection:
                for statement in _TABLES:
                    connection.execute(statement)
                connection.executemany(f"INSERT OR REPLACE INTO {table} VALUES (?, ?)", rows)
        except (sqlite3.Error, OSError) as error:
            self._warn("written", error)

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(self.path, timeout=30)) as connection:
            yield connection

    def _warn(self, verb: str, error: Exception) -> None:
        file = None if isinstance(error, NoFolderError) else self.path
        go_on_without_cache(error, file, verb)

"""Answers of a language model kept on disk, so that none is paid for twice.

Unlike the label cache, which only saves time, this one is not done without: where an answer cannot
be kept, none should be asked for.
"""

import hashlib
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from ovml_deploy.errors import DataError
from ovml_deploy.user_folders import NoFolderError, cache_folder


class AnswerCache:
    """The answers of one model at one address under some settings, by the text of the question.

    Safe for threads and processes. Every answer is on disk when :meth:`put` returns. Raises
    DataError where the file cannot be used.
    """

    def __init__(
        self, address: str, model: str, settings: str = "", folder: Path | None = None
    ) -> None:
        self.path = (folder or _default_folder()) / "answers.sqlite"
        self._about = [address, model, settings]
        with self._connection() as connection, connection:
            connection.execute(
                "CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, model TEXT NOT NULL, "
                "question TEXT NOT NULL, answer TEXT NOT NULL)"
            )

    def get(self, question: str) -> str | None:
        """Return the answer to this question, if it was given."""
        with self._connection() as connection:
            row = connection.execute(
                "SELECT answer FROM answers WHERE key = ?", (self._key(question),)
            ).fetchone()
            return None if row is None else str(json.loads(row[0]))

    def put(self, question: str, answer: str) -> None:
        """Keep an answer."""
        # As JSON, for an answer may hold what is no text in SQLite, such as half a surrogate pair.
        values = (self._key(question), self._about[1], json.dumps(question), json.dumps(answer))
        with self._connection() as connection, connection:
            connection.execute("INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?)", values)

    def _key(self, question: str) -> str:
        messages = [{"role": "user", "content": question}]
        return hashlib.sha256(json.dumps([*self._about, messages]).encode()).hexdigest()

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(self.path, timeout=30)) as connection:
                yield connection
        except (sqlite3.Error, OSError, ValueError) as error:
            raise DataError(
                f"The answers cannot be kept in {str(self.path)!r} ({error}). Make room there, name "
                "another folder with --cache, or delete the file if it is damaged."
            ) from error


def _default_folder() -> Path:
    try:
        return cache_folder() / "answers"
    except NoFolderError as error:
        raise DataError(
            f"There is no folder to keep the answers in: {error}, or name a folder with --cache."
        ) from error

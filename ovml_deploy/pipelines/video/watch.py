"""Swaps the vocabulary when its file changes."""

import logging
from pathlib import Path
from threading import Event as Signal
from threading import Thread

from ovml_deploy.errors import OvmlError, VocabularyError
from ovml_deploy.files import sha256_file
from ovml_deploy.runtime.tagger import Tagger

logger = logging.getLogger(__name__)


class VocabularyWatch:
    """Has a tagger use a label file or vocabulary file anew whenever its content changes.

    On a thread of its own, so that tagging goes on with the old words while new ones are encoded. A
    file that makes no vocabulary is reported, and the old one stays. ``swaps``: how often it changed;
    ``problem``: what is wrong with the file as it is now.
    """

    def __init__(self, tagger: Tagger, path: str | Path, every: float = 1.0) -> None:
        """``every``: seconds between looks. Raises VocabularyError where there is no such file."""
        self.swaps = 0
        self.problem: str | None = None
        self._tagger, self._path, self._every = tagger, Path(path), every
        if not self._path.is_file():
            raise VocabularyError(f"There is no vocabulary file {str(path)!r} to watch.")
        self._seen, self._content = self._facts(), sha256_file(self._path)
        self._ended = Signal()
        self._thread = Thread(target=self._run, name="ovml-watch", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(self._every):
            try:
                self._look()
            except (OvmlError, OSError) as error:
                problem = str(error)
                if problem != self.problem:
                    logger.warning("%s: the words stay as they were: %s", self._path, problem)
                self.problem = problem

    def _look(self) -> None:
        facts = self._facts()
        if facts == self._seen:
            return
        content = sha256_file(self._path)
        self._seen = facts
        if content == self._content and self.problem is None:
            return
        self._content = content
        vocabulary = self._tagger.use_vocabulary(self._path)
        self.swaps, self.problem = self.swaps + 1, None
        logger.info("%s: %d words from now on", self._path, len(vocabulary))

    def _facts(self) -> tuple[int, int, int]:
        found = self._path.stat()
        return found.st_mtime_ns, found.st_size, found.st_ino

"""A vocabulary store in tests, and an engine whose text encoder stops where a test wants it."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

from ovml_deploy.runtime.engine import Engine
from ovml_deploy.runtime.vocabulary import Vocabulary
from ovml_deploy.serving.vocabularies import Entry, Limits, VocabularyStore

SOON = 60.0  # seconds after which something hangs
_fresh = count()


class Gate:
    """An engine whose text encoder stops after each 256 new labels until it is let on."""

    def __init__(self, engine: Engine) -> None:
        self.open = threading.Event()
        self.reached = threading.Event()
        self.bundle = engine.bundle
        self.prepare = engine.prepare
        self.text_encoder = self
        self.check = engine.text_encoder.check
        self._engine = engine

    def vocabulary(self, labels, name: str, progress: Callable[[int, int], None]) -> Vocabulary:
        def gated(done: int, total: int) -> None:
            progress(done, total)
            self.reached.set()
            assert self.open.wait(SOON)
            progress(done, total)

        return self._engine.text_encoder.vocabulary(labels, name, gated)


@contextmanager
def opened(engine: Any, folder: Path | None = None, **limits: int) -> Iterator[VocabularyStore]:
    store = VocabularyStore(engine, folder, Limits(**limits))
    try:
        yield store
    finally:
        store.close()


def fresh(number: int = 300) -> list[str]:
    """Labels that no cache knows."""
    batch = next(_fresh)
    return [f"thing {batch} {index}" for index in range(number)]


def put(store: VocabularyStore, name: str, labels) -> Entry:
    store.put(name, labels)
    entry = store.wait(name, SOON)
    assert entry.state == "ready", entry
    return entry

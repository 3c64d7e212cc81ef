"""Vocabularies that requests bring with them: embedded in turn, and kept in memory for a while."""

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from ovml_deploy.errors import LabelError, OverloadedError
from ovml_deploy.runtime.engine import Engine
from ovml_deploy.runtime.labels import check_labels
from ovml_deploy.runtime.vocabulary import Vocabulary
from ovml_deploy.serving.errors import StoppingError

NAME = "inline"

_KEPT_ROWS = 20_000
_KEPT_VOCABULARIES = 64
_WAITING = 32
_AT_ONCE = 32  # labels, between which it may be stopped


@dataclass(eq=False)
class _Made:
    """A vocabulary that is being made, or was; ``waiting``: the requests that wait for it."""

    task: asyncio.Task[Vocabulary]
    unwanted: threading.Event
    waiting: int = 0


class InlineVocabularies:
    """Makes vocabularies of the labels in requests. For one event loop.

    One request's labels are embedded at a time, for texts take the engine's time from images, and only
    while somebody waits for them. They are kept off the disk, which strangers could fill.
    """

    def __init__(self, engine: Engine, most_labels: int, label_chars: int) -> None:
        self._engine = engine
        self._most_labels = most_labels
        self._label_chars = label_chars
        self._made: OrderedDict[tuple[str, ...], _Made] = OrderedDict()
        self._rows: OrderedDict[str, np.ndarray] = OrderedDict()  # of the thread alone
        self._thread = ThreadPoolExecutor(1, "ovml-inline")
        self._closing = False

    async def get(self, labels: Sequence[str]) -> Vocabulary:
        """Return the vocabulary of some labels. Raises LabelError, OverloadedError."""
        key = self._checked(labels)
        made = self._made.get(key)
        if made is None:
            making = sum(not made.task.done() for made in self._made.values())
            if making >= _WAITING:
                raise OverloadedError(
                    f"{making} requests wait for their labels to be embedded. Come back later, or "
                    "put the labels as a vocabulary of their own.",
                    1.0,
                )
            unwanted = threading.Event()
            made = _Made(asyncio.ensure_future(self._embed(key, unwanted)), unwanted)
            self._made[key] = made
            self._forget()
        self._made.move_to_end(key)
        made.waiting += 1
        try:
            return await asyncio.shield(made.task)  # others may wait for it
        finally:
            made.waiting -= 1
            if made.task.done():
                if made.task.cancelled() or made.task.exception() is not None:
                    self._drop(key, made)  # an error is not kept
            elif not made.waiting:
                self._drop(key, made)
                made.unwanted.set()
                made.task.cancel()

    def close(self) -> None:
        """Embed no more."""
        self._closing = True
        self._thread.shutdown(wait=True, cancel_futures=True)

    async def _embed(self, labels: tuple[str, ...], unwanted: threading.Event) -> Vocabulary:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._vocabulary, labels, unwanted)

    def _vocabulary(self, labels: tuple[str, ...], unwanted: threading.Event) -> Vocabulary:
        self._engine.text_encoder.check(labels, keep=False)
        missing = [label for label in labels if label not in self._rows]
        for start in range(0, len(missing), _AT_ONCE):
            if self._closing or unwanted.is_set():
                raise StoppingError("The server stops, or nobody waits for these labels.")
            some = missing[start : start + _AT_ONCE]
            self._rows.update(zip(some, self._engine.text_encoder.embed(some), strict=True))
        for label in labels:
            self._rows.move_to_end(label)
        embeddings = np.stack([self._rows[label] for label in labels])
        while len(self._rows) > _KEPT_ROWS:
            self._rows.popitem(last=False)
        bundle = self._engine.bundle
        vocabulary = Vocabulary(NAME, labels, embeddings, bundle.text_hash, bundle.prompt_hash)
        self._engine.prepare(vocabulary)
        return vocabulary

    def _drop(self, key: tuple[str, ...], made: _Made) -> None:
        if self._made.get(key) is made:
            del self._made[key]

    def _checked(self, labels: Sequence[str]) -> tuple[str, ...]:
        if len(labels) > self._most_labels:
            raise LabelError(
                f"{len(labels):,} labels are too many for a request, which may bring "
                f"{self._most_labels:,}. Put them as a vocabulary, and name that."
            )
        for label in labels:
            if len(label) > self._label_chars:
                raise LabelError(
                    f"The label {label[:40]!r}... has {len(label):,} characters; at most "
                    f"{self._label_chars} are allowed."
                )
        return check_labels(labels)

    def _forget(self) -> None:
        for key in [*self._made]:
            if len(self._made) <= _KEPT_VOCABULARIES:
                break
            if self._made[key].task.done():
                del self._made[key]

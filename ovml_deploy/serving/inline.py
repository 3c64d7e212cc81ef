"""Vocabularies that requests bring with them: embedded in turn, and kept in memory for a while."""

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from ovml_deploy.errors import LabelError, OverloadedError
from ovml_deploy.runtime.engine import Engine
from ovml_deploy.runtime.labels import check_labels
from ovml_deploy.runtime.vocabulary import Vocabulary

NAME = "inline"

_KEPT_ROWS = 20_000
_KEPT_VOCABULARIES = 64
_WAITING = 32


class InlineVocabularies:
    """Makes vocabularies of the labels in requests. For one event loop.

    One request's labels are embedded at a time, for texts take the engine's time from images. They
    are kept off the disk, which strangers could fill.
    """

    def __init__(self, engine: Engine, most_labels: int, label_chars: int) -> None:
        self._engine = engine
        self._most_labels = most_labels
        self._label_chars = label_chars
        self._made: OrderedDict[tuple[str, ...], asyncio.Task[Vocabulary]] = OrderedDict()
        self._rows: OrderedDict[str, np.ndarray] = OrderedDict()  # of the thread alone
        self._thread = ThreadPoolExecutor(1, "ovml-inline")
        self._waiting = 0

    async def get(self, labels: Sequence[str]) -> Vocabulary:
        """Return the vocabulary of some labels. Raises LabelError, OverloadedError."""
        key = self._checked(labels)
        made = self._made.get(key)
        if made is None:
            if self._waiting >= _WAITING:
                raise OverloadedError(
                    f"{self._waiting} requests wait for their labels to be embedded. Come back "
                    "later, or put the labels as a vocabulary of their own.",
                    1.0,
                )
            made = self._made[key] = asyncio.ensure_future(self._embed(key))
            self._forget()
        self._made.move_to_end(key)
        return await asyncio.shield(made)  # others may wait for it

    def close(self) -> None:
        """Embed no more."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    async def _embed(self, labels: tuple[str, ...]) -> Vocabulary:
        self._waiting += 1
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._thread, self._vocabulary, labels)
        except BaseException:
            del self._made[labels]  # an error is not kept
            raise
        finally:
            self._waiting -= 1

    def _vocabulary(self, labels: tuple[str, ...]) -> Vocabulary:
        missing = [label for label in labels if label not in self._rows]
        if missing:
            embedded = self._engine.text_encoder.embed(missing)
            self._rows.update(zip(missing, embedded, strict=True))
        for label in labels:
            self._rows.move_to_end(label)
        embeddings = np.stack([self._rows[label] for label in labels])
        while len(self._rows) > _KEPT_ROWS:
            self._rows.popitem(last=False)
        bundle = self._engine.bundle
        vocabulary = Vocabulary(NAME, labels, embeddings, bundle.text_hash, bundle.prompt_hash)
        self._engine.prepare(vocabulary)
        return vocabulary

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
            if self._made[key].done():
                del self._made[key]

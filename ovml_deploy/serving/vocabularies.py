"""The server's vocabularies by name: embedded in the background, swapped whole, kept on disk."""

import logging
import threading
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from ovml_deploy.errors import LabelError, OvmlError, VocabularyError
from ovml_deploy.runtime.bundle import Bundle
from ovml_deploy.runtime.engine import Engine
from ovml_deploy.runtime.label_files import read_grouped_labels
from ovml_deploy.runtime.labels import LabelSource, split_groups
from ovml_deploy.runtime.vocabulary import Vocabulary, load_named
from ovml_deploy.serving.errors import (
    ConflictError,
    NotReadyError,
    StateError,
    StoppingError,
    UnknownVocabularyError,
)
from ovml_deploy.serving.state_folder import Request, Slot, StateFolder, check_name

logger = logging.getLogger(__name__)

_NONE_ACTIVE = "No vocabulary is active."


@dataclass(frozen=True)
class Limits:
    """What clients may put: labels a vocabulary, characters a label, vocabularies in all."""

    labels: int = 100_000
    label_chars: int = 256
    vocabularies: int = 64


@dataclass(frozen=True)
class Entry:
    """What is known of a vocabulary.

    ``version``, ``labels`` (how many) and ``id`` are of the one that is served; where none is yet,
    of the one that was asked for, with no id. ``newest`` is the version last asked for, which
    ``state`` ("embedding", "ready" or "failed"), ``done`` of ``total`` labels, and ``error`` are of.
    """

    name: str
    version: int
    newest: int
    state: str
    labels: int
    done: int
    total: int
    id: str | None
    error: str | None
    active: bool
    in_bundle: bool


class _StoppedError(Exception):
    """Nobody wants what is being embedded any more."""


class VocabularyStore:
    """Named vocabularies, one of them active; safe for threads. ``close`` it at the end.

    ``put`` accepts labels at once and embeds them on one thread, in order; what was there before
    under that name is served until the new one is whole. With a ``folder``, what a method has
    accepted survives a kill: there, labels that were not yet embedded are embedded at the next start,
    as are vocabularies of another model. Only one process may use a folder. The vocabularies of
    the bundle are there too, at version 0, and cannot be changed.

    The methods raise the VocabularyErrors of ``serving.errors``, LabelError for labels that cannot be
    used, and once it is closed StoppingError for what would change something.
    """

    def __init__(
        self, engine: Engine, folder: Path | None = None, limits: Limits | None = None
    ) -> None:
        self._engine = engine
        self._limits = limits or Limits()
        self._writing = threading.Lock()  # one change at a time, on disk and then in memory
        self._tokenizing = threading.Lock()  # one list at a time, so that images get the processor
        self._changed = threading.Condition()  # guards what follows; never held while writing
        self._stored = _of_bundle(engine.bundle)
        self._own: dict[str, Slot] = {}
        self._active = engine.bundle.default_vocabulary
        self._none_active = _NONE_ACTIVE
        self._queue: dict[str, Request] = {}
        self._closing = False
        self._folder = None if folder is None else StateFolder(folder)
        try:
            if self._folder is not None:
                self._restore(self._folder)
            self._prepare_active()
        except BaseException:
            if self._folder is not None:
                self._folder.close()
            raise
        self._thread = threading.Thread(target=self._run, name="ovml-vocabularies", daemon=True)
        self._thread.start()

    def __contains__(self, name: str) -> bool:
        return name in self._own or name in self._stored

    def put(self, name: str, labels: LabelSource) -> Entry:
        """Accept labels (or a mapping to groups) under a name, to be embedded in the background.

        Of several puts of one name the last one wins.
        """
        check_name(name)
        texts, groups = self._checked(labels)
        with self._tokenizing:
            self._engine.text_encoder.check(labels)
        with self._writing:
            self._check_open()
            if name not in self._own:
                self._check_new(name)
            old = self._own.get(name, Slot())
            request = Request(old.newest + 1, texts, groups)
            if self._folder is not None:
                self._folder.save_request(name, request)
            slot = replace(old, newest=request.version, wanted=request, done=0, error=None)
            with self._changed:
                self._own[name] = slot
                self._queue.pop(name, None)
                self._queue[name] = request
                self._changed.notify_all()
        return self._entry(name, slot)

    def get(self, name: str) -> Vocabulary:
        """Return what is served under a name."""
        return self.served(name)[0]

    def served(self, name: str) -> tuple[Vocabulary, Entry]:
        """Return what is served under a name, and its entry at that moment."""
        with self._changed:
            slot = self._slot(name)
            if slot.vocabulary is None:
                raise NotReadyError(_not_ready(name, slot))
            return slot.vocabulary, self._entry(name, slot)

    def entry(self, name: str) -> Entry:
        """Return what is known of a vocabulary."""
        with self._changed:
            return self._entry(name, self._slot(name))

    def entries(self) -> list[Entry]:
        """Return what is known of all vocabularies, by name."""
        with self._changed:
            return [self._entry(name, self._slot(name)) for name in sorted(self._names())]

    def labels(self, name: str) -> tuple[str, ...]:
        """Return the labels that are served, or where none are yet, those asked for."""
        return self.detail(name)[1]

    def detail(self, name: str) -> tuple[Entry, tuple[str, ...]]:
        """Return what is known of a vocabulary, with its labels at that moment."""
        with self._changed:
            slot = self._slot(name)
            return self._entry(name, slot), slot.labels

    def active(self) -> tuple[Vocabulary, Entry]:
        """Return the vocabulary that is used where none is named."""
        with self._changed:
            if self._active is None:
                raise NotReadyError(f"{self._none_active} Activate one, or name one.")
            return self.served(self._active)

    def activate(self, name: str) -> Entry:
        """Make a vocabulary the active one, now and after a restart. One must be served there."""
        self._engine.prepare(self.get(name))  # now, and not with the first image
        with self._writing:
            self._check_open()
            self.get(name)
            if self._folder is not None:
                self._folder.activate(name)
            with self._changed:
                self._active = name
                return self.entry(name)

    def use(self, name: str, labels: LabelSource) -> Entry:
        """Put labels unless they are there, wait for them, and activate them."""
        texts, _ = self._checked(labels)
        known = name in self and self.detail(name)
        if not known or known[0].state != "ready" or known[1] != texts:
            self.put(name, labels)
            entry = self.wait(name)
            if entry.error is not None:
                raise VocabularyError(entry.error)
        return self.activate(name)

    def delete(self, name: str) -> None:
        """Forget a vocabulary; those of the bundle and the active one stay."""
        with self._writing:
            self._check_open()
            self._slot(name)
            if name not in self._own:
                raise ConflictError(f"{name!r} is part of the bundle and cannot be deleted.")
            if name == self._active:
                raise ConflictError(f"{name!r} is active. Activate another one, then delete it.")
            if self._folder is not None:
                self._folder.delete(name)
            with self._changed:
                del self._own[name]
                self._queue.pop(name, None)
                self._changed.notify_all()

    def wait(self, name: str, timeout: float | None = None) -> Entry:
        """Return a vocabulary's entry once nothing is being embedded for it, or time is up."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._closing or self._slot(name).state != "embedding", timeout
            )
            return self.entry(name)

    def close(self) -> None:
        """Stop embedding (a restart goes on with it) and leave the folder; reading still works."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()
        with self._writing:
            if self._folder is not None:
                self._folder.close()

    def _restore(self, folder: StateFolder) -> None:
        self._own = folder.read(self._engine.bundle)
        try:
            self._active = folder.active() or self._active
        except StateError as error:  # whatever else is chosen might give the wrong tags
            self._active, self._none_active = None, f"{_NONE_ACTIVE} Which one was cannot be read."
            logger.warning("%s %s", self._none_active, error)
        for name in sorted(self._own, key=lambda name: (name != self._active, name)):
            slot = self._own[name]
            if name in self._stored:
                logger.warning("%r of %s hides that of the bundle.", name, folder.path)
            if slot.state == "embedding" and slot.wanted is not None:
                self._queue[name] = slot.wanted

    def _prepare_active(self) -> None:
        if self._active is None:
            return
        if self._active not in self:
            self._none_active = (
                f"{_NONE_ACTIVE} {self._active!r} was, but it is not there any more."
            )
            self._active = None
            logger.warning("%s", self._none_active)
        elif (vocabulary := self._slot(self._active).vocabulary) is not None:
            self._engine.prepare(vocabulary)

    def _names(self) -> set[str]:
        return {*self._stored, *self._own}

    def _slot(self, name: str) -> Slot:
        slot = self._own.get(name) or self._stored.get(name)
        if slot is None:
            known = ", ".join(sorted(self._names())) or "none"
            raise UnknownVocabularyError(
                f"There is no vocabulary {name[:80]!r}; there are: {known}."
            )
        return slot

    def _entry(self, name: str, slot: Slot) -> Entry:
        total = len(slot.labels if slot.wanted is None else slot.wanted.labels)
        return Entry(
            name,
            version=slot.newest if slot.vocabulary is None else slot.version,
            newest=slot.newest,
            state=slot.state,
            labels=len(slot.labels),
            done=total if slot.state == "ready" else slot.done,
            total=total,
            id=None if slot.vocabulary is None else slot.vocabulary.id,
            error=slot.error,
            active=name == self._active,
            in_bundle=name not in self._own,
        )

    def _checked(self, labels: LabelSource) -> tuple[tuple[str, ...], dict[str, str]]:
        limits = self._limits
        if not isinstance(labels, str) and len(labels) > limits.labels:
            raise LabelError(
                f"{len(labels):,} labels are too many: at most {limits.labels:,} are allowed in a "
                "vocabulary. Split it."
            )
        texts, groups = split_groups(labels)
        for position, text in enumerate(texts, start=1):
            if len(text) > limits.label_chars:
                raise LabelError(
                    f"Label {position} ({text[:40]!r}...) has {len(text):,} characters; at most "
                    f"{limits.label_chars} are allowed."
                )
        return texts, groups

    def _check_new(self, name: str) -> None:
        if name in self._stored:
            raise ConflictError(
                f"{name!r} is part of the bundle and cannot be changed. Use another name."
            )
        if len(self._own) >= self._limits.vocabularies:
            raise ConflictError(
                f"There are {len(self._own)} vocabularies, and at most {self._limits.vocabularies} are "
                "allowed. Delete one first."
            )

    def _check_open(self) -> None:
        if self._closing:
            raise StoppingError("The server stops, and changes no vocabularies any more.")

    def _run(self) -> None:
        while (job := self._next()) is not None:
            name, request = job
            try:
                self._embed(name, request)
            except _StoppedError:
                continue
            except OvmlError as error:
                self._fail(name, request, str(error))
            except Exception as error:  # of one vocabulary; the next may do
                logger.exception("embedding the vocabulary %r", name)
                self._fail(name, request, f"The labels cannot be embedded ({error!r}).")

    def _next(self) -> tuple[str, Request] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._closing or self._queue)
            if self._closing:
                return None
            name = next(iter(self._queue))
            return name, self._queue.pop(name)

    def _embed(self, name: str, request: Request) -> None:
        def progress(done: int, missing: int) -> None:
            with self._changed:
                known = len(request.labels) - missing
                self._own[name] = replace(self._slot_of(name, request), done=known + done)

        with self._changed:
            self._slot_of(name, request)
        vocabulary = self._engine.text_encoder.vocabulary(request.source, name, progress)
        self._engine.prepare(vocabulary)
        _ = vocabulary.id  # takes a while, which nobody shall wait for later
        with self._writing:
            with self._changed:
                self._slot_of(name, request)
            if self._folder is not None:
                self._folder.save(name, request.version, vocabulary)
            with self._changed:
                self._own[name] = Slot(request.version, request.version, vocabulary)
                self._changed.notify_all()

    def _slot_of(self, name: str, request: Request) -> Slot:
        """The slot that still wants a request. Raises _StoppedError where none does."""
        slot = self._own.get(name)
        if self._closing or slot is None or slot.wanted is not request:
            raise _StoppedError
        return slot

    def _fail(self, name: str, request: Request, error: str) -> None:
        logger.warning("The vocabulary %r cannot be embedded: %s", name, error)
        with self._changed, suppress(_StoppedError):
            self._own[name] = replace(self._slot_of(name, request), error=error)
            self._changed.notify_all()


def read_named_labels(path: str | Path) -> tuple[str, LabelSource]:
    """Return the name that a label file stands for, and its labels. Raises LabelError, VocabularyError."""
    name = Path(path).stem.lower().replace(" ", "-")
    check_name(name)
    return name, read_grouped_labels(path)


def _of_bundle(bundle: Bundle) -> dict[str, Slot]:
    slots: dict[str, Slot] = {}
    for name in bundle.vocabulary_names():
        try:
            slots[name] = Slot(vocabulary=load_named(bundle, name))
        except OvmlError as error:
            logger.warning("The bundle's vocabulary %r failed: %s", name, error)
            slots[name] = Slot(error=str(error))
    return slots


def _not_ready(name: str, slot: Slot) -> str:
    if slot.error is not None:
        return f"The vocabulary {name!r} failed: {slot.error}"
    return (
        f"The vocabulary {name!r} is not ready: {slot.done:,} of {len(slot.labels):,} labels are "
        "embedded. Try again in a while."
    )

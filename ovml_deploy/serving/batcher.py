"""Collects single images of many callers into batches for one engine, on a thread of its own."""

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import cast

import numpy as np

from ovml_deploy.errors import DeviceError, OverloadedError
from ovml_deploy.runtime.engine import Engine
from ovml_deploy.runtime.vocabulary import Vocabulary

_LONGEST_WAIT = 60.0  # seconds that a caller is asked to stay away at most
_SHORTEST_WAIT = 0.1
_PATIENCE = 0.3  # of the last batch's time, to wait for images that are still being decoded
_FAILURES = 8  # batches in a row after which a device will not recover; no input can cause them


@dataclass(frozen=True)
class Matched:
    """What the engine gives for one image.

    ``features`` ``[M, D]``; ``logits`` and ``winners`` ``[K]`` of the job's vocabulary, None where
    it named none. ``waited``: seconds in the queue; ``took``: seconds of its batch; ``batch``: how
    many images shared it.
    """

    features: np.ndarray
    logits: np.ndarray | None
    winners: np.ndarray | None
    waited: float
    took: float
    batch: int


#: An image's pixels, uint8 ``[H, W, 3]``, or what returns them, to be called on the engine's thread.
Pixels = np.ndarray | Callable[[], np.ndarray]


@dataclass(frozen=True)
class _Job:
    pixels: Pixels
    vocabulary: Vocabulary | None
    future: "Future[Matched]"
    queued: float


class Batcher:
    """Runs images through an engine in batches; safe for threads.

    A batch starts with the oldest image and takes what else is there, up to ``max_batch``. Where that
    is less than half of the images that are about, an idle engine waits for more: ``max_delay``
    seconds, and for those that are expected up to a part of what the last batch took. The other half
    is decoded meanwhile, so that the engine need not wait for it, either. Images with different
    vocabularies share the encoder. At most ``max_queue`` images wait. ``observe`` is
    called with (images, seconds) of each batch, ``died`` where the thread ends by itself, both on
    the thread.
    """

    def __init__(
        self,
        engine: Engine,
        max_batch: int = 8,
        max_delay: float = 0.002,
        max_queue: int = 64,
        observe: Callable[[int, float], None] | None = None,
        died: Callable[[], None] | None = None,
    ) -> None:
        self.failure: BaseException | None = None  #: what ended the thread, if anything did
        self._engine = engine
        self._max_batch = max_batch
        self._max_delay = max_delay
        self._max_queue = max_queue
        self._observe = observe or (lambda images, seconds: None)
        self._died = died or (lambda: None)
        self._jobs: deque[_Job] = deque()
        self._expected: set[Future[Matched]] = set()
        self._changed = threading.Condition()
        self._closing = False
        self._busy = False
        self._last_batch = 1
        self._last_took = 0.0
        self._failed = 0  # batches since one that succeeded
        self._seconds_an_image = 0.0  # a moving average, to tell callers when to come back
        self._thread = threading.Thread(target=self._run, name="ovml-engine", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether images are still computed."""
        return self._thread.is_alive() and self.failure is None

    @property
    def idle(self) -> bool:
        """Whether the engine has nothing to do, nor soon will."""
        return not (self._busy or self._jobs or self._expected)

    @property
    def waiting(self) -> int:
        """How many images are in the queue."""
        return len(self._jobs)

    def expect(self) -> "Future[Matched]":
        """Return the future of an image that comes soon; :meth:`submit` or :meth:`forget` follows."""
        future: Future[Matched] = Future()
        with self._changed:
            self._expected.add(future)
        return future

    def forget(self, future: "Future[Matched]", error: BaseException) -> None:
        """Expect an image no more, because of an error, which its future has unless cancelled."""
        with self._changed:
            self._expected.discard(future)
            self._changed.notify()
        if future.set_running_or_notify_cancel():
            future.set_exception(error)

    def submit(
        self,
        pixels: Pixels,
        vocabulary: Vocabulary | None,
        future: "Future[Matched] | None" = None,
    ) -> "Future[Matched]":
        """Queue an image; cancelling the future frees its place.

        ``future``: the image's own, where it was expected. Raises OverloadedError where the queue is
        full, DeviceError where the engine is gone.
        """
        job = _Job(pixels, vocabulary, future or Future(), time.monotonic())
        with self._changed:
            self._expected.discard(job.future)
            self._check_open()
            if len(self._jobs) >= self._max_queue:
                self._forget_cancelled()
            if len(self._jobs) >= self._max_queue:
                raise OverloadedError(
                    f"{len(self._jobs)} images wait already, and at most {self._max_queue} may. Come "
                    "back later, or send fewer at once.",
                    self.expected_wait(len(self._jobs) + 1),
                )
            self._jobs.append(job)
            self._changed.notify()
        return job.future

    def submit_first(self, pixels: np.ndarray) -> "Future[Matched]":
        """Queue an image before all others, however many wait; otherwise as :meth:`submit`."""
        job = _Job(pixels, None, Future(), time.monotonic())
        with self._changed:
            self._check_open()
            self._jobs.appendleft(job)
            self._changed.notify()
        return job.future

    def expected_wait(self, images: int) -> float:
        """Return how many seconds so many images will take, as far as is known, 0.1 to 60."""
        return min(max(images * self._seconds_an_image, _SHORTEST_WAIT), _LONGEST_WAIT)

    def close(self, drain: bool = True) -> None:
        """Take no more images; compute those that wait, unless ``drain`` is False."""
        with self._changed:
            self._closing = True
            if not drain:
                self._drop(DeviceError("The server stops."))
            self._changed.notify()
        self._thread.join()

    def _check_open(self) -> None:
        if self._closing or not self.alive:
            raise DeviceError("The engine has stopped, and takes no more images.")

    def _forget_cancelled(self) -> None:
        jobs, self._jobs = self._jobs, deque()
        for job in jobs:
            if job.future.cancelled():
                job.future.set_running_or_notify_cancel()  # whoever waits for it is told
            else:
                self._jobs.append(job)

    def _run(self) -> None:
        try:
            while (batch := self._next_batch()) is not None:
                self._busy = True
                if ready := [job for job in map(_decoded, batch) if job is not None]:
                    self._compute(ready)
                self._busy = False
        except BaseException as error:  # nobody would wait for a thread that is not there
            with self._changed:
                self.failure = error
                self._drop(_stopped(error))
            self._died()
            raise

    def _next_batch(self) -> list[_Job] | None:
        """Wait for images; None at the end. A job that is taken can no longer be cancelled."""
        with self._changed:
            idle_since = time.monotonic()
            about = self._last_batch + len(self._jobs) + len(self._expected)
            while True:
                while not self._jobs:
                    if self._closing:
                        return None
                    self._changed.wait()
                start = max(self._jobs[0].queued, idle_since)
                while 0 < len(self._jobs) < self._enough(about) and not self._closing:
                    left = start + self._delay() - time.monotonic()
                    if left <= 0:
                        break
                    self._changed.wait(left)
                batch: list[_Job] = []
                while self._jobs and len(batch) < self._max_batch:
                    job = self._jobs.popleft()
                    if job.future.set_running_or_notify_cancel():
                        batch.append(job)
                if batch:
                    self._last_batch = len(batch)
                    return batch

    def _enough(self, about: int) -> int:
        """Return for how many images an idle engine does not wait for more of those ``about``."""
        about = max(about, len(self._jobs) + len(self._expected))
        return min(self._max_batch, (about + 1) // 2)

    def _delay(self) -> float:
        """Return for how many seconds an idle engine may wait for more images."""
        return max(self._max_delay, _PATIENCE * self._last_took if self._expected else 0.0)

    def _compute(self, batch: list[_Job]) -> None:
        start = time.monotonic()
        try:
            found = self._matched(batch)
        except BaseException as error:
            self._failed += 1
            told = error if isinstance(error, DeviceError) else _stopped(error)
            for job in batch:
                job.future.set_exception(told)
            if told is error and self._failed < _FAILURES:  # the next batch may do
                return
            raise
        self._failed = 0
        took = self._last_took = time.monotonic() - start
        share = took / len(batch)
        self._seconds_an_image += 0.2 * (share - self._seconds_an_image)
        for job, (features, logits, winners) in zip(batch, found, strict=True):
            waited = start - job.queued
            job.future.set_result(Matched(features, logits, winners, waited, took, len(batch)))
        self._observe(len(batch), took)

    def _matched(
        self, batch: list[_Job]
    ) -> list[tuple[np.ndarray, np.ndarray | None, np.ndarray | None]]:
        pixels = cast("list[np.ndarray]", [job.pixels for job in batch])  # they are decoded by now
        kept = self._engine.encode(np.stack(pixels))
        features = np.asarray(kept)
        rows: dict[Vocabulary, list[int]] = {}
        for index, job in enumerate(batch):
            if job.vocabulary is not None:
                rows.setdefault(job.vocabulary, []).append(index)
        found: list[tuple[np.ndarray, np.ndarray | None, np.ndarray | None]]
        found = [(features[index], None, None) for index in range(len(batch))]
        for vocabulary, some in rows.items():
            # all of them, as a rule: then the features need not have left the device
            part = kept if len(some) == len(batch) else features[some]
            logits, winners = self._engine.match(part, vocabulary)
            for index, row, won in zip(some, logits, winners, strict=True):
                found[index] = (features[index], row, won)
        return found

    def _drop(self, error: Exception) -> None:
        for job in self._jobs:
            if job.future.set_running_or_notify_cancel():
                job.future.set_exception(error)
        self._jobs.clear()


def _decoded(job: _Job) -> _Job | None:
    """Return a job with its pixels, or None where they cannot be had."""
    if isinstance(job.pixels, np.ndarray):
        return job
    try:
        return replace(job, pixels=job.pixels(), queued=time.monotonic())
    except Exception as error:
        job.future.set_exception(error)
        return None


def _stopped(error: BaseException) -> DeviceError:
    return DeviceError(f"The engine stopped: {error}")

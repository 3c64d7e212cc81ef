"""A video becomes events: reading, preprocessing and computing overlap, and words may be swapped."""

import os
import time
from collections.abc import Generator, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from threading import Event as Signal
from typing import Any

import numpy as np

from ovml_deploy.errors import UsageError
from ovml_deploy.pipelines.video.events import EventSettings, EventTracker
from ovml_deploy.pipelines.video.flow import Flow, Prepared
from ovml_deploy.pipelines.video.records import Counts, Event, FrameResult
from ovml_deploy.pipelines.video.sampling import Reading
from ovml_deploy.pipelines.video.sources import ArraySource, Frame, FrameSource, Source
from ovml_deploy.pipelines.video.watch import VocabularyWatch
from ovml_deploy.runtime.images import open_image
from ovml_deploy.runtime.results import scores_of, select_tags
from ovml_deploy.runtime.tagger import Tagger
from ovml_deploy.runtime.threads import available_cpus
from ovml_deploy.runtime.vocabulary import Vocabulary

_PATIENCE = 2.0  # seconds that a source has to let go, before it is left to its timeout
_NO_SCORES = np.empty(0)


class VideoStream:
    """Iterate over it for each sampled frame's :class:`FrameResult` and the :class:`Event` objects.

    ``source``: a file, a URL (rtsp://, http://, ...), "camera:0", "-" (standard input), or frames as
    arrays, whose ``channels`` must be said; ``rate``: how many of these there are a second, None if
    they come as they happen. ``top_k`` and ``threshold`` choose a frame's tags, as in ``Tagger.tag``.
    ``vocabulary_file``: swapped in whenever it changes. Raises VideoError, UsageError.

    Each frame's pixels are those that ``Tagger.tag`` would make of it. Memory: the decoder's own, up
    to 4 frames and one a thread as they come, and two batches of preprocessed ones.
    """

    def __init__(
        self,
        tagger: Tagger,
        source: str | os.PathLike[str] | FrameSource,
        channels: str | None = None,
        rate: float | None = None,
        reading: Reading | None = None,
        events: EventSettings | None = None,
        top_k: int | None = 5,
        threshold: float | None = None,
        vocabulary_file: str | Path | None = None,
    ) -> None:
        self.counts = Counts()
        self._tagger, self._reading = tagger, reading or Reading()
        self._events = events or EventSettings()
        self._top_k, self._threshold = top_k, threshold
        self._vocabulary_file = vocabulary_file
        self._stop = Signal()
        self._flow: Flow | None = None
        self._index = 0
        if top_k is not None and top_k < 1:
            raise UsageError(f"top_k is {top_k}; it must be at least 1.")
        if isinstance(source, (str, os.PathLike)):
            if channels is not None or rate is not None:
                raise UsageError(
                    "channels and rate are for frames that are arrays, not for a video."
                )
            self.source: Source | ArraySource = Source(source, self._reading)
        else:
            self.source = ArraySource(source, channels, rate, self._reading)
        # errors come now, not with the first result
        self._tracker = EventTracker(self._events, self.source.name)
        self._vocabulary: Vocabulary | None = None
        self._follow(tagger.vocabulary)

    def stop(self) -> None:
        """End the run soon, from any thread or a signal's handler: open events are still given out."""
        self._stop.set()
        if self._flow is not None:
            self._flow.end()

    def __iter__(self) -> Generator[FrameResult | Event, None, None]:
        counts, source = self.counts, self.source
        size = self._reading.batch_size
        preprocess = self._tagger.bundle.preprocessing

        def prepare(frame: Frame) -> np.ndarray:
            return preprocess(open_image(frame.rgb(), self._reading.max_pixels))

        with ExitStack() as stack:
            if self._vocabulary_file is not None:
                stack.enter_context(closing(VocabularyWatch(self._tagger, self._vocabulary_file)))
            frames = source.frames(counts, self._stop)
            flow = Flow(frames, prepare, source.policy, counts, 2 * size, available_cpus())
            self._flow = flow
            stack.callback(flow.close, _PATIENCE)
            stack.callback(self._stop.set)
            try:
                # Full batches make a file's results the same each time; live frames do not wait.
                while batch := flow.batch(size, not source.live):
                    yield from self._tag(batch)
            except Exception:
                yield from self._tracker.close()
                raise
            yield from self._tracker.close(source.end)

    def _tag(self, batch: list[Prepared]) -> Iterator[FrameResult | Event]:
        vocabulary = self._tagger.vocabulary
        yield from self._follow(vocabulary)
        tried = [(frame, _outcome(future)) for frame, future in batch]
        good = [pixels for _, pixels in tried if isinstance(pixels, np.ndarray)]
        rows: Iterator[tuple[np.ndarray, np.ndarray]] = iter(())
        if good:
            features = self._tagger.engine.encode(np.stack(good))
            rows = zip(*self._tagger.engine.match(features, vocabulary), strict=True)
        now = time.monotonic()
        for frame, outcome in tried:
            latency = now - frame.arrived
            if isinstance(outcome, str):
                self.counts.failed += 1
                yield self._result(frame, latency, vocabulary, (), _NO_SCORES, outcome)
                continue
            row, winners = next(rows)
            activation, chosen = self._tagger.bundle.activation, (self._top_k, self._threshold)
            tags = select_tags(row, winners, vocabulary, activation, *chosen)
            scores = scores_of(row, activation, vocabulary.calibration)
            self.counts.note_latency(latency)
            self.counts.tagged += 1
            yield self._result(frame, latency, vocabulary, tags, scores)
            yield from self._tracker.add(frame.time, scores)

    def _result(
        self,
        frame: Frame,
        latency: float,
        vocabulary: Vocabulary,
        tags: tuple[Any, ...],
        scores: np.ndarray,
        error: str | None = None,
    ) -> FrameResult:
        index, name = self._index, self.source.name
        self._index += 1
        return FrameResult(name, index, frame.time, tags, scores, vocabulary, latency, error)

    def _follow(self, vocabulary: Vocabulary) -> list[Event]:
        if vocabulary is self._vocabulary:
            return []
        self._vocabulary, calibration = vocabulary, vocabulary.calibration
        threshold = None if calibration is None else calibration.threshold
        return self._tracker.use(vocabulary.labels, vocabulary.id, threshold)


def stream(
    tagger: Tagger,
    source: str | os.PathLike[str] | FrameSource,
    fps: float | None = 2.0,
    channels: str | None = None,
    rate: float | None = None,
    events: EventSettings | None = None,
    starts: bool = False,
    vocabulary_file: str | Path | None = None,
    **reading: Any,
) -> Generator[Event, None, None]:
    """Yield a video's events as they end, and with ``starts`` also as they begin (``ongoing``).

        for event in stream(tagger, "film.mp4", fps=2):
            print(event.label, event.start, event.end)

    ``source``, ``channels``, ``rate``, ``vocabulary_file`` and errors: as for :class:`VideoStream`;
    ``fps`` and all else: as for :class:`Reading`.
    """
    run = VideoStream(
        tagger,
        source,
        channels,
        rate,
        Reading(fps=fps, **reading),
        events,
        1,
        None,
        vocabulary_file,
    )
    return _only_events(run, starts)


def tag_frames(
    tagger: Tagger,
    frames: FrameSource,
    channels: str,
    rate: float | None = None,
    fps: float | None = None,
    top_k: int | None = 5,
    threshold: float | None = None,
    **reading: Any,
) -> Generator[FrameResult, None, None]:
    """Yield the tags of frames that are arrays, uint8 ``[H, W, 3]``, or (seconds, array).

    ``channels``: "rgb", or "bgr" as OpenCV has them. ``top_k``, ``threshold``: as for ``Tagger.tag``;
    the rest as for :class:`VideoStream` and :class:`Reading`; ``fps`` None tags them all.
    """
    settings = Reading(fps=fps, **reading)
    run = VideoStream(tagger, frames, channels, rate, settings, top_k=top_k, threshold=threshold)
    return _only_frames(run)


def _only_events(run: VideoStream, starts: bool) -> Generator[Event, None, None]:
    with closing(iter(run)) as records:
        for record in records:
            if isinstance(record, Event) and (starts or not record.ongoing):
                yield record


def _only_frames(run: VideoStream) -> Generator[FrameResult, None, None]:
    with closing(iter(run)) as records:
        for record in records:
            if isinstance(record, FrameResult):
                yield record


def _outcome(future: Any) -> np.ndarray | str:
    """A frame's pixels, or what is wrong with it."""
    error = future.exception()
    return future.result() if error is None else str(error) or type(error).__name__

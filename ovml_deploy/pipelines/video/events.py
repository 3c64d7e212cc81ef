"""From scores to events: smoothing over time, hysteresis for each label, and dates from raw scores.

Whether a label is there is decided on smoothed scores: it enters when they reach one threshold and
leaves when they fall below a lower one. Smoothing is exponential with a time constant, so that it
does not depend on the rate of frames:

    smoothed += (1 - exp(-dt / time constant)) * (score - smoothed)

That decides late, by design. So *when* it came or went is read from the raw scores: each frame votes
for or against a change by the side of the middle of the two thresholds that it lies on, and the
change is dated at the frame since which the votes for it have outnumbered those against it. This is Page's
cumulative sum ("Continuous inspection schemes", 1954), the most likely point of change where each
frame errs equally often.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ovml_deploy.errors import UsageError
from ovml_deploy.pipelines.video.records import Event

#: A label's threshold: one for all, or one for some by name.
Threshold = float | Mapping[str, float] | None

_LEAVE_SHARE = 0.6


@dataclass(frozen=True)
class EventSettings:
    """How scores become events.

    ``enter``: the smoothed score at which an event begins (None: the threshold of the vocabulary's
    calibration, or 0.5 without one), one for all labels or by label (the others take the default).
    ``leave``: below which it ends (None: 0.6 of ``enter``). All else in seconds: ``smoothing``, the
    time constant; ``min_duration``, shorter events are passed over; ``max_gap``, two events of a
    label no further apart are one; ``max_silence``, after so long without a frame all events end.
    Raises UsageError.
    """

    enter: Threshold = None
    leave: Threshold = None
    smoothing: float = 0.5
    min_duration: float = 0.0
    max_gap: float = 1.0
    max_silence: float = 30.0

    def __post_init__(self) -> None:
        for name in ("smoothing", "min_duration", "max_gap", "max_silence"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise UsageError(f"{name} is {value}; it is a number of seconds, at least 0.")
        for name, given in (("enter", self.enter), ("leave", self.leave)):
            for value in given.values() if isinstance(given, Mapping) else [given]:
                if value is not None and not 0 < value <= 1:
                    raise UsageError(f"{name} is {value}; scores lie between 0 and 1.")

    def thresholds(
        self, labels: Sequence[str], default: float | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return enter and leave thresholds ``[K]`` (float64) of labels.

        ``default``: the calibration's threshold. Raises UsageError where one leaves above its enter.
        """
        usual = default if default and default > 0 else 0.5
        enter = _by_label(self.enter, labels, np.full(len(labels), usual))
        leave = _by_label(self.leave, labels, _LEAVE_SHARE * enter)
        wrong = np.flatnonzero(leave > enter)
        if wrong.size:
            k = int(wrong[0])
            raise UsageError(
                f"{labels[k]!r} would leave at {leave[k]:g}, above {enter[k]:g} where it enters. "
                "Set leave below enter."
            )
        return enter, leave


def _by_label(given: Threshold, labels: Sequence[str], usual: np.ndarray) -> np.ndarray:
    if given is None:
        return usual
    if isinstance(given, Mapping):
        pairs = zip(labels, usual, strict=True)
        return np.array([given.get(label, value) for label, value in pairs], dtype=np.float64)
    return np.full(len(labels), float(given))


@dataclass(frozen=True)
class _Pending:
    """An event that has ended, and may go on yet; sums and counts as they were at start and end."""

    start: float
    end: float
    peak: float
    sums: tuple[float, float]
    counts: tuple[int, int]
    announced: bool
    vocabulary_id: str

    def event(self, label: str, source: str) -> Event:
        frames = self.counts[1] - self.counts[0]
        mean = (self.sums[1] - self.sums[0]) / max(1, frames)
        found = (label, self.start, self.end, self.peak, mean, frames)
        return Event(*found, self.vocabulary_id, source)


class EventTracker:
    """Follows the scores of labels over time. Memory: some 100 bytes a label."""

    def __init__(self, settings: EventSettings, source: str = "") -> None:
        self._settings = settings
        self._source = source
        self._labels: tuple[str, ...] = ()
        self._places: dict[str, int] = {}
        self._vocabulary_id = ""
        self._pending: dict[str, _Pending] = {}
        self._time: float | None = None
        self._interval = 0.0
        self._state = _State(0)
        self._enter = self._leave = self._middle = np.empty(0)

    def use(
        self, labels: tuple[str, ...], vocabulary_id: str, threshold: float | None = None
    ) -> list[Event]:
        """Follow these labels from now on, and return the events of those that are gone.

        ``threshold``: the calibration's. Labels that stay keep their events. Raises UsageError.
        """
        enter, leave = self._settings.thresholds(labels, threshold)
        gone = set(self._labels) - set(labels)
        ended = self._end(lambda label: label in gone)
        places = self._places
        kept = [(k, places[label]) for k, label in enumerate(labels) if label in places]
        state = _State(len(labels))
        if kept:
            state.take(self._state, *map(np.array, zip(*kept, strict=True)))
        self._labels, self._vocabulary_id, self._state = labels, vocabulary_id, state
        self._places = {label: k for k, label in enumerate(labels)}
        self._enter, self._leave, self._middle = enter, leave, (enter + leave) / 2
        return ended

    def add(self, time: float, scores: np.ndarray) -> list[Event]:
        """Take a frame's scores ``[K]`` and return the events that ended or, ``ongoing``, began.

        ``time``: seconds, later than the last. An earlier or equal one counts as the same moment.
        """
        found: list[Event] = []
        if self._time is not None and time - self._time > self._settings.max_silence:
            found += self.close()
        step = 0.0 if self._time is None else max(0.0, time - self._time)
        now = time if self._time is None else max(time, self._time)
        self._interval = step or self._interval
        self._time = now
        scores = np.asarray(scores, dtype=np.float64)
        state = self._state
        state.follow(now, scores, self._middle, _weight(step, self._settings.smoothing))
        entered = ~state.on & (state.smoothed >= self._enter)
        left = state.on & (state.smoothed < self._leave)
        for k in np.flatnonzero(left):
            self._pending[self._labels[k]] = state.ended(int(k), now, self._vocabulary_id)
        for k in np.flatnonzero(entered):
            self._begin(int(k), now)
        state.turn(entered | left)
        state.count(scores)
        found += self._emit(lambda label: self._is_over(label, now))
        found += self._announce(now)
        return found

    def close(self, end: float | None = None) -> list[Event]:
        """End all events and return them; frames that follow start afresh.

        ``end``: when the video ended; without it, one interval after the last frame.
        """
        ended = self._end(lambda _: True, end)
        self._time, self._interval = None, 0.0
        self._state = _State(len(self._labels))
        return ended

    def _begin(self, k: int, now: float) -> None:
        """Start an event, or go on with the one that ended shortly before."""
        state, label = self._state, self._labels[k]
        state.begin(k, now)
        before = self._pending.get(label)
        if before is not None and state.start[k] - before.end <= self._settings.max_gap:
            state.resume(k, self._pending.pop(label))

    def _is_over(self, label: str, now: float) -> bool:
        """Whether nothing can go on with an event that has ended."""
        end, k = self._pending[label].end, self._places[label]
        may_return = self._state.votes[k] > 0 and not self._state.on[k]
        return (self._state.since[k] if may_return else now) - end > self._settings.max_gap

    def _end(self, chosen: Callable[[str], bool], end: float | None = None) -> list[Event]:
        """End and return the events of chosen labels, those that wait for a continuation included."""
        if self._time is None:
            return []
        last = self._time + self._interval if end is None else max(end, self._time)
        found = self._emit(chosen)
        for k in np.flatnonzero(self._state.on):
            if chosen(self._labels[k]):
                ended = self._state.ended(int(k), last, self._vocabulary_id)
                self._pending[self._labels[k]] = ended
        return sorted(found + self._emit(chosen), key=lambda event: (event.end, event.start))

    def _emit(self, chosen: Callable[[str], bool]) -> list[Event]:
        """Hand out the events of chosen labels that have ended."""
        least, found = self._settings.min_duration, []
        for label in [label for label in self._pending if chosen(label)]:
            ended = self._pending.pop(label)
            if ended.announced or ended.end - ended.start >= least:
                found.append(ended.event(label, self._source))
        return found

    def _announce(self, now: float) -> list[Event]:
        state, found = self._state, []
        long_enough = now - state.start >= self._settings.min_duration
        for k in np.flatnonzero(state.on & ~state.announced & long_enough):
            state.announced[k] = True
            so_far = state.ended(int(k), now, self._vocabulary_id)
            event = so_far.event(self._labels[k], self._source)
            found.append(replace(event, end=now, ongoing=True))
        return found


class _State:
    """What is known of each label; arrays ``[K]``.

    ``votes``: by how many frames those that speak for a change outnumber the others; ``since``,
    ``sum_then``, ``count_then``: when that began, and what was summed and counted before.
    """

    _ARRAYS = (
        "on", "announced", "smoothed", "votes", "since", "sum_then", "count_then", "sum", "frames",
        "start", "sum_start", "count_start", "peak",
    )  # fmt: skip

    def __init__(self, labels: int) -> None:
        self.on, self.announced = np.zeros(labels, bool), np.zeros(labels, bool)
        self.smoothed = np.full(labels, np.nan)
        self.votes, self.frames = np.zeros(labels, np.int64), np.zeros(labels, np.int64)
        self.count_then, self.count_start = np.zeros(labels, np.int64), np.zeros(labels, np.int64)
        self.sum, self.sum_then, self.sum_start = (np.zeros(labels) for _ in range(3))
        self.since, self.start, self.peak = (np.zeros(labels) for _ in range(3))

    def take(self, other: "_State", to: np.ndarray, where: np.ndarray) -> None:
        """Copy labels ``where`` of another state to the places ``to`` of this one."""
        for name in self._ARRAYS:
            getattr(self, name)[to] = getattr(other, name)[where]

    def follow(self, now: float, scores: np.ndarray, middle: np.ndarray, weight: float) -> None:
        """Smooth, and let the frame vote; it is not summed yet."""
        new = np.isnan(self.smoothed)
        self.smoothed = np.where(new, scores, self.smoothed + weight * (scores - self.smoothed))
        change = (scores >= middle) != self.on
        first = change & (self.votes == 0)
        self.votes = np.where(change, self.votes + 1, np.maximum(self.votes - 1, 0))
        self.since[first] = now
        self.sum_then[first], self.count_then[first] = self.sum[first], self.frames[first]
        fresh = ~self.on & first
        self.peak = np.where(fresh, scores, np.maximum(self.peak, scores))

    def count(self, scores: np.ndarray) -> None:
        """Sum the frame, once the events that begin or end with it were dated."""
        self.sum += scores
        self.frames += 1

    def begin(self, k: int, now: float) -> None:
        """Begin an event where votes say so; at once where new thresholds did it, not votes."""
        if self.votes[k] == 0:
            self.since[k] = now
            self.sum_then[k], self.count_then[k] = self.sum[k], self.frames[k]
        self.start[k], self.announced[k] = self.since[k], False
        self.sum_start[k], self.count_start[k] = self.sum_then[k], self.count_then[k]

    def resume(self, k: int, before: _Pending) -> None:
        self.start[k], self.announced[k] = before.start, before.announced
        self.sum_start[k], self.count_start[k] = before.sums[0], before.counts[0]
        self.peak[k] = max(float(self.peak[k]), before.peak)

    def ended(self, k: int, end: float, vocabulary_id: str) -> _Pending:
        """The event of label ``k``, ended where votes say so, or else at ``end``."""
        voted = bool(self.votes[k] > 0)
        total, frames = self.sum[k], self.frames[k]
        if voted:
            end, total, frames = float(self.since[k]), self.sum_then[k], self.count_then[k]
        return _Pending(
            float(self.start[k]),
            end,
            float(self.peak[k]),
            (float(self.sum_start[k]), float(total)),
            (int(self.count_start[k]), int(frames)),
            bool(self.announced[k]),
            vocabulary_id,
        )

    def turn(self, changed: np.ndarray) -> None:
        """Let labels that changed be voted on anew."""
        self.on ^= changed
        self.votes[changed] = 0


def _weight(step: float, smoothing: float) -> float:
    """The weight of a new score ``step`` seconds after the last."""
    return 1.0 if step >= 50 * smoothing else 1.0 - math.exp(-step / smoothing)

"""What tagging a video gives: a result for each frame, events, and counts of what happened."""

from dataclasses import dataclass, field

import numpy as np

from ovml_deploy.errors import OvmlError
from ovml_deploy.runtime.results import Tag
from ovml_deploy.runtime.vocabulary import Vocabulary

_LATENCIES_KEPT = 4096


class VideoError(OvmlError):
    """A video that cannot be opened, read, or written."""


@dataclass(frozen=True)
class Event:
    """A label that was seen for a while.

    ``start``, ``end``: seconds since the video's begin, of the first sampled frame that shows it and
    the first that no longer does. ``peak``, ``mean``: of its scores, unsmoothed, over ``frames``
    sampled frames. ``ongoing``: it has begun and not ended yet; ``end`` is then the moment of the report.
    """

    label: str
    start: float
    end: float
    peak: float
    mean: float
    frames: int
    vocabulary_id: str
    source: str = ""
    ongoing: bool = False


@dataclass(frozen=True)
class FrameResult:
    """One sampled frame's tags, best first, and the scores ``[K]`` of its whole vocabulary.

    ``time``: seconds since the video's begin. ``latency``: seconds from when the frame was decoded
    until it was tagged. ``error``: why it could not be tagged; there are no scores then.
    """

    source: str
    index: int
    time: float
    tags: tuple[Tag, ...]
    scores: np.ndarray
    vocabulary: Vocabulary
    latency: float
    error: str | None = None

    @property
    def vocabulary_id(self) -> str:
        """The id of the vocabulary that the scores are of."""
        return self.vocabulary.id


@dataclass
class Counts:
    """What happened in a run so far; one thread writes each number.

    ``decoded`` frames, of which ``sampled`` were to be tagged, of which ``dropped`` gave way to newer
    ones (policy "latest-frame"), ``failed`` could not be tagged, and ``tagged`` were. ``damaged``:
    packets that could not be decoded, and frames passed over for it. ``reconnects`` of a live source.
    """

    decoded: int = 0
    sampled: int = 0
    dropped: int = 0
    failed: int = 0
    tagged: int = 0
    damaged: int = 0
    reconnects: int = 0
    latencies: list[float] = field(default_factory=list)

    def note_latency(self, seconds: float) -> None:
        """Keep a latency, of the last few thousand."""
        if len(self.latencies) < _LATENCIES_KEPT:
            self.latencies.append(seconds)
        else:
            self.latencies[self.tagged % _LATENCIES_KEPT] = seconds

    def latency(self, quantile: float) -> float:
        """Return a quantile of the last few thousand latencies, in seconds; nan where there is none."""
        return float(np.quantile(self.latencies, quantile)) if self.latencies else float("nan")

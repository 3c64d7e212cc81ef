"""Where the time of a run over many images goes."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

#: The engine's share of the time from which on all else is hidden behind it.
HIDDEN = 0.92


@dataclass
class Stages:
    """Seconds in which the engine encoded, waited for decoded images, and waited for all else.

    ``storing`` is what is done with features: matching and writing. The three make up the whole run,
    so the greatest names what to improve.
    """

    encoding: float = 0.0
    decoding: float = 0.0
    storing: float = 0.0

    @contextmanager
    def timing(self, stage: str) -> Iterator[None]:
        """Add the time that the block takes to a stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            setattr(self, stage, getattr(self, stage) + time.perf_counter() - start)

    @property
    def engine_share(self) -> float:
        """Which part of the time the engine computed: how close the run came to its own rate."""
        return self.encoding / max(self.encoding + self.decoding + self.storing, 1e-9)

    @property
    def bottleneck(self) -> str:
        """The stage that took longest: "encoding", "decoding" or "storing"."""
        return max(vars(self), key=lambda name: getattr(self, name))

    @property
    def held_up_by(self) -> str | None:
        """What the engine waited for longest; None where it computed nearly all the time."""
        if self.engine_share >= HIDDEN:
            return None
        return "decoding" if self.decoding > self.storing else "storing"

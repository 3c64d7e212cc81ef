"""Where the time of a run over many images goes."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock

from ovml_deploy.runtime.threads import available_cpus

#: The engine's share of the time from which on all else is hidden behind it.
HIDDEN = 0.92


@dataclass
class Stages:
    """Seconds in which the engine encoded, waited for decoded images, and waited for all else.

    ``storing`` is what is done with features: matching and writing. The three make up the whole run.
    ``beside``: seconds of all processors that decoding took from an engine that computes on them; it
    never waited for those, and was slower for them.
    """

    encoding: float = 0.0
    decoding: float = 0.0
    storing: float = 0.0
    beside: float = 0.0
    _lock: Lock = field(default_factory=Lock, repr=False, compare=False)

    @contextmanager
    def timing(self, stage: str) -> Iterator[None]:
        """Add the time that the block takes to a stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            setattr(self, stage, getattr(self, stage) + time.perf_counter() - start)

    def took_beside(self, seconds: float) -> None:
        """Add a thread's seconds on a processor that the engine computes on. For any thread."""
        with self._lock:
            self.beside += seconds / available_cpus()

    @property
    def shares(self) -> dict[str, float]:
        """Which part of the time goes to "encoding", "decoding" and "storing".

        That of encoding is how close the run came to the engine's own rate: what decoding took
        beside it counts as decoding.
        """
        whole = max(self.encoding + self.decoding + self.storing, 1e-9)
        slowed = min(self.beside, self.encoding)
        times = (self.encoding - slowed, self.decoding + slowed, self.storing)
        names = ("encoding", "decoding", "storing")
        return {name: taken / whole for name, taken in zip(names, times, strict=True)}

    @property
    def bottleneck(self) -> str | None:
        """What held up the engine most, "decoding" or "storing"; None where hardly anything did."""
        shares = self.shares
        if shares["encoding"] >= HIDDEN:
            return None
        return "decoding" if shares["decoding"] > shares["storing"] else "storing"

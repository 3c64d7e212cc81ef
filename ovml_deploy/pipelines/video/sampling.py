"""Which frames are tagged: all, so many a second, or key frames; and how a reader is held or not."""

import math
from dataclasses import dataclass, field

from ovml_deploy.errors import UsageError

EVERY_FRAME = "every-frame"
LATEST_FRAME = "latest-frame"
POLICIES = (EVERY_FRAME, LATEST_FRAME)

#: 8K. A frame of so many pixels takes 106 MB as RGB.
MAX_PIXELS = 8192 * 4320

_ROUNDING = 1e-6  # seconds by which a time stamp may fall short of the grid


@dataclass(frozen=True)
class Reading:
    """How a video is read.

    ``fps``: frames tagged of each second; None: all. ``key_frames``: only key frames, and no others
    are decoded; ``fps`` then thins them out if it is given. ``policy``: "every-frame" holds the reader
    back, "latest-frame" drops frames for newer ones; None: every frame of a file, the latest of a
    live source. ``max_pixels``: a frame may have so many. ``batch_size``: frames of a file computed at
    once. ``timeout``: seconds without a sign of a live source before it is opened anew; ``backoff``:
    seconds before the first and, doubled each time, at most before later tries. ``options``: FFmpeg's,
    by name. ``realtime``: read a file as fast as it plays. Raises UsageError.
    """

    fps: float | None = 2.0
    key_frames: bool = False
    policy: str | None = None
    max_pixels: int = MAX_PIXELS
    batch_size: int = 8
    timeout: float = 10.0
    backoff: tuple[float, float] = (0.5, 30.0)
    options: dict[str, str] = field(default_factory=dict)
    realtime: bool = False

    def __post_init__(self) -> None:
        if self.fps is not None and not (math.isfinite(self.fps) and self.fps > 0):
            raise UsageError(f"fps is {self.fps}; it is a number of frames a second, above 0.")
        if self.policy is not None and self.policy not in POLICIES:
            raise UsageError(f"policy is {self.policy!r}; it is one of {', '.join(POLICIES)}.")
        for name in ("max_pixels", "batch_size"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        if not (math.isfinite(self.timeout) and self.timeout > 0):
            raise UsageError(f"timeout is {self.timeout}; it is a number of seconds, above 0.")
        if not 0 < self.backoff[0] <= self.backoff[1]:
            raise UsageError(
                f"backoff is {self.backoff}; it is two seconds, the smaller one first."
            )


class Sampler:
    """Takes the first frame of each slot of ``1 / fps`` seconds, so that nothing drifts."""

    def __init__(self, fps: float | None) -> None:
        self._fps = fps
        self._slot: int | None = None

    def takes(self, time: float) -> bool:
        """Whether the frame at ``time`` (seconds) is to be tagged."""
        if self._fps is None:
            return True
        slot = math.floor((time + _ROUNDING) * self._fps)
        if slot == self._slot:
            return False
        self._slot = slot
        return True

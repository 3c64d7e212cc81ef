"""Where frames come from: files, network streams, cameras, and arrays of other programs."""

import logging
import os
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Event as Signal
from typing import Any

import numpy as np

from ovml_deploy.errors import UsageError
from ovml_deploy.pipelines.video.decoding import frames, opened, require_av
from ovml_deploy.pipelines.video.pixels import to_rgb
from ovml_deploy.pipelines.video.records import Counts, VideoError
from ovml_deploy.pipelines.video.sampling import EVERY_FRAME, LATEST_FRAME, Reading, Sampler

logger = logging.getLogger(__name__)

#: Frames of another program: arrays, uint8 ``[H, W, 3]``, or pairs of a time in seconds and an array.
FrameSource = Iterable[np.ndarray | tuple[float, np.ndarray]]

CHANNELS = ("rgb", "bgr")

_LIVE = ("rtsp", "rtsps", "rtmp", "rtmps", "udp", "tcp", "srt", "rtp", "mms", "http", "https")
_CAMERAS = {"linux": ("v4l2", "/dev/video{}"), "darwin": ("avfoundation", "{}")}
_JUMP = 10.0  # seconds by which a live source's time stamps may jump before they are set anew


@dataclass(frozen=True)
class Frame:
    """A frame that is to be tagged. ``time``: seconds since the begin; ``arrived``: monotonic."""

    time: float
    arrived: float
    image: Any  # an RGB array, or a frame of PyAV, which is turned into one where there is time

    def rgb(self) -> np.ndarray:
        """Return it as RGB, uint8 ``[H, W, 3]``."""
        return self.image if isinstance(self.image, np.ndarray) else to_rgb(self.image)


class Source:
    """A file, stream, camera, or test picture that PyAV reads."""

    def __init__(self, name: str | os.PathLike[str], reading: Reading) -> None:
        """Raises VideoError for a file that is not there, UsageError for a camera nobody can name."""
        self.name = os.fspath(name)
        self._reading = reading
        self._file, self._format, self.live = _resolve(self.name)
        self.policy = reading.policy or (LATEST_FRAME if self.live else EVERY_FRAME)
        #: When a live source's time began, in seconds since 1970.
        self.epoch = time.time() if self.live else None
        #: Where a film ends, in seconds, as far as it was read.
        self.end: float | None = None

    def frames(self, counts: Counts, stop: Signal) -> Iterator[Frame]:
        """Yield sampled frames until the end or ``stop``. Raises VideoError."""
        return (self._live if self.live else self._once)(counts, stop)

    def _once(self, counts: Counts, stop: Signal) -> Iterator[Frame]:
        av = require_av()
        clock, sampler, begin = _FileClock(), Sampler(self._fps), time.monotonic()
        with opened(self._file, self.name, self._format, self._reading, False) as stream:
            clock.start(stream)
            try:
                for frame in frames(stream, self.name, self._reading, counts):
                    if stop.is_set():
                        return
                    moment = clock.time(frame)
                    self.end = clock.next
                    if self._reading.realtime:
                        stop.wait(max(0.0, begin + moment - time.monotonic()))
                    if sampler.takes(moment):
                        counts.sampled += 1
                        yield Frame(moment, time.monotonic(), frame)
            except (av.FFmpegError, OSError) as error:
                raise VideoError(f"{self.name}: cannot be read on ({error}).") from error
        if counts.decoded == 0:
            raise VideoError(f"{self.name}: not one frame can be decoded.")

    def _live(self, counts: Counts, stop: Signal) -> Iterator[Frame]:
        av = require_av()
        sampler, begin = Sampler(self._fps), time.monotonic()
        clock = _LiveClock(begin)
        wait, was_open = self._reading.backoff[0], False
        while not stop.is_set():
            try:
                with opened(self._file, self.name, self._format, self._reading, True) as stream:
                    was_open = True
                    is_film = self.name.startswith("http") and stream.container.duration is not None
                    clock.start(stream)
                    for frame in frames(stream, self.name, self._reading, counts):
                        wait = self._reading.backoff[0]
                        if stop.is_set():
                            return
                        moment = clock.time(frame)
                        if sampler.takes(moment):
                            counts.sampled += 1
                            yield Frame(moment, time.monotonic(), frame)
                if is_film:
                    return
                reason = "it ended"
            except (av.FFmpegError, OSError, VideoError) as error:
                if not was_open:  # a wrong address or password: waiting would not help
                    raise
                reason = str(error)
            logger.warning("%s: %s; opened anew in %.1f s", self.name, reason, wait)
            if stop.wait(wait):
                return
            wait = min(2 * wait, self._reading.backoff[1])
            counts.reconnects += 1

    @property
    def _fps(self) -> float | None:
        return self._reading.fps


class ArraySource:
    """Frames that another program makes, each copied when taken, since its memory may be reused.

    ``channels``: "rgb" or "bgr". ``rate``: frames a second; None: a frame's time is when it came.
    """

    def __init__(
        self, arrays: FrameSource, channels: str | None, rate: float | None, reading: Reading
    ) -> None:
        if channels not in CHANNELS:
            raise UsageError(
                f"channels is {channels!r}; say 'rgb' or 'bgr' (OpenCV's) for frames that are arrays."
            )
        if rate is not None and not rate > 0:
            raise UsageError(f"rate is {rate}; it is a number of frames a second, above 0.")
        self.name, self.live = "frames", rate is None
        self.policy = reading.policy or EVERY_FRAME
        self.epoch = time.time() if self.live else None
        self.end: float | None = None
        self._arrays, self._channels, self._rate = arrays, channels, rate
        self._reading = reading

    def frames(self, counts: Counts, stop: Signal) -> Iterator[Frame]:
        """Yield sampled frames until the end or ``stop``. Raises VideoError for what is no frame."""
        begin, sampler = time.monotonic(), Sampler(self._reading.fps)
        for index, item in enumerate(self._arrays):
            if stop.is_set():
                return
            moment = time.monotonic() - begin if self._rate is None else index / self._rate
            if isinstance(item, tuple):
                moment, item = item
            if self._rate is not None:
                self.end = moment + 1 / self._rate
            counts.decoded += 1
            if sampler.takes(moment):
                array = self._checked(item)
                counts.sampled += 1
                yield Frame(float(moment), time.monotonic(), array)

    def _checked(self, array: np.ndarray) -> np.ndarray:
        most = self._reading.max_pixels
        if not isinstance(array, np.ndarray) or array.dtype != np.uint8 or array.ndim != 3:
            what = getattr(array, "dtype", type(array).__name__)
            raise VideoError(f"A frame is an array, uint8 [H, W, 3]; this is {what}.")
        if array.shape[2] != 3 or not 0 < array.shape[0] * array.shape[1] <= most:
            raise VideoError(
                f"A frame is an array, uint8 [H, W, 3], of at most {most:,} pixels; this is "
                f"{list(array.shape)}."
            )
        return np.array(array[..., ::-1] if self._channels == "bgr" else array, order="C")


class _FileClock:
    """Time stamps of a file, from 0; where there are none, from the rate."""

    def start(self, stream: Any) -> None:
        self._base = stream.time_base
        self._first = stream.start_time or 0
        self._step = 1 / float(stream.average_rate or 25)
        self.next = 0.0

    def time(self, frame: Any) -> float:
        moment = self.next
        if frame.pts is not None:
            moment = float((frame.pts - self._first) * (frame.time_base or self._base))
        self.next = moment + self._step
        return moment


class _LiveClock(_FileClock):
    """A live source's time stamps, shifted to when its frames came, also after it was opened anew."""

    def __init__(self, begin: float) -> None:
        self._begin = begin

    def start(self, stream: Any) -> None:
        super().start(stream)
        self._shift: float | None = None

    def time(self, frame: Any) -> float:
        stamp, now = super().time(frame), time.monotonic() - self._begin
        if self._shift is None or abs(stamp + self._shift - now) > _JUMP:
            self._shift = now - stamp
        return stamp + self._shift


def _resolve(name: str) -> tuple[str, str | None, bool]:
    """Return what FFmpeg calls a source, its format where it must be named, and whether it is live."""
    scheme, colon, rest = name.partition(":")
    if name == "-":
        return "pipe:0", None, False
    if scheme == "camera" and colon:
        return _camera(rest)
    if scheme == "lavfi" and colon:  # FFmpeg's own test pictures
        return rest, "lavfi", True
    if scheme.lower() in _LIVE and rest.startswith("//"):
        return name, None, True
    if name.startswith("/dev/video"):
        return name, "v4l2", True
    path = Path(name)
    if not path.exists():
        raise VideoError(f"{name}: there is no such file, stream or camera.")
    if path.is_dir():
        raise VideoError(f"{name}: is a folder, not a video.")
    return f"file:{path}", None, False


def _camera(which: str) -> tuple[str, str, bool]:
    if sys.platform == "win32":
        return f"video={which}", "dshow", True
    format, pattern = _CAMERAS.get(sys.platform, _CAMERAS["linux"])
    if not which.isdecimal():
        raise UsageError(f"camera:{which} is not a camera's number. Try camera:0.")
    return pattern.format(which), format, True

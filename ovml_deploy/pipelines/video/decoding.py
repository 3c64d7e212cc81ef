"""Decodes a container's frames; what is damaged is passed over, up to the next key frame."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ovml_deploy.errors import MissingDependencyError
from ovml_deploy.pipelines.video.records import Counts, VideoError
from ovml_deploy.pipelines.video.sampling import Reading
from ovml_deploy.pipelines.video.selection import select_stream
from ovml_deploy.runtime.threads import available_cpus

if TYPE_CHECKING:
    from av import VideoFrame

logger = logging.getLogger(__name__)

#: Errors in a row after which a file is over, and packets after damage that wait for a key frame.
_MOST_ERRORS = 1000
_MOST_WAITING = 300


def require_av() -> Any:
    """Return PyAV. Raises MissingDependencyError."""
    try:
        import av
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            "This needs the package 'av'. Install it: pip install 'ovml-deploy[video]'"
        ) from error
    return av


@contextmanager
def opened(file: str, name: str, format: str | None, reading: Reading, live: bool) -> Iterator[Any]:
    """Open a video for reading and give its best video stream, set up. Raises VideoError.

    ``file``, ``format``: as FFmpeg names them; ``name``: as the user does.
    """
    av = require_av()
    options = {"rtsp_transport": "tcp"} if file.startswith("rtsp") else {}  # UDP loses packets
    options |= reading.options
    timeout = reading.timeout if live else None
    try:
        container = av.open(file, format=format, options=options, timeout=timeout)
    except (av.FFmpegError, OSError, ValueError) as error:
        raise VideoError(f"{name}: cannot be opened as a video ({_reason(error)}).") from error
    with container:
        stream = select_stream(container, name)
        _set_up(stream, reading, live)
        check_size(stream, name, reading.max_pixels)
        yield stream


def _set_up(stream: Any, reading: Reading, live: bool) -> None:
    codec = stream.codec_context
    codec.thread_count = available_cpus()
    # Threads over frames are quicker, and keep as many frames back as there are threads.
    codec.thread_type = "SLICE" if live else "AUTO"
    codec.options = {
        **codec.options,
        "max_pixels": str(reading.max_pixels),
        "err_detect": "explode",  # or damaged frames are painted over, and tagged
    }
    if reading.key_frames:
        codec.skip_frame = "NONKEY"


def check_size(sized: Any, name: str, most: int) -> None:
    """Raise VideoError where something with width and height has too many pixels."""
    width, height = sized.width or 0, sized.height or 0
    if width * height > most:
        raise VideoError(
            f"{name}: frames of {width}x{height}; at most {most:,} pixels are decoded. Raise max_pixels "
            "or scale it down first."
        )


def frames(stream: Any, name: str, reading: Reading, counts: Counts) -> Iterator["VideoFrame"]:
    """Yield the decoded frames of a stream; after damage, from the next key frame on.

    FFmpeg's errors pass through where the source itself fails. Raises VideoError for frames that
    grew too large.
    """
    av = require_av()
    damage = _Damage(name, counts)
    for packet in _packets(stream):
        decoded: list[Any] = []
        try:
            if packet is None or packet.is_corrupt:
                damage.met(packet, "a packet is damaged")
                continue
            decoded = packet.decode()
        except (av.InvalidDataError, av.PatchWelcomeError) as error:
            damage.met(packet, str(error))
            continue
        damage.passed(packet)
        for frame in decoded:
            counts.decoded += 1
            check_size(frame, name, reading.max_pixels)
            if damage.spares(frame):
                yield frame


class _Damage:
    """What is left out because of damage: all frames shown before the next whole key frame.

    Those that the decoder kept back when it met the damage are among them, for it may have painted
    over holes in them. A stream without key frames goes on after some packets.
    """

    def __init__(self, name: str, counts: Counts) -> None:
        self._name, self._counts = name, counts
        self._waiting, self._stamped = 0, False
        self._shown_from: int | None = None

    def met(self, packet: Any, reason: str) -> None:
        if not self._waiting:
            place = "" if packet is None or packet.pts is None else f" at {_seconds(packet)} s"
            logger.info("%s: damaged%s (%s)", self._name, place, reason)
        self._counts.damaged += 1
        self._waiting = _MOST_WAITING

    def passed(self, packet: Any) -> None:
        """Note a packet that was decoded."""
        self._stamped = self._stamped or packet.pts is not None
        if self._waiting and packet.is_keyframe and (packet.pts is not None or not self._stamped):
            self._waiting, self._shown_from = 0, packet.pts
        elif self._waiting:
            self._waiting -= 1

    def spares(self, frame: Any) -> bool:
        before = None not in (self._shown_from, frame.pts) and frame.pts < self._shown_from
        if self._waiting or before or getattr(frame, "is_corrupt", False):
            self._counts.damaged += 1
            return False
        self._shown_from = None
        return True


def _packets(stream: Any) -> Iterator[Any]:
    """Yield packets, and None where the container is damaged and FFmpeg looks for what follows."""
    av = require_av()
    errors = 0
    while errors < _MOST_ERRORS:
        try:
            for packet in stream.container.demux(stream):
                errors = 0
                yield packet
            return
        except av.InvalidDataError:
            errors += 1
            yield None


def _seconds(packet: Any) -> str:
    return f"{float(packet.pts * packet.time_base):.2f}"


def _reason(error: BaseException) -> str:
    return str(getattr(error, "strerror", None) or error)

"""A copy of a video with its events' labels drawn into it."""

import os
from collections.abc import Iterator, Sequence
from fractions import Fraction
from threading import Event as Signal
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ovml_deploy.files import write_atomically
from ovml_deploy.pipelines.video.decoding import require_av
from ovml_deploy.pipelines.video.records import Counts, Event, VideoError
from ovml_deploy.pipelines.video.sampling import MAX_PIXELS, Reading
from ovml_deploy.pipelines.video.sources import Frame, Source
from ovml_deploy.pipelines.video.webvtt import stretches

VIDEO_ENDINGS = (".mp4", ".mkv", ".mov")

_ENCODERS = ("libx264", "mpeg4")  # the second is part of every FFmpeg
_CLOCK = Fraction(1, 90_000)
_BT709, _LIMITED = 1, 1  # of FFmpeg's AVColorSpace and its siblings, and of AVColorRange
_SHADE, _INK = (0, 0, 0), (255, 255, 255)


def annotate(
    path: str | os.PathLike[str],
    events: Sequence[Event],
    out: str | os.PathLike[str],
    most: int = 5,
    max_pixels: int = MAX_PIXELS,
) -> int:
    """Write a film with the labels of ``events`` drawn where they are seen; return its frames.

    Each frame has the time it has in the film ``path``, which is read again. The copy holds the tagged
    video stream alone: upright, in 8-bit BT.709, without sound. Odd sizes lose a row or column, and
    damaged stretches are missing. The file appears whole or not at all. Raises VideoError, UsageError,
    OSError.
    """
    av = require_av()
    source = Source(path, Reading(fps=None, max_pixels=max_pixels, policy="every-frame"))
    if source.live:
        raise VideoError(f"{source.name}: is live and cannot be read again to draw into it.")
    shown = stretches(events, most)
    written = 0
    try:
        with write_atomically(out) as temporary:
            kind = {".mkv": "matroska"}.get(os.path.splitext(out)[1].lower(), "mp4")  # noqa: PTH122
            with av.open(str(temporary), "w", format=kind) as container:
                stream: Any = None
                for frame, labels in _labelled(source, shown):
                    pixels = frame.rgb()
                    if stream is None:
                        stream = _video_stream(container, pixels)
                    _draw(container, stream, pixels, labels, frame.time)
                    written += 1
                if stream is not None:
                    container.mux(stream.encode())
    except av.FFmpegError as error:
        raise VideoError(f"{os.fspath(out)}: cannot be written ({error}).") from error
    return written


def _labelled(
    source: Source, shown: Sequence[tuple[float, float, tuple[str, ...]]]
) -> Iterator[tuple[Frame, tuple[str, ...]]]:
    place = 0
    for frame in source.frames(Counts(), Signal()):
        while place < len(shown) and shown[place][1] <= frame.time + 1e-6:
            place += 1
        seen = place < len(shown) and shown[place][0] <= frame.time + 1e-6
        yield frame, shown[place][2] if seen else ()


def _video_stream(container: Any, pixels: np.ndarray) -> Any:
    av = require_av()
    name = next(name for name in _ENCODERS if name in av.codecs_available and _encodes(name))
    stream = container.add_stream(name, rate=25)  # time stamps say when; the rate is a hint
    stream.codec_context.time_base = _CLOCK
    stream.height, stream.width = (length - length % 2 for length in pixels.shape[:2])
    stream.pix_fmt = "yuv420p"
    codec = stream.codec_context
    codec.colorspace = codec.color_primaries = codec.color_trc = _BT709
    codec.color_range = _LIMITED
    return stream


def _encodes(name: str) -> bool:
    av = require_av()
    try:
        av.codec.Codec(name, "w")
    except ValueError:
        return False
    return True


def _draw(
    container: Any, stream: Any, pixels: np.ndarray, labels: Sequence[str], time: float
) -> None:
    av = require_av()
    size = (stream.height, stream.width)
    if labels:
        pixels = draw_labels(pixels, labels)
    fitting = pixels[: size[0], : size[1]]
    if fitting.shape[:2] != size:  # the film changes its size on the way
        fitting = np.asarray(Image.fromarray(pixels).resize((size[1], size[0])))
    rgb = av.VideoFrame.from_ndarray(np.ascontiguousarray(fitting), format="rgb24")
    frame = rgb.reformat(format=stream.pix_fmt, dst_colorspace=_BT709, dst_color_range=_LIMITED)
    frame.pts, frame.time_base = round(time / _CLOCK), _CLOCK
    container.mux(stream.encode(frame))


def draw_labels(pixels: np.ndarray, labels: Sequence[str]) -> np.ndarray:
    """Return a copy of an RGB image, uint8 ``[H, W, 3]``, with labels in its upper left corner."""
    image = Image.fromarray(pixels)
    draw = ImageDraw.Draw(image)
    size = max(10, image.height // 20)
    font = ImageFont.load_default(size)
    y = size // 2
    for label in labels:
        box = draw.textbbox((size // 2, y), label, font=font)
        if box[3] + size // 4 > image.height:
            break
        draw.rectangle((box[0] - 4, box[1] - 3, box[2] + 4, box[3] + 3), fill=_SHADE)
        draw.text((size // 2, y), label, fill=_INK, font=font)
        y = int(box[3]) + size // 2
    return np.asarray(image)

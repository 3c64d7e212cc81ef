"""Writes files with several streams: cover images, tracks, sound, and HLS playlists."""

import io
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from films import write_film
from PIL import Image

RATE = 25


@dataclass(frozen=True)
class Track:
    """A video stream of one repeated picture. ``disposition``: the name of PyAV's flag, or None."""

    pixels: np.ndarray
    disposition: str | None = None
    codec: str = "libx264"
    frames: int = 5


def cover(pixels: np.ndarray) -> Track:
    """Return a cover image as a stream."""
    return Track(pixels, "attached_pic", "mjpeg", 1)


def write_streams(
    path: Path,
    tracks: Sequence[Track],
    sound: str | None = None,
    attachment: np.ndarray | None = None,
) -> Path:
    """Write video streams, one of silence in the codec ``sound``, and an attached JPEG."""
    import av
    from av.stream import Disposition

    with av.open(str(path), "w") as container:
        audio = None if sound is None else container.add_stream(sound, rate=44_100, layout="mono")
        streams = []
        for track in tracks:
            stream = container.add_stream(track.codec, rate=RATE)
            stream.height, stream.width = track.pixels.shape[:2]
            stream.pix_fmt = "yuvj420p" if track.codec == "mjpeg" else "yuv420p"
            stream.codec_context.thread_count = 1
            stream.disposition = getattr(Disposition, track.disposition or "", Disposition(0))
            streams.append(stream)
        if attachment is not None:
            container.add_attachment("cover.jpg", "image/jpeg", _jpeg(attachment))
        if audio is not None:
            frame = av.AudioFrame.from_ndarray(
                np.zeros((1, 44_100), np.int16), format="s16", layout="mono"
            )
            frame.sample_rate, frame.pts = 44_100, 0
            container.mux(audio.encode(frame))
            container.mux(audio.encode(None))
        for track, stream in zip(tracks, streams, strict=True):
            for index in range(track.frames):
                picture = av.VideoFrame.from_ndarray(track.pixels, format="rgb24")
                picture.pts, picture.time_base = index, Fraction(1, RATE)
                container.mux(stream.encode(picture))
            container.mux(stream.encode())
    return path


def _jpeg(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


def move_cover_first(path: Path) -> Path:
    """Move an MP4's metadata before its tracks, so that the cover becomes the first stream.

    The samples lie before the box `moov`, so their offsets stay.
    """
    order = (b"mvhd", b"udta")
    content = b""
    for kind, box in _boxes(path.read_bytes()):
        if kind == b"moov":
            inner = sorted(_boxes(box[8:]), key=lambda part: (*order, part[0]).index(part[0]))
            box = box[:8] + b"".join(part for _, part in inner)
        content += box
    path.write_bytes(content)
    return path


def _boxes(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    place = 0
    while place < len(content):
        size, kind = struct.unpack(">I4s", content[place : place + 8])
        yield kind, content[place : place + size]
        place += size


def write_hls(folder: Path, variants: dict[str, np.ndarray], segments: int = 3) -> Path:
    """Write an HLS master playlist whose variants repeat one picture each."""
    master = ["#EXTM3U"]
    for name, pixels in variants.items():
        lines = ["#EXTM3U", "#EXT-X-TARGETDURATION:1", "#EXT-X-MEDIA-SEQUENCE:0"]
        for index in range(segments):
            write_film(folder / f"{name}{index}.ts", [pixels] * RATE, RATE)
            lines += ["#EXT-X-DISCONTINUITY", "#EXTINF:1.0,", f"{name}{index}.ts"]
        (folder / f"{name}.m3u8").write_text("\n".join([*lines, "#EXT-X-ENDLIST", ""]))
        height, width = pixels.shape[:2]
        master += [
            f"#EXT-X-STREAM-INF:BANDWIDTH=200000,RESOLUTION={width}x{height}",
            f"{name}.m3u8",
        ]
    path = folder / "master.m3u8"
    path.write_text("\n".join([*master, ""]))
    return path

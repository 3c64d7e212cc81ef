"""Makes real encoded films of scenes, and what else the tests of video need."""

import socket
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from ovml_deploy import assets

#: A photograph of the samples, a picture, or None for an empty grey scene; and for how many seconds.
Scene = tuple[str | np.ndarray | None, float]

SIZE = (320, 240)


def photograph(name: str, size: tuple[int, int] = SIZE) -> np.ndarray:
    """A sample photograph, RGB, cut to a size (width, height)."""
    path = next(path for path in assets.sample_photographs() if path.stem == name)
    with Image.open(path) as image:
        return np.asarray(ImageOps.fit(image.convert("RGB"), size))


def picture(scene: str | np.ndarray | None, size: tuple[int, int] = SIZE) -> np.ndarray:
    if scene is None:
        return np.full((size[1], size[0], 3), 128, np.uint8)
    return photograph(scene, size) if isinstance(scene, str) else scene


def scene_frames(
    scenes: Sequence[Scene], rate: int = 25, size: tuple[int, int] = SIZE, noise: float = 0.0
) -> Iterable[np.ndarray]:
    """The frames of scenes, one after the other; ``noise``: a deviation, in steps of 255."""
    random = np.random.default_rng(0)
    moment, shown = 0.0, 0
    grains = random.normal(0, noise, (4, size[1], size[0], 3)).astype(np.float32)
    for scene, seconds in scenes:
        moment += seconds
        base = picture(scene, size)
        while shown < round(moment * rate):
            shown += 1
            if noise == 0:
                yield base
                continue
            shaken = np.roll(base, random.integers(-3, 4, 2), (0, 1))
            light = random.uniform(0.92, 1.08)
            shone = shaken * np.float32(light) + grains[shown % len(grains)]
            yield shone.clip(0, 255).astype(np.uint8)


def write_film(
    path: Path,
    frames: Iterable[np.ndarray],
    rate: int = 25,
    codec: str = "libx264",
    key_every: int = 25,
    quarters: int = 0,
    matrix: Sequence[int] | None = None,
) -> Path:
    """Encode frames; ``key_every``: from key frame to key frame; ``quarters``: turned so in players.

    ``matrix``: the display matrix's upper left 2x2 (a, b, c, d).
    """
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.pix_fmt = "yuv420p"
        stream.codec_context.gop_size = key_every
        stream.codec_context.thread_count = 1  # or the bytes depend on how many cores there are
        if codec == "libx264":
            stream.options = {"preset": "veryfast", "sc_threshold": "0"}
        if quarters:
            stream.set_display_rotation(90 * quarters)
        if matrix is not None:
            a, b, c, d = (round(65536 * value) for value in matrix)
            stream.set_display_matrix([a, b, 0, c, d, 0, 0, 0, 1 << 30])
        for index, pixels in enumerate(frames):
            if index == 0:
                stream.height, stream.width = pixels.shape[:2]
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def film(path: Path, scenes: Sequence[Scene], rate: int = 25, noise: float = 0.0, **how) -> Path:
    """Encode scenes."""
    return write_film(path, scene_frames(scenes, rate, noise=noise), rate, **how)


def damage(path: Path, hurt: Path, share: float = 0.04) -> Path:
    """Copy a film, noise in place of a share of its bytes, in the middle.

    Over several pictures: H.264 has no checksum, and what decodes by chance is taken as whole.
    """
    content = bytearray(path.read_bytes())
    start, size = len(content) // 2, round(share * len(content))
    noise = np.random.default_rng(1).integers(0, 256, size, dtype=np.uint8)
    content[start : start + size] = noise.tobytes()
    hurt.write_bytes(content)
    return hurt


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def moving_film(path: Path, frames: int, **how) -> Path:
    """Encode frames that all differ."""
    base = photograph("cat")
    return write_film(path, [np.roll(base, 2 * index, 1) for index in range(frames)], **how)

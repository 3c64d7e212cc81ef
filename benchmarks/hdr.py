"""Share of images whose best label stays if they become HDR videos, with and without tone mapping.

    python benchmarks/hdr.py --photos ../shared/photos --document docs/video.md

Each image becomes a frame of an SDR (H.264), a PQ and an HLG video (HEVC, 10 bits, BT.2020; white has
203 cd/m2, as ITU-R BT.2408 maps SDR). Frames are compared with the images by the embedded model.
"""

import argparse
import tempfile
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image, ImageOps
from tables import show

from ovml_deploy import assets
from ovml_deploy.pipelines.video.pixels import to_rgb
from ovml_deploy.pipelines.video.tone_mapping import HLG, PQ
from ovml_deploy.runtime.tagger import Tagger

_SIZE = (384, 384)
_BT709, _BT2020 = 1, 9  # FFmpeg's numbers of matrices and primaries
_TO_BT2020 = np.array(
    [[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]]
)
_VIDEOS = {"SDR": _BT709, "PQ": PQ, "HLG": HLG}  # FFmpeg's numbers of transfer functions


def hdr(pixels: np.ndarray, transfer: int) -> np.ndarray:
    """Return an sRGB image, uint8 ``[H, W, 3]``, as PQ or HLG codes, uint16."""
    value = pixels / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    light = 203 * linear @ _TO_BT2020.T  # cd/m2
    if transfer == PQ:
        power = (light / 10_000) ** (2610 / 16384)
        ratio = (3424 / 4096 + 2413 / 128 * power) / (1 + 2392 / 128 * power)
        signal = ratio ** (2523 / 32)
    else:
        display = light / 1000
        luminance = np.maximum(display @ [0.2627, 0.6780, 0.0593], 1e-9)[..., None]
        scene = display * luminance ** (1 / 1.2 - 1)
        log = 0.17883277 * np.log(np.maximum(12 * scene - 0.28466892, 1e-9)) + 0.55991073
        signal = np.where(scene <= 1 / 12, np.sqrt(3 * scene), log)
    return np.rint(65535 * signal.clip(0, 1)).astype(np.uint16)


def write(path: Path, images: Sequence[np.ndarray], transfer: int) -> None:
    """Encode images as a video, each as a key frame of its own."""
    is_hdr = transfer != _BT709
    matrix = _BT2020 if is_hdr else _BT709
    options = {"crf": "12", "g": "1", "x265-params": "log-level=error:keyint=1"}
    with av.open(str(path), "w") as container:
        name = "libx265" if is_hdr else "libx264"
        stream: Any = container.add_stream(name, rate=25, options=options)
        stream.width, stream.height = _SIZE
        stream.pix_fmt = "yuv420p10le" if is_hdr else "yuv420p"
        codec = stream.codec_context
        codec.color_primaries = codec.colorspace = matrix
        codec.color_trc, codec.color_range = transfer, 1
        for index, pixels in enumerate(images):
            source = hdr(pixels, transfer) if is_hdr else pixels
            rgb = av.VideoFrame.from_ndarray(source, format="rgb48le" if is_hdr else "rgb24")
            frame = rgb.reformat(format=stream.pix_fmt, dst_colorspace=matrix, dst_color_range=1)
            frame.pts, frame.time_base = index, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def best_labels(tagger: Tagger, images: Sequence[np.ndarray]) -> list[str]:
    """Return the best label of each image."""
    return [tags.tags[0].label for tags in tagger.tag_many(images, top_k=1, threshold=0.0)]


def measure(images: Sequence[np.ndarray], folder: Path) -> list[list[str]]:
    """Return the table's rows: video, share kept as decoded, and with tone mapping."""
    tagger = Tagger.load(assets.MINI)
    wanted = best_labels(tagger, images)

    def kept(frames: Sequence[np.ndarray]) -> str:
        pairs = zip(best_labels(tagger, frames), wanted, strict=True)
        return f"{np.mean([one == other for one, other in pairs]):.0%}"

    rows = [["video", "as decoded", "tone-mapped"]]
    for name, transfer in _VIDEOS.items():
        path = folder / f"{name}.mkv"
        write(path, images, transfer)
        with av.open(str(path)) as container:
            frames = list(container.decode(video=0))
        plain = kept([frame.to_ndarray(format="rgb24") for frame in frames])
        mapped = "" if transfer == _BT709 else kept([to_rgb(frame) for frame in frames])
        rows.append([name, plain, mapped])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, default=Path("../shared/photos"))
    parser.add_argument("--count", type=int, default=200, help="images, spread over the folder")
    parser.add_argument("--document", type=Path, help="Markdown file that has the table")
    given = parser.parse_args()
    paths = sorted(given.photos.glob("*.jpg"))
    chosen = [paths[index * len(paths) // given.count] for index in range(given.count)]
    images = []
    for path in chosen:
        with Image.open(path) as image:
            images.append(np.asarray(ImageOps.fit(image.convert("RGB"), _SIZE)))
    with tempfile.TemporaryDirectory() as folder:
        show("hdr", measure(images, Path(folder)), given.document)


if __name__ == "__main__":
    main()

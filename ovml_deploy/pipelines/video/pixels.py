"""Conversion of decoded frames to upright 8-bit RGB."""

from typing import TYPE_CHECKING, Any

import numpy as np

from ovml_deploy.pipelines.video.records import VideoError
from ovml_deploy.pipelines.video.tone_mapping import HLG, PQ, to_sdr

if TYPE_CHECKING:
    from av import VideoFrame

_UNSPECIFIED = 2  # of FFmpeg's AVColorSpace
_SD = (1279, 576)  # largest width and height that players show in BT.601 if nothing is specified

#: The eight orientations, as (a, b, c, d): a pixel at x, y is shown at a * x + c * y, b * x + d * y.
_ORIENTATIONS = np.array(
    [
        (1, 0, 0, 1),
        (-1, 0, 0, 1),
        (1, 0, 0, -1),
        (-1, 0, 0, -1),
        (0, 1, 1, 0),
        (0, -1, 1, 0),
        (0, 1, -1, 0),
        (0, -1, -1, 0),
    ]
)


def to_rgb(frame: "VideoFrame") -> np.ndarray:
    """Return a frame as RGB, uint8 ``[H, W, 3]``: upright, HDR tone-mapped, alpha dropped.

    Raises VideoError for a color matrix that swscale does not support.
    """
    is_hdr = frame.color_trc in (PQ, HLG)
    try:
        pixels = frame.to_ndarray(
            format="rgb48le" if is_hdr else "rgb24", src_colorspace=_colorspace(frame)
        )
    except OSError as error:
        raise VideoError(
            f"Frames with color matrix {frame.colorspace} (of ITU-T H.273) cannot be converted to RGB "
            f"({error.strerror}). Convert the video to BT.709 first."
        ) from error
    if is_hdr:
        pixels = to_sdr(pixels, frame.color_trc)
    matrix = _display_matrix(frame)
    return pixels if matrix is None else orient(pixels, matrix)


def _colorspace(frame: "VideoFrame") -> str | None:
    """Return the matrix of a frame that does not specify one, or None. mpv's rule by size."""
    if frame.colorspace != _UNSPECIFIED or frame.format.is_rgb:
        return None
    is_hd = frame.width > _SD[0] or frame.height > _SD[1]
    return "ITU709" if is_hd else None  # swscale's default is BT.601


def _display_matrix(frame: "VideoFrame") -> np.ndarray | None:
    """Return the display matrix of a frame, int32 ``[3, 3]``."""
    data: Any = frame.side_data.get("DISPLAYMATRIX")
    return None if data is None else np.frombuffer(bytes(data), np.int32).reshape(3, 3)


def orient(pixels: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Return pixels ``[H, W, 3]`` as a display matrix shows them.

    ``matrix``: FFmpeg's, ``[3, 3]``. Of its upper left 2x2 the nearest of the eight orientations applies.
    """
    products = _ORIENTATIONS @ matrix[:2, :2].reshape(4).astype(np.float64)
    a, b, c, d = _ORIENTATIONS[products.argmax()]
    if a == 0:
        pixels = pixels.swapaxes(0, 1)
    rows, columns = (-1 if negative else 1 for negative in (b + d < 0, a + c < 0))
    return np.ascontiguousarray(pixels[::rows, ::columns])

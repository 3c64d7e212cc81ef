"""Pictures that tests make up."""

import io

import numpy as np
from PIL import Image


def picture(width: int = 12, height: int = 8) -> Image.Image:
    """Smooth, so that JPEG keeps it close, and with four different corners."""
    x = np.linspace(0, 255, width)[None, :].repeat(height, 0)
    y = np.linspace(0, 255, height)[:, None].repeat(width, 1)
    return Image.fromarray(np.stack([x, y, 255 - x / 2], axis=2).astype(np.uint8))


def encoded(image: Image.Image, kind: str, **settings) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **settings)
    return stream.getvalue()

"""A bundle's pictures: image files as they are met, and the pixels that open_clip makes of them."""

from dataclasses import dataclass

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from ovml_deploy.errors import BundleError, ImageError
from ovml_deploy.runtime.bundle import PICTURES, Bundle
from ovml_deploy.runtime.images import open_image

#: Before a picture's name: its file, and the PNG file of its pixels.
FILE, PIXELS = "file:", "pixels:"

#: A PNG is lossless, so that all the rest is ours. What a JPEG decodes to is left open to a level in
#: each of its three channels, which makes up to 3 in a channel of RGB.
_JPEG_LEVELS = 3


@dataclass(frozen=True)
class Picture:
    """An image file and its pixels uint8 ``[H, W, 3]``, as open_clip's own transform gives them."""

    name: str
    file: bytes
    pixels: np.ndarray

    @property
    def allowed(self) -> int:
        """By how many levels of 255 other pixels may differ from these."""
        return 0 if self.name.endswith(".png") else _JPEG_LEVELS


def read_pictures(bundle: Bundle) -> list[Picture]:
    """Return a bundle's pictures; those of earlier releases have none. Raises BundleError."""
    if PICTURES not in bundle.manifest["files"]:
        return []
    path = bundle.file(PICTURES)
    try:
        values = load_file(path)
        names = [key.removeprefix(FILE) for key in values if key.startswith(FILE)]
        return [
            Picture(
                name,
                values[FILE + name].tobytes(),
                np.asarray(open_image(values[PIXELS + name].tobytes())),
            )
            for name in sorted(names)
        ]
    except (SafetensorError, ImageError, ValueError, KeyError, TypeError) as error:
        raise BundleError(
            f"{path} cannot be read ({type(error).__name__}: {error}). Export the bundle again."
        ) from error

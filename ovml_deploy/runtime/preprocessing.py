"""From an RGB image to the uint8 pixels an encoder takes, byte for byte as open_clip does it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import PIL
from PIL import Image

from ovml_deploy.errors import ImageError

_RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}

_PILLOW = int(PIL.__version__.partition(".")[0])

#: A thin picture grows when its short side is resized (1x4000 -> 224x896000), and so does the time.
MAX_RESIZED_PIXELS = 256_000_000

#: Pixels (4 bytes each) that exist at once while such a picture is resized.
_PIXELS_AT_ONCE = 16_000_000


@dataclass(frozen=True)
class Preprocessing:
    """open_clip's inference transform without the normalisation, which the encoder does itself.

    ``size`` is (height, width); ``mean`` and ``std`` are for pixels in [0, 1].
    """

    size: tuple[int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str = "bicubic"
    resize_mode: str = "shortest"
    fill_color: int = 0

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "Preprocessing":
        """Build from open_clip's ``preprocess_cfg`` or from :meth:`to_config`'s output."""
        size = config["size"]
        height, width = (size, size) if isinstance(size, int) else size
        mean, std = tuple(config["mean"]), tuple(config["std"])
        if config["resize_mode"] not in ("shortest", "longest", "squash"):
            raise ValueError(f"unknown resize_mode {config['resize_mode']!r}")
        return cls(
            size=(int(height), int(width)),
            mean=(mean[0], mean[1], mean[2]),
            std=(std[0], std[1], std[2]),
            # open_clip's "random" is for training; at inference it means bicubic
            interpolation="bilinear" if config["interpolation"] == "bilinear" else "bicubic",
            resize_mode=config["resize_mode"],
            fill_color=int(config.get("fill_color", 0)),
        )

    def to_config(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)

    def __call__(self, image: Image.Image) -> np.ndarray:
        """RGB image -> uint8 pixels ``[H, W, 3]``. Raises ImageError for an extreme shape."""
        if self.resize_mode == "squash":
            return np.asarray(self._resize(image, self.size, self.interpolation))
        if self.resize_mode == "longest":
            resized = self._resize(image, self._ratio_size(image, max), self.interpolation)
            return np.asarray(_crop_or_pad(resized, self.size, self.fill_color))
        if self.size[0] == self.size[1]:
            resized = self._resize(image, _shortest(image, self.size[0]), self.interpolation)
        else:  # open_clip resizes to a non-square target with bicubic, whatever is configured
            resized = self._resize(image, self._ratio_size(image, min), "bicubic")
        return np.asarray(_crop_or_pad(resized, self.size, 0))

    def _resize(self, image: Image.Image, size: tuple[int, int], interpolation: str) -> Image.Image:
        """Resize to (height, width); a huge result comes back already cropped to ``self.size``."""
        height, width = size
        if min(size) < 1 or height * width > MAX_RESIZED_PIXELS:
            raise ImageError(
                f"The image of {image.width}x{image.height} pixels is too thin: resized it would "
                f"be {width}x{height}. Crop it first."
            )
        if (image.height, image.width) == (height, width):
            return image
        dropped = height * width - self.size[0] * self.size[1]
        if dropped > _PIXELS_AT_ONCE:
            return self._resize_in_strips(image, size, _RESAMPLING[interpolation])
        return image.resize((width, height), _RESAMPLING[interpolation])

    def _resize_in_strips(
        self, image: Image.Image, size: tuple[int, int], resampling: Image.Resampling
    ) -> Image.Image:
        """Resize and crop to ``self.size`` without holding the whole result.

        Pillow resizes in two rounded passes, along rows and along columns, and a column never looks
        at another. So what the crop drops can go in between, and the columns can be done a few at a
        time: the same pixels, to the bit, in the order of passes that Pillow would choose.
        """
        height, width = size
        left = _offset(width, self.size[1])
        if _columns_first(image, size):
            columns = self._resize_columns(image, height, resampling)
            rows = columns.resize((width, columns.height), resampling)
            return rows.crop((left, 0, left + self.size[1], rows.height))
        rows = image.resize((width, image.height), resampling)
        rows = rows.crop((left, 0, left + self.size[1], image.height))
        return self._resize_columns(rows, height, resampling)

    def _resize_columns(
        self, image: Image.Image, height: int, resampling: Image.Resampling
    ) -> Image.Image:
        """Resize columns to ``height``, some at a time, and crop them to those of ``self.size``."""
        top = _offset(height, self.size[0])
        result = Image.new("RGB", (image.width, self.size[0]))
        step = max(1, _PIXELS_AT_ONCE // height)
        for x in range(0, image.width, step):
            strip = image.crop((x, 0, min(x + step, image.width), image.height))
            strip = strip.resize((strip.width, height), resampling)
            result.paste(strip.crop((0, top, strip.width, top + self.size[0])), (x, 0))
        return result

    def _ratio_size(self, image: Image.Image, choose: Any) -> tuple[int, int]:
        ratio = choose(image.height / self.size[0], image.width / self.size[1])
        return round(image.height / ratio), round(image.width / ratio)


def _columns_first(image: Image.Image, size: tuple[int, int]) -> bool:
    """Whether Pillow resizes along columns first: since 13, where that leaves fewer pixels by far."""
    height, width = size
    if _PILLOW < 13 or image.width == width or image.height <= height:
        return False
    return 2 * (image.width - width) < image.height - height


def _shortest(image: Image.Image, target: int) -> tuple[int, int]:
    """The size rule of torchvision: the long side is truncated, not rounded."""
    height, width = image.height, image.width
    if width <= height:
        return int(target * height / width), target
    return target, int(target * width / height)


def _crop_or_pad(image: Image.Image, size: tuple[int, int], fill: int) -> Image.Image:
    height, width = size
    if image.width < width or image.height < height:
        canvas_size = (max(width, image.width), max(height, image.height))
        canvas = Image.new("RGB", canvas_size, (fill, fill, fill))
        left, top = (canvas_size[0] - image.width) // 2, (canvas_size[1] - image.height) // 2
        canvas.paste(image, (left, top))
        image = canvas
    top, left = _offset(image.height, height), _offset(image.width, width)
    return image.crop((left, top, left + width, top + height))


def _offset(length: int, wanted: int) -> int:
    """Where a centre crop starts; round() goes to even, as in torchvision."""
    return round((length - wanted) / 2.0)

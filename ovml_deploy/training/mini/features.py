"""Image tokens of sets of pictures, with the ImageNet classes that each picture shows."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ovml_deploy.models.backbone import Backbone
from ovml_deploy.training.mini.mosaics import Photo, make_mosaics

_BATCH = 32


@dataclass(frozen=True)
class Pictures:
    """``tokens`` float16 ``[images, N, W]`` and ``classes`` bool ``[images, 1000]``."""

    tokens: Tensor
    classes: Tensor

    def plus(self, other: "Pictures") -> "Pictures":
        """Return these pictures and the other's."""
        return Pictures(
            torch.cat([self.tokens, other.tokens]), torch.cat([self.classes, other.classes])
        )


class PictureReader:
    """Encodes photographs and mosaics with a backbone."""

    def __init__(self, backbone: Backbone, offsets: Sequence[str]) -> None:
        self.backbone = backbone
        self.index = {offset: index for index, offset in enumerate(offsets)}

    def photos(self, photos: Sequence[Photo]) -> Pictures:
        """Encode photographs one by one."""
        tokens = self.encode((photo.open() for photo in photos), self.backbone.image_tokens)
        return Pictures(tokens.half(), self.classes([[photo.offset] for photo in photos]))

    def mosaics(self, photos: Sequence[Photo], count: int, seed: int) -> Pictures:
        """Encode ``count`` mosaics of the photographs."""
        contents: list[list[str]] = []

        def images() -> Iterable[Image.Image]:
            size = self.backbone.preprocessing.size[0]
            for image, offsets in make_mosaics(photos, count, size, seed):
                contents.append(offsets)
                yield image

        tokens = self.encode(images(), self.backbone.image_tokens)
        return Pictures(tokens.half(), self.classes(contents))

    @torch.inference_mode()
    def encode(self, images: Iterable[Image.Image], encoder: Callable[[Tensor], Tensor]) -> Tensor:
        """Apply ``encoder`` to the preprocessed, normalised images in batches."""
        results: list[Tensor] = []
        waiting: list[np.ndarray] = []
        for image in images:
            waiting.append(self.backbone.preprocessing(image))
            if len(waiting) == _BATCH:
                results.append(self._encode(waiting, encoder))
                waiting.clear()
        if waiting:
            results.append(self._encode(waiting, encoder))
        return torch.cat(results)

    def classes(self, contents: Sequence[Sequence[str]]) -> Tensor:
        """Return bool ``[images, classes]`` of the offsets that each image shows."""
        shown = torch.zeros(len(contents), len(self.index), dtype=torch.bool)
        for row, offsets in enumerate(contents):
            shown[row, [self.index[offset] for offset in offsets]] = True
        return shown

    def _encode(self, pixels: list[np.ndarray], encoder: Callable[[Tensor], Tensor]) -> Tensor:
        batch = torch.from_numpy(np.stack(pixels))
        return encoder(self.backbone.normalise(batch))

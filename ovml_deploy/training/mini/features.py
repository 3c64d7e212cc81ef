"""Image tokens of sets of pictures, with what each picture shows."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ovml_deploy.models.backbone import Backbone
from ovml_deploy.training.mini.taxonomy import Taxonomy
from ovml_deploy.training.scenes import Scene

_BATCH = 32


@dataclass(frozen=True)
class Encoded:
    """``tokens`` float16 ``[images, N, W]`` and ``shown`` bool ``[images, kinds]``."""

    tokens: Tensor
    shown: Tensor

    def plus(self, other: "Encoded") -> "Encoded":
        """Return these pictures and the other's."""
        return Encoded(torch.cat([self.tokens, other.tokens]), torch.cat([self.shown, other.shown]))


class PictureReader:
    """Encodes pictures and scenes with a backbone."""

    def __init__(self, backbone: Backbone, taxonomy: Taxonomy) -> None:
        self.backbone = backbone
        self.taxonomy = taxonomy

    @property
    def size(self) -> int:
        """Side of the square pictures that the backbone takes, in pixels."""
        return self.backbone.preprocessing.size[0]

    def scenes(self, scenes: Iterable[Scene]) -> Encoded:
        """Encode scenes as they are drawn."""
        contents: list[tuple[str, ...]] = []

        def images() -> Iterable[Image.Image]:
            for scene in scenes:
                contents.append(scene.offsets)
                yield scene.image

        tokens = self.encode(images(), self.backbone.image_tokens)
        return Encoded(tokens.half(), self.taxonomy.shown(contents))

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

    def _encode(self, pixels: list[np.ndarray], encoder: Callable[[Tensor], Tensor]) -> Tensor:
        batch = torch.from_numpy(np.stack(pixels))
        return encoder(self.backbone.normalise(batch))

"""A backbone and a head: the whole tagger in PyTorch, the reference every export is held to."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ovml_deploy.errors import CheckpointError, LabelError
from ovml_deploy.models.backbone import Backbone
from ovml_deploy.models.heads import Head
from ovml_deploy.templates import fill

_LABELS_AT_ONCE = 64


class TaggingModel(nn.Module):
    """Encodes images and labels, and matches them."""

    def __init__(self, backbone: Backbone, head: Head, templates: Sequence[str]):
        super().__init__()
        if not templates:
            raise CheckpointError("The prompt pool is empty; give at least one template.")
        for template in templates:
            if template.count("{}") != 1:
                raise CheckpointError(f"The template {template!r} needs exactly one '{{}}'.")
        self.backbone = backbone
        self.head = head
        self.templates = tuple(templates)
        #: Named label lists that came with the checkpoint: "seen" and "unseen" in training.
        self.labels: Mapping[str, Sequence[str]] = {}

    def encode(self, pixels: Tensor) -> Tensor:
        """uint8 pixels ``[B, H, W, 3]`` -> features ``[B, M, D]``."""
        images = self.backbone.normalise(pixels)
        if self.head.consumes == "tokens":
            return self.head(self.backbone.image_tokens(images))
        return self.head(self.backbone.pooled(images))

    def match(self, features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Features ``[B, M, D]``, label embeddings ``[K, D]`` -> logits and winners ``[B, K]``."""
        return self.head.match(features, labels)

    def embed_labels(self, labels: Sequence[str]) -> Tensor:
        """Return label embeddings ``[K, D]``: each label's mean over the prompt pool.

        QKS takes the mean of text features as they are (arXiv 2401.01181); zero-shot the unit-norm
        mean of unit-norm features (arXiv 2103.00020). Raises LabelError where there are none.
        """
        if not labels:
            raise LabelError("There are no labels to embed; give at least one.")
        pool = len(self.templates)
        embeddings = []
        for start in range(0, len(labels), _LABELS_AT_ONCE):
            some = labels[start : start + _LABELS_AT_ONCE]
            prompts = [fill(template, label) for label in some for template in self.templates]
            features = self.backbone.text_features(prompts)
            if self.head.normalises_labels:
                features = F.normalize(features, dim=-1)
            mean = features.unflatten(0, (len(some), pool)).mean(dim=1)
            embeddings.append(F.normalize(mean, dim=-1) if self.head.normalises_labels else mean)
        return torch.cat(embeddings)

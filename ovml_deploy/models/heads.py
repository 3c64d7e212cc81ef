"""What every head offers, and the head that needs no training."""

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Head(nn.Module):
    """Turns what the backbone gives into features, and features and labels into logits.

    ``forward`` takes tokens ``[B, N, W]`` or pooled embeddings ``[B, D]`` (see ``consumes``) and
    returns features ``[B, M, D]``.
    """

    kind: ClassVar[str]
    consumes: ClassVar[Literal["tokens", "pooled"]]
    normalises_labels: ClassVar[bool]  # each prompt's features and their mean, to unit norm
    activation: Literal["sigmoid", "softmax"]  # logits -> scores

    @property
    def features_per_image(self) -> int:
        """M, the number of features of an image."""
        raise NotImplementedError

    def match(self, features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits and the index of the winning feature, both ``[B, K]``."""
        raise NotImplementedError

    def settings(self) -> dict[str, int | float]:
        """Return plain values from which the head can be built again."""
        raise NotImplementedError


class ZeroShotHead(Head):
    """CLIP's or SigLIP's own comparison: ``logit = scale * cos(image, label) + bias``.

    SigLIP (arXiv 2303.15343) has a bias and a sigmoid. CLIP (arXiv 2103.00020) has neither: its
    scores are relative, a softmax over the vocabulary, until a vocabulary is calibrated.
    """

    kind = "zero-shot"
    consumes = "pooled"
    normalises_labels = True

    def __init__(self, scale: float, bias: float | None = None) -> None:
        super().__init__()
        self.activation = "softmax" if bias is None else "sigmoid"
        self.scale: Tensor
        self.bias: Tensor
        self.register_buffer("scale", torch.tensor(float(scale)))
        self.register_buffer("bias", torch.tensor(float(bias or 0.0)))

    def forward(self, pooled: Tensor) -> Tensor:
        """Return unit-norm features ``[B, 1, D]`` of pooled embeddings ``[B, D]``."""
        return F.normalize(pooled, dim=-1).unsqueeze(1)

    @property
    def features_per_image(self) -> int:
        """One: the pooled embedding."""
        return 1

    def match(self, features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits ``[B, K]`` and winners (all zero: there is one feature).

        ``features`` is ``[B, 1, D]`` and ``labels`` ``[K, D]``, both of unit norm.
        """
        logits, winners = (features @ labels.T).max(dim=1)
        return self.scale * logits + self.bias, winners

    def settings(self) -> dict[str, int | float]:
        """Return scale, and bias where the model has one."""
        values: dict[str, int | float] = {"scale": float(self.scale)}
        if self.activation == "sigmoid":
            values["bias"] = float(self.bias)
        return values

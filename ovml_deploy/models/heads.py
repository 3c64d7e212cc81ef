"""What every head offers, and the head that needs no training."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ovml_deploy.errors import LabelError
from ovml_deploy.templates import fill

if TYPE_CHECKING:
    from ovml_deploy.models.backbone import Backbone

_LABELS_AT_ONCE = 64


class Head(nn.Module):
    """Turns what the backbone gives into features, and features and labels into logits.

    ``forward`` takes tokens ``[B, N, W]`` or pooled embeddings ``[B, D]`` (see ``consumes``) and
    returns features ``[B, M, D]``. A label embedding is ``label_parts`` vectors in a row, so it is
    ``[label_parts * D]``.
    """

    kind: ClassVar[str]
    consumes: ClassVar[Literal["tokens", "pooled"]]
    normalises_labels: ClassVar[bool]  # each prompt's features and their mean, to unit norm
    label_parts: ClassVar[int] = 1
    looks: ClassVar[bool] = False  # whether it can tell where in the image each feature is from
    activation: Literal["sigmoid", "softmax"]  # logits -> scores

    @property
    def features_per_image(self) -> int:
        """M, the number of features of an image."""
        raise NotImplementedError

    def look(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return features, and how much each looks at each token ``[B, M, N]``, if it ``looks``."""
        raise NotImplementedError

    def match(self, features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits and the index of the winning feature, both ``[B, K]``."""
        raise NotImplementedError

    def outputs(self, features: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Return all that the matcher graph gives, by name: logits and winners, at least."""
        logits, winners = self.match(features, labels)
        return {"logits": logits, "winners": winners}

    def embed_labels(
        self,
        backbone: "Backbone",
        labels: Sequence[str],
        templates: Sequence[str],
        groups: Mapping[str, str] | None = None,
    ) -> Tensor:
        """Return label embeddings ``[K, label_parts * D]``: each label's mean over the prompt pool.

        QKS takes the mean of text features as they are (arXiv 2401.01181); zero-shot the unit-norm
        mean of unit-norm features (arXiv 2103.00020). Raises LabelError for ``groups`` of labels,
        which only a prompt-tuned head has.
        """
        if groups:
            raise LabelError(f"A {self.kind} model has no groups of labels; name none.")
        embeddings = []
        for start in range(0, len(labels), _LABELS_AT_ONCE):
            some = labels[start : start + _LABELS_AT_ONCE]
            prompts = [fill(template, label) for label in some for template in templates]
            features = backbone.text_features(prompts)
            if self.normalises_labels:
                features = F.normalize(features, dim=-1)
            mean = features.unflatten(0, (len(some), len(templates))).mean(dim=1)
            embeddings.append(F.normalize(mean, dim=-1) if self.normalises_labels else mean)
        return torch.cat(embeddings)

    def check_fits(self, backbone: "Backbone") -> None:
        """Raise CheckpointError where the head was made for a backbone of other sizes."""

    def settings(self) -> dict[str, Any]:
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

    def settings(self) -> dict[str, Any]:
        """Return scale, and bias where the model has one."""
        values = {"scale": float(self.scale)}
        if self.activation == "sigmoid":
            values["bias"] = float(self.bias)
        return values

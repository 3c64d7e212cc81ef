"""The figures that the build prints, by the metrics of DESIGN section 5."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ovml_deploy.models.qks import QKSHead
from ovml_deploy.training.metrics import average_precision, mean_average_precision
from ovml_deploy.training.mini.features import Pictures


def pooled_scores(pictures: Pictures, labels: Tensor) -> Tensor:
    """Score by the cosine of the pooled embedding: zero-shot."""
    pooled = pictures.tokens[:, 0].float()
    return F.normalize(pooled, dim=-1) @ F.normalize(labels, dim=-1).T


def local_maximum_scores(pictures: Pictures, labels: Tensor) -> Tensor:
    """Score by the best cosine over all tokens, the pooled one included."""
    unit = F.normalize(labels, dim=-1).T
    tokens = pictures.tokens.float().unbind(dim=1)
    return torch.stack([F.normalize(token, dim=-1) @ unit for token in tokens]).amax(dim=0)


@torch.inference_mode()
def head_scores(head: QKSHead, pictures: Pictures, labels: Tensor) -> Tensor:
    """Return a QKS head's logits."""
    return head.match(head(pictures.tokens.float()), labels)[0]


def mean_ap(scores: Tensor, truth: Tensor) -> float:
    """Return mAP in percent over the images that show at least one of the words."""
    return 100 * mean_average_precision(scores.numpy(), truth.int().numpy())


def mean_ap_all_images(scores: Tensor, truth: Tensor) -> float:
    """Return mAP in percent over all images, those that show none of the words included."""
    columns = zip(scores.T.numpy(), truth.T.int().numpy(), strict=True)
    values = [average_precision(column, positives) for column, positives in columns]
    return 100 * float(np.nanmean(values))


def micro_ap(scores: Tensor, truth: Tensor) -> float:
    """Return the AP in percent of all pairs of image and word in one ranking."""
    return 100 * average_precision(scores.flatten().numpy(), truth.flatten().int().numpy())


def tag_figures(scores: Tensor, truth: Tensor) -> tuple[float, float, float]:
    """Return precision, recall and tags per picture of the tags with a positive logit."""
    tagged = scores > 0
    right = (tagged & truth).sum().item()
    return (
        right / max(tagged.sum().item(), 1),
        right / max(truth.sum().item(), 1),
        tagged.sum().item() / len(scores),
    )

"""Losses of multi-label learning. Each leaves out targets that are unknown.

All take logits ``[B, K]`` (any float type; computed in float32) and targets ``[B, K]`` (1 positive,
0 negative, -1 unknown) and return a scalar.
"""

from collections.abc import Callable
from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from ovml_deploy.errors import UsageError

LossName = Literal["asl", "bce", "ranking"]
Loss = Callable[[Tensor, Tensor], Tensor]

_MARGIN = 1.0
#: Keeps the gradient of p ** gamma finite at p = 0 for a gamma below 1.
_EPSILON = 1e-8


def make_loss(name: str) -> Loss:
    """Return the loss called "asl", "bce" or "ranking", with the paper's settings."""
    losses: dict[str, Loss] = {
        "asl": partial(asymmetric_loss, gamma_pos=0.0, gamma_neg=4.0, clip=0.0),
        "bce": binary_cross_entropy,
        "ranking": ranking_loss,
    }
    if name not in losses:
        raise UsageError(f"Unknown loss {name!r}; choose one of {', '.join(get_args(LossName))}.")
    return losses[name]


def binary_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """-log p for positives, -log(1 - p) for negatives, p = sigmoid(logit).

    Summed over an image's known labels, averaged over the B images.
    """
    return asymmetric_loss(logits, targets, gamma_pos=0.0, gamma_neg=0.0, clip=0.0)


def asymmetric_loss(
    logits: Tensor,
    targets: Tensor,
    *,
    gamma_pos: float = 0.0,
    gamma_neg: float = 4.0,
    clip: float = 0.0,
) -> Tensor:
    """-(1 - p)^gamma_pos log p for positives, -p_m^gamma_neg log(1 - p_m) for negatives.

    p = sigmoid(logit), p_m = max(p - clip, 0). Summed over an image's known labels, averaged over
    the B images. Source: arXiv 2009.14119, equations 4 to 7; the gradient flows through the
    weights, as in its analysis.
    """
    scores = logits.float()
    positive = F.logsigmoid(scores)
    if gamma_pos > 0:
        positive = torch.sigmoid(-scores).clamp(min=_EPSILON) ** gamma_pos * positive
    negative = F.logsigmoid(-scores)
    if clip > 0:
        negative = (torch.sigmoid(-scores) + clip).clamp(max=1.0).log()
    if gamma_neg > 0:
        negative = (torch.sigmoid(scores) - clip).clamp(min=_EPSILON) ** gamma_neg * negative
    zero = scores.new_zeros(())
    terms = torch.where(targets == 1, positive, torch.where(targets == 0, negative, zero))
    return -terms.sum() / max(len(scores), 1)


def ranking_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """max(0, 1 + s_neg - s_pos), averaged over an image's pairs, then over images with a pair.

    A pair is a positive and a negative label of one image. Zero where no image has one.
    Source: the pairwise baseline of arXiv 2401.01181.
    """
    losses = []
    # One image at a time: [P, N] pairs fit memory where [B, K, K] would not.
    for scores, known in zip(logits.float(), targets, strict=True):
        positive, negative = scores[known == 1], scores[known == 0]
        if len(positive) and len(negative):
            losses.append((_MARGIN + negative[None, :] - positive[:, None]).clamp(min=0).mean())
    if not losses:
        return logits.float().sum() * 0.0
    return torch.stack(losses).mean()

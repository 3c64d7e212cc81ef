"""A QKS head that starts as zero-shot with a memory of the classes, and its training.

From scratch such a head overfits a few hundred photographs. Here each part starts as something
that already works, in exactly the architecture of the paper with one layer:
- self-attention gives nothing, and small LayerNorm factors keep the queries out of the features;
- cross-attention copies tokens; a query, a mean of class directions, pools the tokens like it;
- the FFN has one hidden unit for each class: it opens where the pooled tokens point along the
  class, and adds the class's direction. So the features of a clear picture are sparse in classes;
- dimension 0, constant in every label, carries the bias of the logits.
"""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ovml_deploy.models.qks import QKSConfig, QKSHead
from ovml_deploy.models.rounding import round_to_float16_
from ovml_deploy.training.losses import binary_cross_entropy
from ovml_deploy.training.mini.bridge import CONSTANT

_QUERY_SIZE = 0.02
_LEARNING_RATE = 1e-4
_WEIGHT_DECAY = 1e-4
_BATCH = 64
_PATIENCE = 2
_CALIBRATION_STEPS = 25


@dataclass(frozen=True)
class HeadInit:
    """How the head starts. Cosines are between pooled tokens and class directions."""

    queries: int = 12
    sharpness: float = 24.0  # attention: logit of a token that points along its query
    open_at: float = 0.2  # the cosine at which a class's unit opens
    slope: float = 40.0
    strength: float = 10.0  # how much of the class's direction an open unit adds
    scale: float = 0.3  # of the logits
    bias: float = -4.0


@torch.no_grad()
def initial_head(directions: Tensor, token_norm: float, init: HeadInit) -> QKSHead:
    """Build the head from unit-norm class directions ``[classes, D]`` and the usual token norm."""
    classes, width = directions.shape
    head = QKSHead(
        QKSConfig(
            width=width,
            embed_dim=width,
            layers=1,
            queries=init.queries,
            attention_heads=1,
            intermediate=classes,
            dropout=0.0,
        ),
        projection=torch.eye(width) * init.scale,
    )
    layer = _layer(head)
    for module in layer.modules():
        if isinstance(module, nn.Linear):
            module.weight.zero_()
            module.bias.zero_()
    head.query_tokens.copy_(_cluster_centres(directions, init.queries))
    layer.attention.output.LayerNorm.weight.fill_(_QUERY_SIZE)
    cross = layer.crossattention
    unit = width**0.5  # the norm that a LayerNorm gives
    cross.self.query.weight.copy_(torch.eye(width) * init.sharpness / (_QUERY_SIZE * token_norm))
    for linear in (cross.self.key, cross.self.value, cross.output.dense):
        linear.weight.copy_(torch.eye(width))
    layer.intermediate_query.dense.weight.copy_(directions * init.slope / unit)
    layer.intermediate_query.dense.bias.fill_(-init.slope * init.open_at)
    layer.output_query.dense.weight.copy_(directions.T * init.strength)
    layer.output_query.LayerNorm.weight[0] = 0.0
    layer.output_query.LayerNorm.bias[0] = init.bias / (init.scale * CONSTANT)
    return head


def _layer(head: QKSHead) -> Any:
    """Return the only layer; torch types the parts of a module as tensors or modules."""
    return head.net.encoder.layer[0]


def _cluster_centres(directions: Tensor, count: int, rounds: int = 20) -> Tensor:
    """Return unit-norm centres ``[count, D]`` of the classes (spherical k-means)."""
    centres = directions[torch.randperm(len(directions))[:count]]
    for _ in range(rounds):
        member = F.one_hot((directions @ centres.T).argmax(dim=1), count).float()
        centres = F.normalize(member.T @ directions, dim=1)
    return centres


def train_head(
    head: QKSHead,
    tokens: Tensor,
    truth: Tensor,
    labels: Tensor,
    quality: Callable[[QKSHead], float],
    epochs: int,
) -> tuple[QKSHead, list[float]]:
    """Train with binary cross-entropy; stop when ``quality`` no longer rises.

    ``tokens`` is ``[images, N, W]``, ``truth`` bool ``[images, K]``, ``labels`` ``[K, D]``.
    Returns the best head, which may be the first, and the quality before and after each epoch.
    The projection stays as it is, so that dimension 0 of the features is the bias alone.
    """
    head.proj.requires_grad_(False)
    trained = [parameter for parameter in head.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=_LEARNING_RATE, weight_decay=_WEIGHT_DECAY)
    best, history = copy.deepcopy(head), [quality(head)]
    for _ in range(epochs):
        head.train()
        for batch in torch.randperm(len(tokens)).split(_BATCH):
            logits, _ = head.match(head(tokens[batch].float()), labels)
            loss = binary_cross_entropy(logits, truth[batch].int())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        history.append(quality(head.eval()))
        if history[-1] > max(history[:-1]):
            best = copy.deepcopy(head)
        if len(history) - 1 - history.index(max(history)) >= _PATIENCE:
            break
    return best.eval(), history


@torch.no_grad()
def calibrate_(head: QKSHead, tokens: Tensor, truth: Tensor, labels: Tensor) -> None:
    """Set scale and bias so that a score above 0.5 is more likely right than wrong.

    ``tokens`` ``[images, N, W]``, ``truth`` bool ``[images, K]``, ``labels`` ``[K, D]``. The slope
    is logistic regression's with the threshold held fixed.
    """
    logits = head.match(head(tokens.float()), labels)[0].flatten()
    positive = truth.flatten()
    threshold = best_threshold(logits, positive)
    slope = _fit_slope(logits - threshold, positive)
    shift = -threshold / (CONSTANT * head.proj[0, 0])
    _layer(head).output_query.LayerNorm.bias[0] += shift
    head.proj.mul_(slope)


def best_threshold(scores: Tensor, positive: Tensor) -> float:
    """Return the score above which a tag is more likely right than wrong (arguments ``[n]``).

    There the excess of right tags over wrong ones is largest.
    """
    order = scores.argsort(descending=True)
    hits = positive[order].cumsum(dim=0)
    count = torch.arange(1, len(order) + 1)
    best = int((2 * hits - count).argmax())
    after = min(best + 1, len(order) - 1)
    return float(scores[order[best]] + scores[order[after]]) / 2


def _fit_slope(distances: Tensor, positive: Tensor) -> float:
    """Minimise the logistic loss of ``slope * distances`` by golden-section search on its log."""
    low, high = -4.0, 4.0
    target = positive.float()
    ratio = (5**0.5 - 1) / 2

    def loss(log_slope: float) -> float:
        return float(F.binary_cross_entropy_with_logits(distances * math.exp(log_slope), target))

    for _ in range(_CALIBRATION_STEPS):
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        low, high = (low, right) if loss(left) < loss(right) else (left, high)
    return math.exp(low)


@torch.no_grad()
def round_head_(head: QKSHead) -> None:
    """Round the head's matrices to float16's values, in place."""
    for parameter in head.parameters():
        if parameter.ndim > 1:
            round_to_float16_(parameter)

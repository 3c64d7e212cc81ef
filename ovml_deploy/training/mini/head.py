"""A QKS head that starts as zero-shot with a memory of the classes, and its training.

From scratch such a head overfits a few hundred photographs. Here each part starts as something
that already works, in exactly the architecture of the paper:
- self-attention gives nothing, and small LayerNorm factors keep the queries out of the features;
- cross-attention copies tokens; a query, a mean of class directions, pools the tokens like it;
- the FFN has one hidden unit for each class: it opens where the pooled tokens point along the
  class, and adds the class's direction. So the features of a clear picture are sparse in classes;
- dimension 0, constant in every label, carries the bias of the logits;
- layers after the first start as the identity.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ovml_deploy.models.qks import QKSConfig, QKSHead
from ovml_deploy.models.rounding import round_to_float16_
from ovml_deploy.runtime.calibration import calibrate
from ovml_deploy.training.losses import make_loss
from ovml_deploy.training.mini.bridge import CONSTANT

_QUERY_SIZE = 0.02
_WEIGHT_DECAY = 1e-4
_BATCH = 64
_PATIENCE = 2

#: Names of the parameters that each choice of what to train matches.
_TRAINED = {
    "attention": ("query_tokens", "crossattention.self.query", "crossattention.self.key"),
    "stack": ("query_tokens", "net."),
    "stack and projection": ("query_tokens", "net.", "proj"),
}


@dataclass(frozen=True)
class HeadInit:
    """How the head starts. Cosines are between pooled tokens and class directions."""

    queries: int = 12
    layers: int = 1
    sharpness: float = 24.0  # attention: logit of a token that points along its query
    open_at: float = 0.2  # the cosine at which a class's unit opens
    slope: float = 40.0
    strength: float = 10.0  # how much of the class's direction an open unit adds
    scale: float = 0.3  # of the logits
    bias: float = -4.0


@dataclass(frozen=True)
class HeadTraining:
    """How the head is trained; ``part`` is a key of _TRAINED.

    By default only where the queries look: all of it forgets classes that are not in the pictures.
    """

    loss: str = "bce"
    part: str = "attention"
    learning_rate: float = 3e-4
    epochs: int = 6


@torch.no_grad()
def initial_head(directions: Tensor, token_norm: float, init: HeadInit) -> QKSHead:
    """Build the head from unit-norm class directions ``[classes, D]`` and the usual token norm."""
    classes, width = directions.shape
    head = QKSHead(
        _sizes(width, classes, init.layers, init.queries),
        projection=torch.eye(width) * init.scale,
    )
    for layer in _layers(head):
        for part in (layer.attention.output, layer.crossattention.output, layer.output_query):
            part.dense.weight.zero_()
            part.dense.bias.zero_()
    head.query_tokens.copy_(_cluster_centres(directions, init.queries))
    layer = _layers(head)[0]
    layer.attention.output.LayerNorm.weight.fill_(_QUERY_SIZE)
    cross = layer.crossattention
    unit = width**0.5  # the norm that a LayerNorm gives
    cross.self.query.weight.copy_(torch.eye(width) * init.sharpness / (_QUERY_SIZE * token_norm))
    cross.self.query.bias.zero_()
    for linear in (cross.self.key, cross.self.value, cross.output.dense):
        linear.weight.copy_(torch.eye(width))
        linear.bias.zero_()
    layer.intermediate_query.dense.weight.copy_(directions * init.slope / unit)
    layer.intermediate_query.dense.bias.fill_(-init.slope * init.open_at)
    layer.output_query.dense.weight.copy_(directions.T * init.strength)
    last = _layers(head)[-1].output_query.LayerNorm
    last.weight[0] = 0.0
    last.bias[0] = init.bias / (init.scale * CONSTANT)
    return head


def random_head(classes: int, projection: Tensor, init: HeadInit) -> QKSHead:
    """Build a head of the same size that starts as the paper's does, ``projection [W, D]`` aside."""
    return QKSHead(_sizes(len(projection), classes, init.layers, init.queries), projection)


def _sizes(width: int, classes: int, layers: int, queries: int) -> QKSConfig:
    return QKSConfig(
        width=width,
        embed_dim=width,
        layers=layers,
        queries=queries,
        attention_heads=1,
        intermediate=classes,
        dropout=0.0,
    )


def _layers(head: QKSHead) -> Any:
    """Return the layers; torch types the parts of a module as tensors or modules."""
    return head.net.encoder.layer


def _cluster_centres(directions: Tensor, count: int, rounds: int = 20) -> Tensor:
    """Return unit-norm centres ``[count, D]`` of the classes (spherical k-means)."""
    generator = torch.Generator().manual_seed(0)  # the same for heads of any size
    centres = directions[torch.randperm(len(directions), generator=generator)[:count]]
    for _ in range(rounds):
        member = F.one_hot((directions @ centres.T).argmax(dim=1), count).float()
        centres = F.normalize(member.T @ directions, dim=1)
    return centres


def train_head(
    head: QKSHead,
    tokens: Tensor,
    targets: Tensor,
    labels: Tensor,
    quality: Callable[[QKSHead], float],
    training: HeadTraining,
) -> tuple[QKSHead, list[float]]:
    """Train until ``quality`` has not risen for two epochs.

    ``tokens`` is ``[images, N, W]``, ``targets`` int8 ``[images, K]`` (1, 0, -1 unknown),
    ``labels`` ``[K, D]``. Returns the best head, which may be the first, and the quality before and
    after each epoch.
    """
    loss_of = make_loss(training.loss)
    trained = []
    for name, parameter in head.named_parameters():
        chosen = any(part in name for part in _TRAINED[training.part])
        parameter.requires_grad_(chosen)
        trained += [parameter] if chosen else []
    optimizer = torch.optim.AdamW(trained, lr=training.learning_rate, weight_decay=_WEIGHT_DECAY)
    best, history = copy.deepcopy(head), [quality(head)]
    for _ in range(training.epochs):
        head.train()
        for batch in torch.randperm(len(tokens)).split(_BATCH):
            logits, _ = head.match(head(tokens[batch].float()), labels)
            loss = loss_of(logits, targets[batch].int())
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
def calibrate_(head: QKSHead, tokens: Tensor, targets: Tensor, labels: Tensor) -> None:
    """Set scale and bias so that the sigmoid of a logit is the chance that a label is right.

    ``tokens`` ``[images, N, W]``, ``targets`` int8 ``[images, K]``, ``labels`` ``[K, D]``. All labels
    are taken as one: a vocabulary has their own offsets once it is calibrated.
    """
    logits = head.match(head(tokens.float()), labels)[0]
    fitted = calibrate(logits.numpy().reshape(-1, 1), targets.numpy().reshape(-1, 1))
    head.proj.mul_(fitted.slope)
    shift = float(fitted.offsets[0]) / (CONSTANT * head.proj[0, 0])
    _layers(head)[-1].output_query.LayerNorm.bias[0] += shift


@torch.no_grad()
def round_head_(head: QKSHead) -> None:
    """Round the head's matrices to float16's values, in place."""
    for parameter in head.parameters():
        if parameter.ndim > 1:
            round_to_float16_(parameter)

"""The bridge: projections that take pictures and words into one space.

In that space each of the classifier's classes has a direction of its own (its row, whitened), and
a word lies where its dot product with its own classes is one and with others small. The text
projection is an MLP without biases (open_clip's ``hf_proj_type: "mlp"``) that is fitted to names
and definitions.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

#: What every text has in dimension 0, where no picture has anything: a head's bias acts there.
CONSTANT = 0.25
#: The dot product of a word for n classes with each is n ** this: above one makes up for what the
#: fit loses of general words, of which it sees few.
GENERAL_PULL = 0.15

_GELU_INPUT = 4.0  # where GELU is the identity but for 1e-4
_INPUT_NORM = 4.5
_BATCH = 1024
_WEIGHT_DECAY = 1e-2
_NORM_WEIGHT = 0.3
_FOREIGN_WEIGHT = 0.2
_FOREIGN_SHARE = 0.3  # how often a foreign text is drawn, where a name of one class is drawn once


@dataclass(frozen=True)
class Fit:
    """How the text projection is fitted.

    Strong dropout keeps it true for words it never saw; weak dropout makes it know its own words.
    A word for n classes is drawn ``n ** generality`` times as often as a word for one.
    """

    steps: int = 1000
    dropout: float = 0.3
    learning_rate: float = 3e-3
    generality: float = 0.2


@dataclass(frozen=True)
class ClassSpace:
    """``projection [C, D]`` of image features and unit-norm ``directions [classes, D]``."""

    projection: Tensor
    directions: Tensor

    def targets(self, truth: Tensor) -> Tensor:
        """Return where words lie that are true of classes ``truth [T, classes]``: ``[T, D]``.

        By ridge regression on the directions, then scaled so that the dot product with the
        directions of a word's own classes is about one on average (see GENERAL_PULL), however many
        they are: only then do scores of general and of narrow words compare. A word for no class
        lies at the origin.
        """
        wanted = truth.float()
        gram = self.directions.T @ self.directions
        ridge = gram.trace() / len(gram) * torch.eye(len(gram))
        solved = torch.linalg.solve(gram + ridge, self.directions.T @ wanted.T).T
        hits = ((solved @ self.directions.T) * wanted).sum(dim=1, keepdim=True)
        count = wanted.sum(dim=1, keepdim=True)
        pull = count.clamp(min=1) ** GENERAL_PULL
        return solved * pull * count / hits.clamp(min=1e-6)


def class_space(rows: Tensor, dim: int) -> ClassSpace:
    """Build the space from a classifier's rows ``[classes, C]``; dimension 0 stays empty."""
    centred = F.normalize(rows - rows.mean(dim=0), dim=1)
    _, strength, axes = torch.linalg.svd(centred, full_matrices=False)
    projection = F.pad(axes[: dim - 1].T / strength[: dim - 1], (1, 0))
    return ClassSpace(projection, F.normalize(centred @ projection, dim=1))


def fit_text_projection(
    features: Tensor, truth: Tensor, space: ClassSpace, fit: Fit
) -> nn.Sequential:
    """Fit the MLP that takes text features ``[T, C]`` to the targets of ``truth [T, classes]``.

    Returns open_clip's ``text.proj``: Linear, GELU, Linear, all without biases.
    """
    targets = space.targets(truth)
    counts = truth.sum(dim=1).float()
    odds = torch.where(counts > 0, counts**fit.generality, _FOREIGN_SHARE)
    width, dim = features.shape[1], targets.shape[1]
    hidden = (width + dim) // 2
    enter, leave = nn.Linear(width, hidden, bias=False), nn.Linear(hidden, dim, bias=False)
    mlp = nn.Sequential(enter, nn.GELU(), leave)
    common = F.normalize(features.mean(dim=0), dim=0)
    inputs = features - (features @ common)[:, None] * common
    scale = _INPUT_NORM / inputs.norm(dim=1).mean()
    optimizer = torch.optim.AdamW(mlp.parameters(), weight_decay=_WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, fit.learning_rate, fit.steps)
    for _ in range(fit.steps):
        chosen = torch.multinomial(odds, _BATCH, replacement=True)
        outputs = mlp(F.dropout(inputs[chosen] * scale, fit.dropout))
        loss = _loss(outputs, targets[chosen], counts[chosen] > 0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    first, last = enter.weight, leave.weight
    with torch.no_grad():
        first.copy_(scale * (first - (first @ common)[:, None] * common))
        _add_constant(first, last, features)
    return mlp.requires_grad_(False)


def _loss(outputs: Tensor, targets: Tensor, known: Tensor) -> Tensor:
    """Direction and norm of the texts that hold for a class; the others go to the origin."""
    cosine = F.cosine_similarity(outputs[known], targets[known]).mean()
    norms = (outputs[known].norm(dim=1) / targets[known].norm(dim=1)).log().square().mean()
    foreign = (outputs * ~known[:, None]).square().sum() / (~known).sum().clamp(min=1)
    return _NORM_WEIGHT * norms - cosine + _FOREIGN_WEIGHT * foreign


def _add_constant(first: Tensor, last: Tensor, features: Tensor) -> None:
    """Give hidden unit 0 to a direction in which all texts measure one, and it to dimension 0."""
    ones = torch.ones(len(features), 1)
    gram = features.T @ features + 1e-3 * len(features) * torch.eye(features.shape[1])
    first[0] = _GELU_INPUT * torch.linalg.solve(gram, features.T @ ones).flatten()
    last[0], last[:, 0] = 0.0, 0.0
    last[0, 0] = CONSTANT / _GELU_INPUT

"""Losses against plain Python written from the papers' formulas."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ovml_deploy.errors import UsageError
from ovml_deploy.training.losses import (
    asymmetric_loss,
    binary_cross_entropy,
    make_loss,
    ranking_loss,
)


def example(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(5, 7, generator=generator) * 3
    targets = torch.randint(-1, 2, (5, 7), generator=generator).to(torch.int8)
    targets[4] = -1  # an image of which nothing is known
    return logits, targets


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def brute_asymmetric(
    logits: Tensor, targets: Tensor, gamma_pos: float, gamma_neg: float, clip: float
) -> float:
    total = 0.0
    for scores, known in zip(logits.tolist(), targets.tolist(), strict=True):
        for score, target in zip(scores, known, strict=True):
            p = sigmoid(score)
            shifted = max(p - clip, 0.0)
            if target == 1:
                total -= (1 - p) ** gamma_pos * math.log(p)
            elif target == 0:
                total -= shifted**gamma_neg * math.log(1 - shifted)
    return total / len(logits)


def brute_ranking(logits: Tensor, targets: Tensor) -> float:
    images = []
    for scores, known in zip(logits.tolist(), targets.tolist(), strict=True):
        pairs = [
            max(0.0, 1 + scores[n] - scores[p])
            for p, is_positive in enumerate(known)
            for n, is_negative in enumerate(known)
            if is_positive == 1 and is_negative == 0
        ]
        if pairs:
            images.append(sum(pairs) / len(pairs))
    return sum(images) / len(images)


@pytest.mark.parametrize("settings", [(0, 4, 0), (1, 4, 0.05), (0, 0, 0), (2.5, 0.5, 0.2)])
def test_asymmetric_loss(settings: tuple[float, float, float]) -> None:
    logits, targets = example()
    gamma_pos, gamma_neg, clip = settings
    found = asymmetric_loss(logits, targets, gamma_pos=gamma_pos, gamma_neg=gamma_neg, clip=clip)
    assert float(found) == pytest.approx(brute_asymmetric(logits, targets, *settings), rel=1e-5)


def test_named_losses_have_the_papers_settings() -> None:
    logits, targets = example(1)
    asl, bce, ranking = (
        float(make_loss(name)(logits, targets)) for name in ("asl", "bce", "ranking")
    )
    assert asl == pytest.approx(brute_asymmetric(logits, targets, 0, 4, 0), rel=1e-5)
    assert bce == pytest.approx(brute_asymmetric(logits, targets, 0, 0, 0), rel=1e-5)
    assert ranking == pytest.approx(brute_ranking(logits, targets), rel=1e-5)
    with pytest.raises(UsageError, match="Unknown loss 'hinge'"):
        make_loss("hinge")


@pytest.mark.parametrize("loss", [asymmetric_loss, binary_cross_entropy, ranking_loss])
def test_unknown_targets_count_for_nothing(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    logits, targets = example()
    logits.requires_grad_()
    loss(logits, targets).backward()
    assert logits.grad is not None
    assert (logits.grad[targets == -1] == 0).all()
    assert (logits.grad[targets == 1] <= 0).all()
    assert (logits.grad[targets == 1] < 0).any()
    assert (logits.grad[targets == 0] >= 0).all()
    assert (logits.grad[targets == 0] > 0).any()


@pytest.mark.parametrize("gamma", [0.0, 0.5, 4.0])
@pytest.mark.parametrize("clip", [0.0, 0.05])
def test_extreme_logits_stay_finite(gamma: float, clip: float) -> None:
    logits = torch.tensor([[-200.0, 200.0, -200.0, 200.0]], requires_grad=True)
    targets = torch.tensor([[1, 1, 0, 0]])
    loss = asymmetric_loss(logits, targets, gamma_pos=gamma, gamma_neg=gamma, clip=clip)
    loss.backward()
    assert loss.isfinite()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("name", ["asl", "bce", "ranking"])
def test_nothing_known_gives_zero_with_a_gradient(name: str) -> None:
    logits = torch.randn(3, 4, requires_grad=True)
    loss = make_loss(name)(logits, torch.full((3, 4), -1))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert (logits.grad == 0).all()


def test_half_precision_logits_are_computed_in_float32() -> None:
    logits, targets = example()
    half = logits.half()
    assert ranking_loss(half, targets).dtype == torch.float32
    assert float(binary_cross_entropy(half, targets)) == pytest.approx(
        brute_asymmetric(half.float(), targets, 0, 0, 0), rel=1e-5
    )

"""The bridge takes words to where their classes are."""

import pytest
import torch
from torch.nn import functional as F

from ovml_deploy.training.mini.bridge import (
    CONSTANT,
    GENERAL_PULL,
    ClassSpace,
    Fit,
    class_space,
    fit_text_projection,
)


@pytest.fixture
def space() -> ClassSpace:
    return class_space(torch.randn(12, 40, generator=torch.Generator().manual_seed(0)), dim=9)


def test_classes_get_unit_directions_and_dimension_0_stays_empty(space: ClassSpace) -> None:
    assert space.projection.shape == (40, 9)
    assert torch.equal(space.projection[:, 0], torch.zeros(40))
    assert torch.equal(space.directions[:, 0], torch.zeros(12))
    assert torch.allclose(space.directions.norm(dim=1), torch.ones(12))


def test_directions_are_whitened() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(500, 6, generator=generator) * torch.tensor([30.0, 10, 3, 1, 1, 1])
    space = class_space(rows, dim=7)
    centred = F.normalize(rows - rows.mean(dim=0), dim=1) @ space.projection[:, 1:]
    assert torch.allclose(centred.T @ centred, torch.eye(6), atol=1e-4)


@pytest.mark.usefixtures("one_thread")
def test_bridge_learns_a_map_and_carries_a_constant(space: ClassSpace) -> None:
    torch.manual_seed(0)
    truth = torch.eye(13, 12, dtype=torch.bool).repeat(20, 1)  # the last text is foreign
    features = F.one_hot(torch.arange(13), 24).float().repeat(20, 1) * 3
    features = features + 0.1 * torch.randn(260, 24) + 1.0
    projection = fit_text_projection(features, truth, space, Fit(steps=250, dropout=0.1))
    assert not any(parameter.requires_grad for parameter in projection.parameters())
    outputs = projection(features)
    known, targets = truth.any(dim=1), space.targets(truth)
    cosines = F.cosine_similarity(outputs[:, 1:], targets[:, 1:])[known]
    assert cosines.mean() > 0.9
    norms = outputs[:, 1:].norm(dim=1)
    assert norms[~known].mean() < 0.5 * norms[known].mean()
    assert outputs[:, 0].mean() == pytest.approx(CONSTANT, rel=0.05)
    assert outputs[:, 0].std() < 0.1 * CONSTANT


@pytest.mark.usefixtures("one_thread")
def test_a_general_fit_draws_general_words_more_often(space: ClassSpace) -> None:
    truth = torch.eye(12, dtype=torch.bool)
    truth = torch.cat([truth, torch.ones(1, 12, dtype=torch.bool) & (torch.arange(12) < 8)])
    features = torch.randn(13, 24, generator=torch.Generator().manual_seed(1))
    errors = {}
    for generality in (-3.0, 3.0):
        torch.manual_seed(0)
        fit = Fit(steps=12, dropout=0.0, generality=generality)
        output = fit_text_projection(features, truth, space, fit)(features)
        errors[generality] = 1 - F.cosine_similarity(output, space.targets(truth))[12]
    assert errors[3.0] < errors[-3.0] - 0.1


@pytest.mark.usefixtures("one_thread")
def test_dropout_keeps_the_fit_true_for_texts_it_never_saw(space: ClassSpace) -> None:
    truth = torch.eye(12, dtype=torch.bool)
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(12, 24, generator=generator)
    others = features * (torch.rand(50, 12, 24, generator=generator) < 0.4)
    targets = space.targets(truth)[:, 1:].expand(50, -1, -1)
    cosines = []
    for dropout in (0.0, 0.6):
        torch.manual_seed(0)
        projection = fit_text_projection(features, truth, space, Fit(steps=150, dropout=dropout))
        outputs = projection(others)[..., 1:]
        cosines.append(F.cosine_similarity(outputs, targets, dim=-1).mean())
    assert cosines[1] > cosines[0] + 0.05


def test_words_meet_their_classes_alike_however_many_they_are() -> None:
    space = class_space(torch.randn(16, 40, generator=torch.Generator().manual_seed(0)), dim=9)
    truth = torch.zeros(3, 16, dtype=torch.bool)
    truth[0, 3], truth[1, :6] = True, True
    meets = space.targets(truth) @ space.directions.T
    assert meets[0, 3] == pytest.approx(1.0, abs=1e-5)
    assert meets[1, :6].mean() == pytest.approx(6**GENERAL_PULL, abs=1e-5)
    assert meets[1, 6:].mean() < 0.4
    assert torch.equal(meets[2], torch.zeros(16))

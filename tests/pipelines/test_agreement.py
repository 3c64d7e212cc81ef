"""How much two score matrices agree."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from ovml_deploy.errors import DataError
from ovml_deploy.pipelines.agreement import (
    TagsAndMap,
    compare_scores,
    map_change,
    mean_average_precision,
    tag_agreement,
)

REFERENCE = np.array([[0.9, 0.5, 0.1], [0.2, 0.8, 0.3]])


def test_tags_that_only_one_gives_count_against() -> None:
    same = REFERENCE + 0.01  # 0.5 reaches the threshold, and still does
    assert tag_agreement(REFERENCE, same, 0.5) == 1
    lost = REFERENCE - 0.01
    assert tag_agreement(REFERENCE, lost, 0.5) == pytest.approx(2 / 3)
    assert tag_agreement(lost, REFERENCE, 0.5) == pytest.approx(2 / 3)
    moved = REFERENCE[:, ::-1]  # 0.9, 0.5, 0.8 in other places: only 0.8 and 0.5 in the middle stay
    assert tag_agreement(REFERENCE, moved, 0.5) == pytest.approx(2 / 4)


def test_no_tags_are_no_agreement() -> None:
    assert np.isnan(tag_agreement(REFERENCE, REFERENCE, 0.95))
    with pytest.raises(DataError, match=r"2 images has a score of 0\.95"):
        compare_scores(REFERENCE, REFERENCE, 0.95)


@pytest.mark.parametrize(
    ("agreement", "change", "passes"),
    [
        (0.99, None, True),
        (0.9899, None, False),
        (1.0, 0.2, True),
        (1.0, -0.21, False),
        (1.0, 0.21, False),
        (1.0, float("nan"), False),
    ],
)
def test_what_passes(agreement: float, change: float | None, passes: bool) -> None:
    found = TagsAndMap(1234, agreement, change)
    assert found.passes == passes
    assert "of 1,234 tags equal" in str(found)
    assert ("mAP" in str(found)) == (change is not None)


def test_the_count_of_tags_is_of_either() -> None:
    found = compare_scores(REFERENCE, REFERENCE[:, ::-1], 0.5)
    assert (found.tags, found.tag_agreement, found.map_change) == (4, 0.5, None)


def test_mean_average_precision_is_scikit_learns() -> None:
    random = np.random.default_rng(0)
    scores = random.integers(0, 20, (60, 8)) / 20  # with ties
    targets = random.integers(0, 2, (60, 8))
    targets[:, 3] = 0  # no positive: no class
    targets[0] = 1, 0, 0, 0, 0, 0, 0, 0
    columns = [c for c in range(8) if c != 3]
    shown = targets.any(axis=1)
    expected = np.mean(
        [average_precision_score(targets[shown, c], scores[shown, c]) for c in columns]
    )
    assert mean_average_precision(scores, targets) == pytest.approx(expected)
    worse = scores.copy()
    worse[targets == 1] -= 0.3
    change = map_change(scores, worse, targets)
    assert change < 0
    assert change == pytest.approx(100 * (mean_average_precision(worse, targets) - expected))


def test_unknown_targets_and_images_without_a_positive_are_left_out() -> None:
    scores = np.array([[0.9], [0.8], [0.7], [0.6]])
    targets = np.array([[-1], [0], [1], [1]])
    assert mean_average_precision(scores, targets) == 1.0
    assert np.isnan(mean_average_precision(scores, np.zeros((4, 1), dtype=int)))


def test_scores_that_are_none() -> None:
    with pytest.raises(ValueError, match="finite"):
        mean_average_precision(np.full((2, 2), np.nan), np.ones((2, 2)))
    with pytest.raises(ValueError, match=r"\[2, 2\] and targets \[2, 3\]"):
        mean_average_precision(np.ones((2, 2)), np.ones((2, 3)))

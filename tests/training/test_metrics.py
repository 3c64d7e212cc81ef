"""Metrics against scikit-learn and against counts done by hand."""

import math

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from ovml_deploy.training.metrics import (
    average_precision,
    evaluate,
    evaluate_split,
    mean_average_precision,
    top_k,
)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("levels", [3, 10, None])
def test_average_precision_is_scikit_learns(seed: int, levels: int | None) -> None:
    random = np.random.default_rng(seed)
    scores = random.normal(size=60) if levels is None else random.integers(0, levels, 60) * 1.0
    targets = random.integers(-1, 2, 60)
    known = targets >= 0
    expected = average_precision_score(targets[known], scores[known])
    assert average_precision(scores, targets) == pytest.approx(expected, abs=1e-12)


def test_average_precision_at_the_edges() -> None:
    assert math.isnan(average_precision(np.array([1.0, 2.0]), np.array([0, -1])))
    assert average_precision(np.ones(4), np.array([1, 0, 0, 0])) == 0.25  # one tie
    assert average_precision(np.array([0.3]), np.array([1])) == 1.0
    assert math.isnan(average_precision(np.array([]), np.array([])))


@pytest.mark.parametrize("seed", range(5))
def test_map_leaves_out_empty_images_and_classes(seed: int) -> None:
    random = np.random.default_rng(seed)
    scores = random.integers(0, 9, (40, 8)).astype(np.float32)
    targets = random.choice([-1, 0, 0, 0, 1], (40, 8))
    targets[:, 2] = np.minimum(targets[:, 2], 0)  # a class without a positive
    targets[5:15] = np.minimum(targets[5:15], 0)  # images without one
    rows = [row for row in range(40) if 1 in targets[row]]
    expected = []
    for column in range(8):
        known = [row for row in rows if targets[row, column] != -1]
        if 1 in targets[known, column]:
            expected.append(average_precision_score(targets[known, column], scores[known, column]))
    assert len(expected) == 7
    assert len(rows) <= 30
    assert mean_average_precision(scores, targets) == pytest.approx(np.mean(expected), abs=1e-12)


def test_without_unknown_or_empty_rows_map_is_scikit_learns_macro_average() -> None:
    random = np.random.default_rng(9)
    targets = random.integers(0, 2, (50, 6))
    targets[:, 0] = 1
    scores = random.normal(size=(50, 6))
    expected = average_precision_score(targets, scores, average="macro")
    assert mean_average_precision(scores, targets) == pytest.approx(expected, abs=1e-12)


def test_top_k_by_hand() -> None:
    scores = np.array([[4.0, 3, 2, 1], [1, 2, 3, 4], [9, 9, 9, 9]])
    targets = np.array([[1, 0, 1, 0], [1, -1, 0, -1], [0, 0, 0, -1]])
    # image 0: labels 0 and 1 -> one hit; image 1: its known labels 2 and 0 -> one hit; image 2: out
    found = top_k(scores, targets, 2)
    assert (found.precision, found.recall) == (2 / 4, 2 / 3)
    assert found.f1 == pytest.approx(2 * 0.5 * (2 / 3) / (0.5 + 2 / 3))
    # at k = 3 image 1 has only two known labels to give
    assert top_k(scores, targets, 3).precision == 3 / 5
    assert top_k(scores, targets, 3).recall == 1.0
    assert top_k(scores, targets, 99).precision == 3 / 6


def test_top_k_breaks_ties_by_position() -> None:
    found = top_k(np.zeros((1, 3)), np.array([[0, 1, 1]]), 1)
    assert (found.precision, found.recall, found.f1) == (0, 0, 0)


def test_no_positive_at_all() -> None:
    result = evaluate(np.zeros((2, 3)), np.array([[0, 0, -1], [0, 0, 0]]))
    assert math.isnan(result.mean_ap)
    assert math.isnan(result.top[0].f1)
    assert (result.images, result.classes) == (0, 0)


def test_split_evaluates_unseen_columns_alone_and_all_together() -> None:
    random = np.random.default_rng(3)
    scores, targets = random.normal(size=(30, 7)), random.integers(-1, 2, (30, 7))
    parts = evaluate_split(scores, targets, seen=4, ks=(1, 3))
    assert parts["seen"] == evaluate(scores[:, :4], targets[:, :4], (1, 3))
    assert parts["zsl"] == evaluate(scores[:, 4:], targets[:, 4:], (1, 3))
    assert parts["gzsl"] == evaluate(scores, targets, (1, 3))
    assert set(evaluate_split(scores, targets, seen=7)) == {"seen"}
    row = parts["zsl"].as_row("zsl")
    assert row["zsl_map"] == parts["zsl"].mean_ap
    assert row["zsl_f1@3"] == parts["zsl"].top[1].f1


def test_bad_shapes_and_scores_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\[N, K\]"):
        evaluate(np.zeros((2, 3)), np.zeros((3, 2)))
    with pytest.raises(ValueError, match="finite"):
        evaluate(np.array([[np.nan, 0]]), np.array([[1, 0]]))

"""Metrics against scikit-learn and against counts done by hand."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from ovml_deploy.pipelines.agreement import average_precision, mean_average_precision
from ovml_deploy.training.metrics import evaluate, evaluate_split, top_k

Case = tuple[np.ndarray, np.ndarray]


@st.composite
def cases(draw: st.DrawFn, classes: int = 5) -> Case:
    """Scores with or without ties and targets from none to all positive, some of them unknown."""
    random = np.random.default_rng(draw(st.integers(0, 10**6)))
    shape = draw(st.integers(1, 30)), draw(st.integers(1, classes))
    levels = draw(st.sampled_from([1, 2, 5, None]))  # 1: all scores are equal
    scores = random.normal(size=shape) if levels is None else random.integers(0, levels, shape) / 4
    positive, unknown = (draw(st.sampled_from([0.0, 0.1, 0.5, 1.0])) for _ in range(2))
    targets = (random.random(shape) < positive).astype(int)
    return scores, np.where(random.random(shape) < unknown, -1, targets)


@settings(max_examples=200, deadline=None)
@given(cases(classes=1))
def test_average_precision_is_scikit_learns_on_anything(case: Case) -> None:
    scores, targets = case[0][:, 0], case[1][:, 0]
    known = targets >= 0
    if not (targets == 1).any():  # scikit-learn warns and says 0
        assert math.isnan(average_precision(scores, targets))
        return
    expected = average_precision_score(targets[known], scores[known])
    assert average_precision(scores, targets) == pytest.approx(expected, abs=1e-12)


@settings(max_examples=40, deadline=None)
@given(cases())
def test_average_precision_is_torchmetrics_on_anything(case: Case) -> None:
    """Its exact mode (thresholds=None) joins ties as ours does; ignore_index=-1 is our unknown.

    It takes a sigmoid of scores outside [0, 1], so they are brought there; it sums in float32; it
    calls a class without positives 0 or nan, and fails on one without a known target.
    """
    torch = pytest.importorskip("torch", reason="torch is not installed")
    functional = pytest.importorskip(
        "torchmetrics.functional.classification", reason="torchmetrics is not installed"
    )
    scores, targets = case
    scores = ((scores - scores.min()) / (np.ptp(scores) + 1.0)).astype(np.float32)
    useful = np.flatnonzero((targets == 1).any(axis=0))
    for column in set(range(scores.shape[1])) - set(useful):
        assert math.isnan(average_precision(scores[:, column], targets[:, column]))
    if len(useful) == 0:
        return
    useful = np.append(useful, useful[0])  # it wants two labels at least
    found = functional.multilabel_average_precision(
        torch.from_numpy(scores[:, useful]),
        torch.from_numpy(targets[:, useful]),
        num_labels=len(useful),
        average="none",
        thresholds=None,
        ignore_index=-1,
    )
    expected = [average_precision(scores[:, c], targets[:, c]) for c in useful]
    assert found.numpy() == pytest.approx(np.array(expected), abs=1e-5)


def slow_top_k(scores: np.ndarray, targets: np.ndarray, k: int) -> tuple[float, float, float]:
    """Precision, recall and F1 at k, by loops over lists."""
    hits = given_away = positives = 0
    for row, truth in zip(scores.tolist(), targets.tolist(), strict=True):
        if 1 not in truth:
            continue
        known = [label for label, value in enumerate(truth) if value != -1]
        tags = sorted(known, key=lambda label: (-row[label], label))[:k]
        hits += sum(truth[label] for label in tags)
        given_away += len(tags)
        positives += truth.count(1)
    if positives == 0:
        return math.nan, math.nan, math.nan
    precision, recall = hits / given_away, hits / positives
    return precision, recall, 2 * hits / (given_away + positives)


@settings(max_examples=200, deadline=None)
@given(cases(classes=9), st.integers(1, 12))
def test_top_k_is_that_of_a_slow_reference(case: Case, k: int) -> None:
    found = top_k(*case, k)
    assert (found.precision, found.recall, found.f1) == pytest.approx(
        slow_top_k(*case, k), abs=1e-12, nan_ok=True
    )


def test_top_k_of_more_images_than_are_taken_at_once() -> None:
    random = np.random.default_rng(0)
    scores, targets = random.integers(0, 4, (9000, 5)) / 2, random.integers(-1, 2, (9000, 5))
    found = top_k(scores, targets, 2)
    assert (found.precision, found.recall, found.f1) == pytest.approx(
        slow_top_k(scores, targets, 2)
    )


def test_no_labels_at_all() -> None:
    result = evaluate(np.zeros((3, 0)), np.zeros((3, 0), dtype=int))
    assert math.isnan(result.mean_ap)
    assert math.isnan(result.top[0].precision)


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

"""Bootstrap intervals against the metrics recomputed on images that are really repeated."""

import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ovml_deploy.errors import UsageError
from ovml_deploy.pipelines.agreement import average_precision, mean_average_precision
from ovml_deploy.training.bootstrap import (
    Interval,
    bootstrap_difference,
    bootstrap_evaluation,
    check_resamples,
    draw,
    resampled_average_precision,
    resampled_map,
)
from ovml_deploy.training.metrics import evaluate

Case = tuple[np.ndarray, np.ndarray]


def example(seed: int, images: int = 30, labels: int = 7, levels: int | None = 5) -> Case:
    random = np.random.default_rng(seed)
    scores = random.normal(size=(images, labels))
    if levels is not None:
        scores = random.integers(0, levels, (images, labels)) / 4
    return scores, random.choice([-1, 0, 0, 1], (images, labels))


def repeated(counts: np.ndarray, resample: int) -> np.ndarray:
    return np.repeat(np.arange(len(counts)), counts[:, resample])


def middle(values: list[float]) -> tuple[float, float, float]:
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(np.mean(values)), float(high)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    images=st.integers(1, 25),
    levels=st.sampled_from([1, 2, 6, None]),
)
def test_average_precision_of_counts_is_that_of_the_repeated_images(
    seed: int, images: int, levels: int | None
) -> None:
    scores, targets = example(seed, images, 1, levels)
    counts = draw(images, 20, seed)
    found = resampled_average_precision(scores[:, 0], targets[:, 0], counts)
    for resample in range(20):
        rows = repeated(counts, resample)
        expected = average_precision(scores[rows, 0], targets[rows, 0])
        assert found[resample] == pytest.approx(expected, abs=1e-12, nan_ok=True)


@pytest.mark.parametrize("seed", range(4))
def test_every_interval_is_that_of_metrics_recomputed_on_repeated_images(seed: int) -> None:
    scores, targets = example(seed)
    counts = draw(30, 60, seed)
    rows = [
        evaluate(scores[r], targets[r], (1, 3)).as_row()
        for r in (repeated(counts, i) for i in range(60))
    ]
    found = bootstrap_evaluation(scores, targets, (1, 3), resamples=60, seed=seed)
    values = evaluate(scores, targets, (1, 3)).as_row()
    assert list(found) == list(values) == ["map", "p@1", "r@1", "f1@1", "p@3", "r@3", "f1@3"]
    for name, interval in found.items():
        assert interval.value == values[name]
        low, mean, high = middle([row[name] for row in rows])
        assert interval.low == pytest.approx(low - mean + values[name], abs=1e-12)
        assert interval.high == pytest.approx(high - mean + values[name], abs=1e-12)
        assert interval.low < interval.high


def test_a_drawing_without_a_class_or_without_positives_is_as_the_metric_has_it() -> None:
    scores, targets = example(1, images=5, labels=3)
    targets[:] = [[1, 0, 0], [0, 0, 0], [0, 1, 0], [0, 0, 0], [-1, 0, 0]]
    counts = draw(5, 80, 0)
    found = resampled_map(scores, targets, counts)
    expected = [
        mean_average_precision(scores[rows], targets[rows])
        for rows in (repeated(counts, i) for i in range(80))
    ]
    assert np.isnan(expected).any()  # drawings without images 0 and 2
    assert found == pytest.approx(np.array(expected), abs=1e-12, nan_ok=True)
    assert not math.isnan(bootstrap_evaluation(scores, targets, ())["map"].low)


def test_drawings_have_as_many_images_and_depend_on_the_seed() -> None:
    counts = draw(40, 25, 3)
    assert (counts.sum(axis=0) == 40).all()
    assert np.array_equal(counts, draw(40, 25, 3))
    assert not np.array_equal(counts, draw(40, 25, 4))
    assert draw(0, 5, 0).shape == (0, 5)


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    random = np.random.default_rng(0)
    frequency, skill = 10 ** random.uniform(-2, -0.7, 20), random.uniform(0, 2.5, 20)

    def sample() -> Case:
        targets = (random.random((300, 20)) < frequency).astype(int)
        return random.normal(size=(300, 20)) + skill * targets, targets

    truth = np.mean([mean_average_precision(*sample()) for _ in range(200)])
    intervals = [bootstrap_evaluation(*sample(), (), 100, seed)["map"] for seed in range(60)]
    assert sum(found.low <= truth <= found.high for found in intervals) >= 52
    assert all(found.low <= found.value <= found.high for found in intervals)
    # and not by being so wide that it says nothing
    assert np.mean([found.high - found.low for found in intervals]) < 0.2


def test_a_difference_is_paired() -> None:
    scores, targets = example(2, images=60, levels=None)
    better = scores + 0.5 * (targets == 1)
    found = bootstrap_difference(better, scores, targets, resamples=50, seed=1)
    counts = draw(60, 50, 1)
    differences = resampled_map(better, targets, counts) - resampled_map(scores, targets, counts)
    assert found.value == pytest.approx(
        mean_average_precision(better, targets) - mean_average_precision(scores, targets)
    )
    low, mean, high = middle(list(differences))
    assert (found.low, found.high) == pytest.approx(
        (low - mean + found.value, high - mean + found.value)
    )
    assert found.low > 0
    separate = [bootstrap_evaluation(s, targets, (), 50, 1)["map"] for s in (better, scores)]
    assert found.high - found.low < sum(i.high - i.low for i in separate)
    assert bootstrap_difference(scores, scores, targets) == Interval(0.0, 0.0, 0.0)


def test_no_positives_and_no_images() -> None:
    for scores, targets in (
        (np.zeros((4, 2)), np.zeros((4, 2), dtype=int)),
        (np.zeros((0, 2)), np.zeros((0, 2), dtype=int)),
    ):
        for interval in bootstrap_evaluation(scores, targets).values():
            assert math.isnan(interval.value)
            assert math.isnan(interval.low)
            assert str(interval) == "n/a"


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="finite"):
        bootstrap_evaluation(np.array([[np.nan]]), np.array([[1]]))
    with pytest.raises(ValueError, match=r"\[N, K\]"):
        bootstrap_difference(np.zeros((2, 2)), np.zeros((2, 3)), np.zeros((2, 3)))


def test_drawings_beyond_memory_are_refused() -> None:
    check_resamples(125_000, 8000)
    with pytest.raises(UsageError, match="at least 1 and at most 8,589"):
        check_resamples(125_000, 9000)
    with pytest.raises(UsageError, match="resamples is 0"):
        check_resamples(1, 0)


def test_text() -> None:
    assert str(Interval(0.4349, 0.412, 0.4591)) == "43.5 [41.2, 45.9]"
    assert Interval(-0.01, -0.025, 0.0).percent(2) == "-1.00 [-2.50, 0.00]"


def test_it_is_quick() -> None:
    random = np.random.default_rng(0)
    scores = random.normal(size=(1000, 150)).astype(np.float32)
    targets = (random.random((1000, 150)) < 0.02).astype(np.int8)
    started = time.process_time()
    bootstrap_evaluation(scores, targets)
    # a tenth of the labels of the size that must take well under a minute on one core
    assert time.process_time() - started < 4

"""Calibration on data whose truth is known, and against scikit-learn."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.linear_model import LogisticRegression

from ovml_deploy.errors import DataError, VocabularyError
from ovml_deploy.runtime.calibration import Calibration, calibrate


def sigmoid(values: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.asarray(values, dtype=np.float64)))


def drawn(images: int, labels: int, slope=1.3, seed=0, offsets=None):
    """Logits like CLIP's (mean 20), targets drawn from the truth, and the true offsets."""
    random = np.random.default_rng(seed)
    logits = random.normal(20, 2, (images, labels)).astype(np.float32)
    if offsets is None:
        offsets = np.random.default_rng(99).normal(-slope * 20 - 2, 1.0, labels)
    truth = sigmoid(slope * logits + offsets)
    return logits, (random.random(logits.shape) < truth).astype(np.int8), offsets


def calibration_error(scores: np.ndarray, targets: np.ndarray) -> float:
    bins = np.minimum((scores * 10).astype(int), 9)
    gaps = [
        abs(scores[bins == b].mean() - targets[bins == b].mean()) * (bins == b).mean()
        for b in np.unique(bins)
    ]
    return float(sum(gaps))


def test_the_truth_is_recovered() -> None:
    logits, targets, offsets = drawn(5000, 30)
    found = calibrate(logits, targets)
    assert found.slope == pytest.approx(1.3, rel=0.03)
    # at the logits that occur: an offset alone moves with the slope
    np.testing.assert_allclose(20 * found.slope + found.offsets, 26 + offsets, atol=0.25)
    assert (found.images, found.positives) == (5000, targets.sum())
    assert (found.threshold, found.precision) == (0.5, None)
    assert found.offsets.dtype == np.float32


def test_with_much_data_it_is_plain_logistic_regression() -> None:
    logits, targets, _ = drawn(4000, 5)
    design = np.concatenate([np.eye(5)[np.arange(5)] for _ in logits])
    design = np.column_stack([logits.ravel() - 20, design])
    plain = LogisticRegression(C=1e8, fit_intercept=False, tol=1e-8, max_iter=1000)
    expected = plain.fit(design, targets.ravel()).coef_[0]
    found = calibrate(logits, targets)
    assert found.slope == pytest.approx(expected[0], rel=2e-3)
    np.testing.assert_allclose(20 * found.slope + found.offsets, expected[1:], atol=0.03)


@pytest.mark.parametrize(
    "targets",
    [
        pytest.param([0, 0, 0, 0, 1, 0, 1, 1], id="mixed"),
        pytest.param([0, 0, 0, 0, 1, 1, 1, 1], id="separable"),
        pytest.param([0, 0, 0, 0, 0, 0, 0, 1], id="rare"),
    ],
)
def test_one_label_is_ridge_regression(targets: list[int]) -> None:
    """With one label there is nobody to lean on: only the slope's prior, 5 deviations, remains."""
    logits = np.array([[-3.0], [-1], [0], [0.5], [1], [2], [3], [7]], dtype=np.float32)
    scaled = (logits - logits.mean()) / logits.std()
    ridge = LogisticRegression(C=25, tol=1e-10, max_iter=1000).fit(scaled, targets)
    found = calibrate(logits, np.array(targets, dtype=np.int8)[:, None])
    np.testing.assert_allclose(
        sigmoid(found.logits(logits))[:, 0], ridge.predict_proba(scaled)[:, 1], atol=1e-3
    )


def test_a_label_with_few_images_leans_on_the_others() -> None:
    """Half of a label's known images are positive, of 2 or of 100; of other labels', a tenth."""
    random = np.random.default_rng(1)
    logits = random.normal(0, 1, (100, 23)).astype(np.float32)
    targets = (random.random(logits.shape) < 0.1).astype(np.int8)
    targets[:, 20] = np.arange(100) % 2
    targets[2:, 21] = -1
    targets[:2, 21] = 0, 1
    targets[:, 22] = -1
    offsets = calibrate(logits, targets).offsets
    many, few, none = offsets[20:]
    assert none + 0.1 < few < many - 0.5
    assert offsets[:20].min() < none < offsets[:20].max()
    assert many == pytest.approx(0, abs=0.6)
    assert none == pytest.approx(offsets[:22].mean(), abs=0.1)


def test_what_is_unknown_is_not_looked_at() -> None:
    logits, targets, _ = drawn(200, 6)
    targets[np.random.default_rng(2).random(targets.shape) < 0.3] = -1
    expected = calibrate(logits, targets)
    logits[targets < 0] = 1e6
    found = calibrate(logits, targets)
    assert found.slope == expected.slope
    np.testing.assert_array_equal(found.offsets, expected.offsets)


def test_rows_choose_images() -> None:
    logits, targets, _ = drawn(300, 6)
    rows = np.arange(0, 300, 3)
    found, expected = calibrate(logits, targets, rows), calibrate(logits[rows], targets[rows])
    assert (found.slope, found.images) == (expected.slope, 100)
    np.testing.assert_array_equal(found.offsets, expected.offsets)


@settings(max_examples=25, deadline=None)
@given(st.randoms(use_true_random=False), st.floats(0.01, 100), st.floats(-50, 50))
def test_order_scale_and_origin_do_not_matter(random, scale: float, origin: float) -> None:
    logits, targets, _ = drawn(60, 5)
    logits = logits.astype(np.float64)
    columns, rows = random.sample(range(5), 5), random.sample(range(60), 60)
    expected = sigmoid(calibrate(logits, targets).logits(logits))
    changed = (logits * scale + origin)[rows][:, columns]
    found = calibrate(changed, targets[rows][:, columns])
    scores = sigmoid(found.logits(changed))
    np.testing.assert_allclose(scores, expected[rows][:, columns], atol=2e-3)


@settings(max_examples=150, deadline=None)
@given(st.data(), st.integers(1, 6), st.integers(1, 4))
def test_any_data_give_finite_numbers(data, images: int, labels: int) -> None:
    shape = (images, labels)
    logits = data.draw(arrays(np.float32, shape, elements=st.floats(-1e6, 1e6, width=32)))
    targets = data.draw(arrays(np.int8, shape, elements=st.integers(-1, 1)))
    if not (targets == 1).any() or not (targets == 0).any():
        with pytest.raises(DataError):
            calibrate(logits, targets)
        return
    with np.errstate(all="raise", under="ignore"):
        found = calibrate(logits, targets)
    assert found.slope >= 0
    assert np.isfinite(found.offsets).all()


def test_degenerate_labels() -> None:
    logits, targets, _ = drawn(200, 6)
    targets[:, 0], targets[:, 1] = 1, 0
    offsets = calibrate(logits, targets).offsets
    assert offsets[0] == offsets.max()
    assert offsets[1] == offsets.min()
    assert np.ptp(offsets) < 40


def test_constant_logits_leave_the_frequencies() -> None:
    targets = np.zeros((1000, 2), np.int8)
    targets[:300, 0] = targets[:600, 1] = 1
    logits = np.full((1000, 2), 7.5, np.float32)
    found = calibrate(logits, targets)
    assert found.slope == 0
    np.testing.assert_allclose(sigmoid(found.logits(logits[0])), [0.3, 0.6], atol=0.01)


def test_a_slope_is_never_negative() -> None:
    logits, targets, _ = drawn(400, 4)
    found = calibrate(-logits, targets)
    assert found.slope == 0
    shares = targets.mean(axis=0)
    np.testing.assert_allclose(sigmoid(found.offsets), shares, atol=0.02)


def test_probabilities_hold_on_fresh_images() -> None:
    logits, targets, offsets = drawn(1500, 40, slope=0.4)
    fresh, there, _ = drawn(1500, 40, slope=0.4, seed=1, offsets=offsets)
    found = calibrate(logits, targets)
    assert calibration_error(sigmoid(fresh), there) > 0.5
    assert calibration_error(sigmoid(found.logits(fresh)), there) < 0.01


def test_memory_is_bounded() -> None:
    logits, targets, _ = drawn(10_000, 500)
    tracemalloc.start()
    try:
        calibrate(logits, targets)
        assert tracemalloc.get_traced_memory()[1] < logits.size * 8  # not even one float64 copy
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("logits", "targets", "message"),
    [
        ([[1.0, 2]], [[0, 0]], "These 1 images have no label that is present.*Add images"),
        ([[1.0], [2]], [[1], [1]], "no label that is absent"),
        ([[1.0], [2]], [[1], [-1]], "no label that is absent"),
        ([[1.0], [2]], [[-1], [-1]], "no label that is present"),
        ([[np.nan], [2]], [[1], [0]], "not finite"),
        ([[np.inf], [2]], [[-1], [0]], "not finite"),
        ([1.0, 2], [1, 0], r"Logits \[2\] and targets \[2\] must both be \[N, K\]"),
        ([[1.0, 2]], [[1]], r"Logits \[1, 2\] and targets \[1, 1\]"),
        (np.zeros((0, 3)), np.zeros((0, 3)), r"Logits \[0, 3\]"),
    ],
)
def test_data_that_say_nothing_are_refused(logits, targets, message: str) -> None:
    with pytest.raises(DataError, match=message):
        calibrate(np.array(logits, np.float32), np.array(targets, np.int8))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"slope": -1}, "slope is at least 0; this is -1"),
        ({"slope": float("nan")}, "slope"),
        ({"slope": float("inf")}, "slope"),
        ({"offsets": np.array([0, np.nan])}, "finite offsets"),
        ({"offsets": np.zeros((2, 1))}, r"offsets \[K\]; these are \[2, 1\]"),
        ({"threshold": 1.5}, r"threshold is 1\.5"),
        ({"threshold": float("nan")}, "threshold is nan"),
        ({"precision": -0.1}, "precision is"),
    ],
)
def test_a_calibration_that_makes_no_sense_is_refused(changes, message: str) -> None:
    with pytest.raises(VocabularyError, match=message):
        Calibration(**{"slope": 1.0, "offsets": np.zeros(2), **changes})


def test_a_calibration_cannot_be_changed() -> None:
    source = np.zeros(2, np.float32)
    made = Calibration(1, source)
    source[:] = 5
    assert made.offsets.max() == 0
    with pytest.raises(ValueError, match="read-only"):
        made.offsets[0] = 1

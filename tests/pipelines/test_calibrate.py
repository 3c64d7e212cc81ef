"""What is reported of a calibration, against fresh data."""

import dataclasses

import numpy as np
import pytest

from ovml_deploy.errors import DataError, UsageError
from ovml_deploy.pipelines import calibrate as work
from ovml_deploy.pipelines.calibrate import calibrate_vocabulary
from ovml_deploy.runtime.calibration import Calibration
from ovml_deploy.runtime.results import scores_of
from ovml_deploy.runtime.vocabulary import Vocabulary


def words(count: int) -> Vocabulary:
    labels = tuple(f"l{i}" for i in range(count))
    return Vocabulary("v", labels, np.zeros((count, 1)), "t", "p")


def drawn(images: int, labels: int, seed: int, slope: float = 1.0):
    """Logits, and targets of which the offsets are the same for every seed."""
    random = np.random.default_rng(seed)
    offsets = np.random.default_rng(99).normal(-2, 1.5, labels)
    logits = random.normal(0, 2, (images, labels)).astype(np.float32)
    truth = 1 / (1 + np.exp(-(slope * logits + offsets)))
    return logits, (random.random(logits.shape) < truth).astype(np.int8)


def measured(vocabulary: Vocabulary, logits: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    """Precision and so on by their definitions."""
    calibration = vocabulary.calibration
    given = scores_of(logits, "sigmoid", calibration) >= calibration.threshold
    right = (given & (targets == 1)).sum()
    return {
        "precision": right / (given & (targets >= 0)).sum(),
        "recall": right / (targets == 1).sum(),
        "tags_per_image": given.sum() / len(logits),
    }


@pytest.mark.parametrize("precision", [None, 0.8, 0.95])
def test_the_report_holds_on_fresh_images(precision: float | None) -> None:
    logits, targets = drawn(1500, 40, seed=0)
    targets[:, 30:35] = -1
    calibrated, report = calibrate_vocabulary(words(40), logits, targets, "sigmoid", precision)
    fresh, there = drawn(4000, 40, seed=1)
    there[:, 30:35] = -1
    for what, value in measured(calibrated, fresh, there).items():
        assert getattr(report, what) == pytest.approx(value, rel=0.03), what
    calibration = calibrated.calibration
    assert calibration.precision == precision
    if precision is None:
        assert calibration.threshold == 0.5
    else:
        assert report.precision >= precision
        lower = dataclasses.replace(calibration, threshold=calibration.threshold - 0.02)
        below = dataclasses.replace(calibrated, calibration=lower)
        assert measured(below, fresh, there)["precision"] < precision + 0.003
    assert report.unknown_labels == 5
    assert report.error_after < 0.01 < 0.1 < report.error_before


def test_images_are_judged_by_what_has_not_seen_them() -> None:
    """Few images and many labels: on its own images the calibration looks better than it is."""
    logits, targets = drawn(10, 1000, seed=0, slope=0.3)
    calibrated, report = calibrate_vocabulary(words(1000), logits, targets, "sigmoid")
    own = measured(calibrated, logits, targets)["precision"]
    fresh = measured(calibrated, *drawn(1000, 1000, seed=1, slope=0.3))["precision"]
    assert own > fresh + 0.1
    assert report.precision == pytest.approx(fresh, abs=0.03)


def test_errors_are_of_scores_and_frequencies() -> None:
    """All logits are 0 but for noise, so all raw scores are a half, and a tenth is positive."""
    random = np.random.default_rng(0)
    targets = (random.random((500, 4)) < 0.1).astype(np.int8)
    logits = (1e-3 * (targets + random.normal(0, 1, targets.shape))).astype(np.float32)
    _, report = calibrate_vocabulary(words(4), logits, targets, "sigmoid")
    assert report.error_before == pytest.approx(0.5 - targets.mean(), abs=1e-3)
    _, report = calibrate_vocabulary(words(4), logits, targets, "softmax")
    assert report.error_before == pytest.approx(0.25 - targets.mean(), abs=1e-3)
    assert report.error_after < 0.02


def test_labels_with_few_positives_are_counted() -> None:
    logits, targets = drawn(100, 6, seed=0)
    targets[:, :3] = 0
    targets[:5, 0] = 1
    targets[:4, 1] = 1
    targets[:, 5] = -1
    _, report = calibrate_vocabulary(words(6), logits, targets, "sigmoid")
    few = {k for k in range(6) if (targets[:, k] == 1).sum() < 5}
    assert {1, 2, 5} <= few
    assert 0 not in few
    assert report.few_positives == len(few)


def test_a_precision_out_of_reach_names_the_best() -> None:
    logits, targets = drawn(300, 10, seed=0, slope=0.1)
    with pytest.raises(
        DataError, match=r"No threshold gives a precision of 1\.0 .* best is 0\.\d+"
    ):
        calibrate_vocabulary(words(10), logits, targets, "sigmoid", 1.0)


@pytest.mark.parametrize("precision", [0.0, -1, 1.01, float("nan")])
def test_a_precision_is_a_share(precision: float) -> None:
    with pytest.raises(UsageError, match="precision is"):
        calibrate_vocabulary(words(2), np.zeros((9, 2)), np.zeros((9, 2)), "sigmoid", precision)


@pytest.mark.parametrize("images", [1, 2, 6])
def test_too_few_to_judge(images: int) -> None:
    logits = np.zeros((images, 2), np.float32)
    targets = np.zeros((images, 2), np.int8)
    targets[0, 0] = logits[0, 0] = 1
    with pytest.raises(DataError, match=f"{images} images with 1 positive labels are too few"):
        calibrate_vocabulary(words(2), logits, targets, "sigmoid")


def test_logits_that_fall_with_the_labels_are_refused() -> None:
    logits, targets = drawn(300, 10, seed=0)
    with pytest.raises(DataError, match=r"slope 0.*Check the labels"):
        calibrate_vocabulary(words(10), -logits, targets, "sigmoid")


def test_a_vocabulary_is_calibrated_anew() -> None:
    """From the model's logits, whatever calibration it had."""
    logits, targets = drawn(300, 10, seed=0)
    old = dataclasses.replace(words(10), calibration=Calibration(9.0, np.full(10, 5), 0.9))
    again, _ = calibrate_vocabulary(old, logits, targets, "sigmoid")
    fresh, _ = calibrate_vocabulary(words(10), logits, targets, "sigmoid")
    assert again.id == fresh.id != old.id


def test_what_memory_cannot_hold_is_refused() -> None:
    work.check_size(1000, 500_000)
    with pytest.raises(DataError, match=r"2 GiB\. Take at most 1,073 images"):
        work.check_size(1100, 500_000)

"""Calibrates a vocabulary on labelled images, and measures by cross-validation how good that is."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from ovml_deploy.errors import DataError, UsageError
from ovml_deploy.runtime.calibration import calibrate
from ovml_deploy.runtime.results import scores_of
from ovml_deploy.runtime.vocabulary import Vocabulary

MAX_BYTES = 2 * 1024**3

_FOLDS = 5
_STEPS = 1000  # thresholds are looked for in steps of 1 / _STEPS
_ERROR_BINS = 20
_FEW = 5
_NUMBERS_AT_ONCE = 1 << 18


@dataclass(frozen=True)
class CalibrationReport:
    """How a calibration does on images it has not seen (5-fold cross-validation over images).

    ``precision`` (of ``tags`` tags; nan where there are none) and ``recall`` are pooled over all
    known labels of all images, at the calibration's threshold; ``tags_per_image`` counts unknown
    labels too. The expected calibration errors are the mean distance of score and frequency, in 20
    bins of equal width. ``few_positives``: labels with fewer than 5; ``unknown_labels``: those
    without any data.
    """

    precision: float
    tags: int
    recall: float
    tags_per_image: float
    error_before: float
    error_after: float
    few_positives: int
    unknown_labels: int


def calibrate_vocabulary(
    vocabulary: Vocabulary,
    logits: np.ndarray,
    targets: np.ndarray,
    activation: str,
    precision: float | None = None,
) -> tuple[Vocabulary, CalibrationReport]:
    """Return the vocabulary with a calibration fitted to logits and targets ``[N, K]``.

    ``targets``: 1, 0 or -1 (unknown). ``activation``: the bundle's, for the comparison. Without
    ``precision`` the threshold is 0.5: more likely right than wrong. With it, the lowest at which
    the cross-validated precision is as high. Raises DataError, UsageError.
    """
    check_precision(precision)
    calibration = calibrate(logits, targets)
    if calibration.slope == 0:
        raise DataError(
            "On these images the model's logits are no higher where a label is present (slope 0), "
            "so calibrated scores would say nothing. Check the labels, and that the engine is the "
            "one to be used."
        )
    before, after = _Tally(), _Tally()
    for rows in _blocks(np.arange(len(logits)), logits.shape[1]):
        before.add(scores_of(logits[rows], activation), targets[rows])
    _cross_validate(logits, targets, activation, after)
    step = _STEPS // 2 if precision is None else after.lowest_step(precision)
    calibration = replace(calibration, threshold=step / _STEPS, precision=precision)
    positives = (targets == 1).sum(axis=0)
    report = CalibrationReport(
        precision=float(after.precisions()[step]),
        tags=int(after.reaching(after.known)[step]),
        recall=float(after.reaching(after.positive)[step] / calibration.positives),
        tags_per_image=float(after.reaching(after.every)[step] / len(logits)),
        error_before=before.expected_error(),
        error_after=after.expected_error(),
        few_positives=int((positives < _FEW).sum()),
        unknown_labels=int((targets < 0).all(axis=0).sum()),
    )
    return replace(vocabulary, calibration=calibration), report


def check_precision(precision: float | None) -> None:
    """Raise UsageError where no tagger could have this precision."""
    if precision is not None and not 0 < precision <= 1:
        raise UsageError(f"precision is {precision}; it lies above 0 and is at most 1.")


def check_size(images: int, labels: int) -> None:
    """Raise DataError where the logits of so many images would not fit in 2 GiB."""
    if images * labels * 4 > MAX_BYTES:
        raise DataError(
            f"The logits of {images:,} images and {labels:,} labels need more than 2 GiB. Take at "
            f"most {MAX_BYTES // (4 * labels):,} images, or a vocabulary of the labels you need."
        )


class _Tally:
    """Counts of (image, label) pairs by score, in steps of 1 / ``_STEPS``."""

    def __init__(self) -> None:
        self.every = np.zeros(_STEPS + 1, dtype=np.int64)
        self.known = np.zeros(_STEPS + 1, dtype=np.int64)
        self.positive = np.zeros(_STEPS + 1, dtype=np.int64)
        self.scores = np.zeros(_STEPS + 1)  # summed, of the known ones

    def add(self, scores: np.ndarray, targets: np.ndarray) -> None:
        steps = (scores * _STEPS).astype(np.int64)
        known = targets >= 0
        self.every += _counts(steps)
        self.known += _counts(steps[known])
        self.positive += _counts(steps[targets == 1])
        self.scores += np.bincount(steps[known], scores[known], minlength=_STEPS + 1)

    def reaching(self, counts: np.ndarray) -> np.ndarray:
        """How many pairs have at least each step's score."""
        return np.cumsum(counts[::-1])[::-1]

    def precisions(self) -> np.ndarray:
        """Precision at each step; nan where nothing reaches it."""
        given = self.reaching(self.known)
        shares = np.full(len(given), np.nan)
        np.divide(self.reaching(self.positive), given, out=shares, where=given > 0)
        return shares

    def lowest_step(self, precision: float) -> int:
        precisions = np.nan_to_num(self.precisions(), nan=-1.0)
        good = np.flatnonzero(precisions >= precision)
        if len(good) == 0:
            best = int(precisions.argmax())
            raise DataError(
                f"No threshold gives a precision of {precision} on images that the calibration has "
                f"not seen; the best is {precisions[best]:.3f}, at {best / _STEPS}. Ask for less, "
                "or calibrate on more images."
            )
        return int(good[0])

    def expected_error(self) -> float:
        width = _STEPS // _ERROR_BINS
        bins = np.minimum(np.arange(_STEPS + 1) // width, _ERROR_BINS - 1)
        gaps = np.bincount(bins, self.scores - self.positive)
        return float(np.abs(gaps).sum() / self.known.sum())


def _counts(steps: np.ndarray) -> np.ndarray:
    return np.bincount(steps.ravel(), minlength=_STEPS + 1)


def _cross_validate(
    logits: np.ndarray, targets: np.ndarray, activation: str, tally: _Tally
) -> None:
    """Tally each image's scores by a calibration that was fitted to the other folds' images."""
    folds = np.random.default_rng(0).permutation(len(logits)) % _FOLDS
    for fold in np.unique(folds):
        try:
            calibration = calibrate(logits, targets, np.flatnonzero(folds != fold))
        except DataError as error:
            raise DataError(
                f"{len(logits)} images with {int((targets == 1).sum())} positive labels are too few "
                f"to cross-validate: four fifths of them may lack any. Add images. ({error})"
            ) from error
        for rows in _blocks(np.flatnonzero(folds == fold), logits.shape[1]):
            tally.add(scores_of(logits[rows], activation, calibration), targets[rows])


def _blocks(rows: np.ndarray, labels: int) -> Iterator[np.ndarray]:
    size = max(1, _NUMBERS_AT_ONCE // labels)
    for start in range(0, len(rows), size):
        yield rows[start : start + size]

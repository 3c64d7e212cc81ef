"""Calibration: one slope and an offset per label that turn logits into probabilities.

The model is a logistic regression with a random intercept per label:

    P(label k is in image i) = sigmoid(slope * logit_ik + offset_k),   offset_k ~ N(centre, spread)

Slope, centre and offsets are at their joint mode (Newton's method); the spread is the one that
makes the offsets most likely (Laplace's approximation; MacKay, "Bayesian interpolation", 1992,
eq. 4.9). So a label with many known images has the offset that these ask for, one with few leans on
the other labels, and one with none has the centre.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ovml_deploy.errors import DataError, VocabularyError

_NUMBERS_AT_ONCE = 1 << 18  # a block of logits that fits a cache
_MOST_PASSES = 200
_TOLERANCE = 1e-4  # of slope and offsets, with logits scaled to a deviation of 1
#: Prior deviation of the slope on scaled logits: where a threshold separates right from wrong
#: without an error, the likelihood alone would make it infinite.
_SLOPE_DEVIATION = 5.0
#: The spread is estimated as if one more label lay this far from the centre, squared.
_EXTRA_SPREAD = 1.0


@dataclass(frozen=True, eq=False)
class Calibration:
    """How a vocabulary's logits become probabilities: ``sigmoid(slope * logit + offset)``.

    ``offsets``: float32 ``[K]``, one a label. ``threshold``: the score a tag must reach where the
    caller names none. The rest says where it comes from: how many ``images`` and positive labels of
    them (``positives``) it was fitted to, the ``precision`` that was asked for, if one was, and the
    ``model_hash`` of the bundle whose logits they were ("": not said, so not checked).
    Raises VocabularyError where the numbers make no sense.
    """

    slope: float
    offsets: np.ndarray
    threshold: float = 0.5
    images: int = 0
    positives: int = 0
    precision: float | None = None
    model_hash: str = ""

    def __post_init__(self) -> None:
        offsets = np.array(self.offsets, dtype=np.float32)
        offsets.flags.writeable = False
        object.__setattr__(self, "offsets", offsets)
        for name, kind in (("slope", float), ("threshold", float), ("images", int)):
            object.__setattr__(self, name, kind(getattr(self, name)))
        object.__setattr__(self, "positives", int(self.positives))
        if self.precision is not None:
            object.__setattr__(self, "precision", float(self.precision))
        if offsets.ndim != 1 or not np.isfinite(offsets).all():
            raise VocabularyError(
                f"A calibration needs finite offsets [K]; these are {list(offsets.shape)}."
            )
        if not (np.isfinite(self.slope) and self.slope >= 0):
            raise VocabularyError(f"A calibration's slope is at least 0; this is {self.slope}.")
        for what, value in (("threshold", self.threshold), ("precision", self.precision)):
            if value is not None and not 0 <= value <= 1:
                raise VocabularyError(f"A calibration's {what} is {value}; it lies in [0, 1].")

    def logits(self, logits: np.ndarray) -> np.ndarray:
        """Model's logits ``[..., K]`` -> calibrated ones (float64), whose sigmoid is the score."""
        return self.slope * np.asarray(logits, dtype=np.float64) + self.offsets


@dataclass(frozen=True)
class _State:
    """Parameters for scaled logits: slope, centre, and each label's deviation ``[K]`` from it."""

    slope: float
    centre: float
    deviations: np.ndarray

    def moved(self, step: "_State", share: float) -> "_State":
        return _State(
            max(self.slope + share * step.slope, 0.0),
            self.centre + share * step.centre,
            self.deviations + share * step.deviations,
        )

    def greatest(self) -> float:
        return max(abs(self.slope), abs(self.centre), float(np.abs(self.deviations).max()))


@dataclass(frozen=True)
class _Sums:
    """What a pass over the data gives at a state: w = p (1 - p), z a scaled logit, r = y - p."""

    log_likelihood: float
    residual: np.ndarray  # [K] sum of r
    weight: np.ndarray  # [K] sum of w
    weighted: np.ndarray  # [K] sum of w z
    slope_gradient: float  # sum of r z
    slope_curvature: float  # sum of w z z


def calibrate(
    logits: np.ndarray, targets: np.ndarray, rows: np.ndarray | None = None
) -> Calibration:
    """Fit a calibration to logits ``[N, K]`` and targets ``[N, K]``.

    Targets: 1 the label is in the image, 0 it is not, -1 unknown. ``rows``: the images to use,
    default all. The threshold is 0.5. Raises DataError where there is no positive or no negative.

        calibration = calibrate(tagger.match(tagger.encode(images)), targets)
        tagger.use_vocabulary(dataclasses.replace(tagger.vocabulary, calibration=calibration))
    """
    data = _Data(logits, targets, rows)
    state, spread = data.first_guess(), _EXTRA_SPREAD
    sums = data.sums(state)
    for _ in range(_MOST_PASSES):
        step = _newton_step(sums, state, spread)
        state, sums, moved = _climb(data, state, sums, step, spread)
        previous, spread = spread, _spread(sums, state, spread)
        if moved < _TOLERANCE and abs(spread / previous - 1) < 10 * _TOLERANCE:
            break
    slope = state.slope / data.deviation
    offsets = state.centre + state.deviations - slope * data.mean
    return Calibration(slope, offsets, images=data.images, positives=data.positives)


class _Data:
    """The logits and targets, read a few rows at a time so that nothing as large is made."""

    def __init__(self, logits: np.ndarray, targets: np.ndarray, rows: np.ndarray | None) -> None:
        if logits.ndim != 2 or logits.shape != targets.shape or logits.size == 0:
            raise DataError(
                f"Logits {list(logits.shape)} and targets {list(targets.shape)} must both be [N, K]."
            )
        self._logits, self._targets = logits, targets
        self._rows = np.arange(len(logits)) if rows is None else rows
        self.mean, self.deviation = 0.0, 1.0
        count, positives, total, squares = 0, 0, 0.0, 0.0
        for values, target in self._blocks():
            if not np.isfinite(values).all():
                raise DataError("Some logits are not finite; the model gave nan or infinity.")
            mask = target >= 0
            count += int(mask.sum())
            positives += int((target == 1).sum())
            total += float(values.sum(where=mask))
            squares += float(np.square(values).sum(where=mask))
        self.images, self.positives = len(self._rows), positives
        if positives == 0 or positives == count:
            lacking = "no label that is present" if positives == 0 else "no label that is absent"
            raise DataError(
                f"These {self.images} images have {lacking}, so nothing tells right from wrong. "
                "Add images with and without the vocabulary's labels."
            )
        self.rate = positives / count
        self.mean = total / count
        self.deviation = max(squares / count - self.mean**2, 0.0) ** 0.5
        if self.deviation <= 1e-6 * max(abs(self.mean), 1e-30):  # all the same
            self.deviation = 1.0

    def first_guess(self) -> _State:
        """The state in which the logits say nothing and every label is as frequent."""
        centre = float(np.log(self.rate / (1 - self.rate)))
        return _State(0.0, centre, np.zeros(self._logits.shape[1]))

    def sums(self, state: _State) -> _Sums:
        labels = self._logits.shape[1]
        residual, weight, weighted = np.zeros(labels), np.zeros(labels), np.zeros(labels)
        log_likelihood = gradient = curvature = 0.0
        offsets = state.centre + state.deviations
        for values, target in self._blocks():
            z = (values - self.mean) / self.deviation
            eta = state.slope * z + offsets
            known, positive = target >= 0, target == 1
            small = np.exp(-np.abs(eta))
            likely = 1 / (1 + small)  # of the side that eta is on
            p = np.where(eta >= 0, likely, 1 - likely)
            p_wrong = np.where(eta >= 0, small * likely, likely)  # 1 - p, without cancellation
            w = known * (small * likely * likely)
            r = np.where(positive, p_wrong, -p) * known
            loss = np.maximum(eta, 0) + np.log1p(small) - positive * eta
            log_likelihood -= float(loss.sum(where=known))
            residual += r.sum(axis=0)
            weight += w.sum(axis=0)
            gradient += float(np.vdot(r, z))
            w *= z
            weighted += w.sum(axis=0)
            curvature += float(np.vdot(w, z))
        return _Sums(log_likelihood, residual, weight, weighted, gradient, curvature)

    def _blocks(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        size = max(1, _NUMBERS_AT_ONCE // self._logits.shape[1])
        for start in range(0, len(self._rows), size):
            rows = self._rows[start : start + size]
            yield self._logits[rows].astype(np.float64), self._targets[rows]


def _newton_step(sums: _Sums, state: _State, spread: float) -> _State:
    """The step to the top of the quadratic through ``state``, with no slope below zero.

    The Hessian has a row each for slope and centre and is diagonal over the deviations, so these
    are eliminated and two equations remain.
    """
    diagonal = sums.weight + 1 / spread
    pull = sums.residual - state.deviations / spread
    prior = 1 / _SLOPE_DEVIATION**2
    aa = sums.slope_curvature + prior - float(np.sum(sums.weighted**2 / diagonal))
    ab = float(np.sum(sums.weighted / diagonal)) / spread
    bb = float(np.sum(sums.weight / diagonal)) / spread + 1e-9
    a = sums.slope_gradient - prior * state.slope - float(np.sum(sums.weighted * pull / diagonal))
    b = float(np.sum(sums.residual)) - float(np.sum(sums.weight * pull / diagonal))
    slope = (a * bb - b * ab) / (aa * bb - ab * ab)
    slope = max(slope, -state.slope)
    centre = (b - ab * slope) / bb
    deviations = (pull - sums.weighted * slope - sums.weight * centre) / diagonal
    return _State(slope, centre, deviations)


def _climb(
    data: _Data, state: _State, sums: _Sums, step: _State, spread: float
) -> tuple[_State, _Sums, float]:
    """Take the step, or as much of it as goes uphill; return how far that went."""
    before = _objective(sums, state, spread)
    share = 1.0
    while share * step.greatest() > 1e-8:
        there = state.moved(step, share)
        found = data.sums(there)
        if _objective(found, there, spread) >= before - 1e-9 * abs(before):
            return there, found, share * step.greatest()
        share /= 4
    return state, sums, 0.0


def _objective(sums: _Sums, state: _State, spread: float) -> float:
    slope = (state.slope / _SLOPE_DEVIATION) ** 2
    return sums.log_likelihood - 0.5 * (slope + float(np.sum(state.deviations**2)) / spread)


def _spread(sums: _Sums, state: _State, spread: float) -> float:
    """The variance of the offsets: their squares over the number of them that the data determine."""
    determined = np.sum(sums.weight / (sums.weight + 1 / spread))
    return float((np.sum(state.deviations**2) + _EXTRA_SPREAD) / (determined + 1))

"""Bootstrap intervals of the metrics (Efron and Tibshirani 1993, chapters 10 and 13), in numpy.

The images are drawn again with replacement and the metric recomputed. A drawing is a count per
image, so every label's scores are sorted once for all drawings: a metric of the counts is exactly
the metric of the repeated images. The interval holds the middle 95% of the values, less the
bootstrap's own bias: a drawing repeats positives, which raises average precision, and without that
correction the interval of a rare class may lie wholly above its value. An interval says how far
chance in the choice of images reaches, not how a model varies from training to training.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ovml_deploy.errors import UsageError
from ovml_deploy.training.metrics import DEFAULT_TOP_K, evaluate, top_k_counts

DEFAULT_RESAMPLES = 200
MAX_BYTES = 2 * 1024**3  # of drawings

_PERCENTILES = (2.5, 97.5)


@dataclass(frozen=True)
class Interval:
    """A metric's value on all images, and its 95% bootstrap interval; nan where undefined."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return self.percent()

    def percent(self, digits: int = 1) -> str:
        """Return the interval in percent, such as ``43.5 [41.2, 45.9]``; "n/a" where undefined."""
        if np.isnan(self.value):
            return "n/a"
        value, low, high = (f"{100 * x:.{digits}f}" for x in (self.value, self.low, self.high))
        return f"{value} [{low}, {high}]"


def bootstrap_evaluation(
    scores: np.ndarray,
    targets: np.ndarray,
    ks: Sequence[int] = DEFAULT_TOP_K,
    resamples: int = DEFAULT_RESAMPLES,
    seed: int = 0,
) -> dict[str, Interval]:
    """Return ``metrics.evaluate`` of scores and targets ``[N, K]`` with intervals over images.

    Keys: "map", and "p@3", "r@3", "f1@3" for every k. A drawing in which a metric is undefined is
    left out of its interval. Raises ValueError as ``metrics.evaluate`` does.
    """
    values = evaluate(scores, targets, ks).as_row()
    counts = draw(len(scores), resamples, seed)
    drawn = {"map": resampled_map(scores, targets, counts)}
    for k in ks:
        top = resampled_top_k(scores, targets, k, counts)
        drawn |= dict(zip((f"p@{k}", f"r@{k}", f"f1@{k}"), top, strict=True))
    return {name: _interval(value, drawn[name], least=0.0) for name, value in values.items()}


def bootstrap_difference(
    scores_a: np.ndarray,
    scores_b: np.ndarray,
    targets: np.ndarray,
    resamples: int = DEFAULT_RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Return mAP of ``scores_a`` minus that of ``scores_b``, both ``[N, K]``, on the same drawings.

    An interval without zero says that the one is better on images such as these. Raises ValueError.
    """
    value = evaluate(scores_a, targets, ()).mean_ap - evaluate(scores_b, targets, ()).mean_ap
    counts = draw(len(targets), resamples, seed)
    difference = resampled_map(scores_a, targets, counts) - resampled_map(scores_b, targets, counts)
    return _interval(value, difference, least=-1.0)


def check_resamples(images: int, resamples: int) -> None:
    """Raise UsageError where there is no drawing, or more than fit in 2 GiB."""
    most = MAX_BYTES // (2 * max(images, 1))
    if not 1 <= resamples <= most:
        raise UsageError(
            f"resamples is {resamples}; for {images:,} images it is at least 1 and at most {most:,}."
        )


def draw(images: int, resamples: int, seed: int) -> np.ndarray:
    """Return how often each image occurs in each drawing, uint16 ``[N, R]``; columns sum to N."""
    random = np.random.default_rng(seed)
    counts = np.zeros((images, resamples), dtype=np.uint16)
    for column in counts.T if images else ():
        column[:] = np.bincount(random.integers(0, images, images), minlength=images)
    return counts


def resampled_map(scores: np.ndarray, targets: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return mAP ``[R]`` of each drawing ``counts`` ``[N, R]``; nan where it has no positive."""
    useful = (targets == 1).any(axis=1)
    scores, targets, counts = scores[useful], targets[useful], counts[useful]
    total, classes = np.zeros(counts.shape[1]), np.zeros(counts.shape[1], dtype=np.int64)
    for column in np.flatnonzero((targets == 1).any(axis=0)):
        found = resampled_average_precision(scores[:, column], targets[:, column], counts)
        defined = ~np.isnan(found)
        total[defined] += found[defined]
        classes += defined
    return _ratio(total, classes)


def resampled_average_precision(
    scores: np.ndarray, targets: np.ndarray, counts: np.ndarray
) -> np.ndarray:
    """Return average precision ``[R]`` of one class, scores ``[N]``, in each drawing ``[N, R]``.

    Equals ``average_precision`` of the images repeated ``counts`` times, ties included:
    every positive contributes the precision at the end of its tie, as often as it is drawn.
    """
    rows = np.flatnonzero(targets >= 0)
    rows = rows[np.argsort(-scores[rows], kind="stable")]
    ranks = np.flatnonzero(targets[rows] == 1)
    if len(ranks) == 0:
        return np.full(counts.shape[1], np.nan)
    last_of_tie = np.append(np.flatnonzero(np.diff(scores[rows])), len(rows) - 1)
    ends, tie = np.unique(last_of_tie[np.searchsorted(last_of_tie, ranks)], return_inverse=True)
    starts = np.append(0, ends[:-1] + 1)  # only ties with a positive matter; add up what is between
    images = np.add.reduceat(counts[rows[: ends[-1] + 1]], starts, axis=0, dtype=np.int64)
    positives = np.add.reduceat(
        counts[rows[ranks]], np.flatnonzero(np.diff(tie, prepend=-1)), axis=0, dtype=np.int64
    )
    hits = np.cumsum(positives, axis=0)
    precision = _ratio(hits, np.cumsum(images, axis=0), 0.0)
    return _ratio((positives * precision).sum(axis=0), hits[-1])


def resampled_top_k(
    scores: np.ndarray, targets: np.ndarray, k: int, counts: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return precision, recall and F1 ``[R]`` at ``k`` in each drawing ``counts`` ``[N, R]``."""
    hits, given, positives = (row @ counts for row in top_k_counts(scores, targets, k))
    # F1 of pooled counts: the harmonic mean of hits / given and hits / positives
    return _ratio(hits, given), _ratio(hits, positives), _ratio(2 * hits, given + positives)


def _ratio(above: np.ndarray, below: np.ndarray, undefined: float = np.nan) -> np.ndarray:
    result = np.full(np.shape(below), undefined)
    return np.divide(above, below, out=result, where=below > 0)


def _interval(value: float, drawn: np.ndarray, least: float) -> Interval:
    defined = drawn[~np.isnan(drawn)]
    if np.isnan(value) or len(defined) == 0:
        return Interval(value, float("nan"), float("nan"))
    bias = defined.mean() - value
    low, high = np.clip(np.percentile(defined, _PERCENTILES) - bias, least, 1.0)
    return Interval(value, float(low), float(high))

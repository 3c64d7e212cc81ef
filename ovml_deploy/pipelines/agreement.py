"""How much two engines agree on the same images: their tags, and their mean average precision.

Scores are ``[N, K]``, of N images and K labels. Targets are int ``[N, K]``: 1 positive, 0 negative,
-1 unknown.
"""

from dataclasses import dataclass

import numpy as np

from ovml_deploy.errors import DataError
from ovml_deploy.runtime.vocabulary import Vocabulary

MIN_TAG_AGREEMENT = 0.99
MAX_MAP_CHANGE = 0.2  # points


@dataclass(frozen=True)
class TagsAndMap:
    """How an engine's scores agree with its reference's.

    ``tags``: how many (image, label) pairs reach the threshold by either; ``tag_agreement``: the
    share of them that do by both. ``map_change``: in points; None without labelled images.
    """

    tags: int
    tag_agreement: float
    map_change: float | None = None

    @property
    def passes(self) -> bool:
        """Whether 99% of the tags are the same, and mAP within 0.2 points."""
        near = self.map_change is None or abs(self.map_change) <= MAX_MAP_CHANGE
        return self.tag_agreement >= MIN_TAG_AGREEMENT and near

    def __str__(self) -> str:
        change = "" if self.map_change is None else f", mAP {self.map_change:+.2f} points"
        return f"{100 * self.tag_agreement:.2f}% of {self.tags:,} tags equal{change}"


def tag_threshold(vocabulary: Vocabulary, chosen: float | None) -> float:
    """Return the score of a tag: the one chosen, else that of the calibration, else 0.5."""
    if chosen is not None:
        return chosen
    return 0.5 if vocabulary.calibration is None else vocabulary.calibration.threshold


def compare_scores(reference: np.ndarray, scores: np.ndarray, threshold: float) -> TagsAndMap:
    """Return the agreement of the tags of some images. Raises DataError where there are none."""
    tags = int(((reference >= threshold) | (scores >= threshold)).sum())
    if tags == 0:
        raise DataError(
            f"No label of the {len(scores):,} images has a score of {threshold}, so there is nothing "
            "to compare. Take images that show what the vocabulary names, or a lower threshold."
        )
    return TagsAndMap(tags, tag_agreement(reference, scores, threshold))


def tag_agreement(reference: np.ndarray, scores: np.ndarray, threshold: float) -> float:
    """Return the share of tags that both give: of pairs (image, label), |A and B| / |A or B|.

    A and B are the pairs whose score by either is at least ``threshold``. A tag that is lost counts
    as much as one that is added. nan where neither gives any.
    """
    ours, theirs = scores >= threshold, reference >= threshold
    either = int((ours | theirs).sum())
    return int((ours & theirs).sum()) / either if either else float("nan")


def map_change(reference: np.ndarray, scores: np.ndarray, targets: np.ndarray) -> float:
    """Return by how many points of mAP ``scores`` are above ``reference`` (below: negative)."""
    before = mean_average_precision(reference, targets)
    return 100 * (mean_average_precision(scores, targets) - before)


def average_precision(scores: np.ndarray, targets: np.ndarray) -> float:
    """Return the sum over thresholds of (R_n - R_{n-1}) P_n for one class, nan without positives.

    ``scores`` and ``targets`` are ``[N]``. Equal scores share one threshold, so their order does
    not matter (scikit-learn's definition).
    """
    known = targets >= 0
    scores, positive = scores[known], targets[known] == 1
    total = int(positive.sum())
    if total == 0:
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    scores, positive = scores[order], positive[order]
    last_of_tie = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)
    hits = np.cumsum(positive)[last_of_tie]
    precision = hits / (last_of_tie + 1)
    recall_gain = np.diff(hits, prepend=0) / total
    return float((recall_gain * precision).sum())


def mean_average_precision(scores: np.ndarray, targets: np.ndarray) -> float:
    """Return the mean of average precision over the classes with a positive; nan without any.

    Images without a positive are left out. Raises ValueError where scores are not finite, or of
    another shape than targets.
    """
    if scores.shape != targets.shape or scores.ndim != 2:
        raise ValueError(
            f"scores {list(scores.shape)} and targets {list(targets.shape)} must both be [N, K]"
        )
    if not np.isfinite(scores).all():
        raise ValueError("scores must be finite; the model gave nan or infinity")
    images = (targets == 1).any(axis=1)
    scores, targets = scores[images], targets[images]
    classes = np.flatnonzero((targets == 1).any(axis=0))
    if len(classes) == 0:
        return float("nan")
    return float(np.mean([average_precision(scores[:, c], targets[:, c]) for c in classes]))

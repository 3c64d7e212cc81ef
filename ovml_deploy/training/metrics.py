"""Multi-label metrics of the open-vocabulary protocol (DESIGN section 5), in numpy.

Scores are float ``[N, K]`` (any increasing function of the logits), targets int ``[N, K]``:
1 positive, 0 negative, -1 unknown. Images without a positive among the evaluated labels are left
out, and so are unknown targets.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ovml_deploy.pipelines.agreement import mean_average_precision

DEFAULT_TOP_K = (3, 5)

_IMAGES_AT_ONCE = 4096  # 125,000 images of 7,586 labels would not fit several times over


@dataclass(frozen=True)
class TopK:
    """Micro-averaged precision, recall and F1 of the k best labels of every image."""

    k: int
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class Evaluation:
    """Scores of one set of labels; nan where no image has a positive."""

    mean_ap: float
    top: tuple[TopK, ...]
    images: int
    classes: int

    def as_row(self, prefix: str = "") -> dict[str, float]:
        """Return plain values by name: "map", "p@3", "r@3", "f1@3", ..., each after ``prefix_``."""
        start = f"{prefix}_" if prefix else ""
        row = {f"{start}map": self.mean_ap}
        for top in self.top:
            row[f"{start}p@{top.k}"] = top.precision
            row[f"{start}r@{top.k}"] = top.recall
            row[f"{start}f1@{top.k}"] = top.f1
        return row


def top_k(scores: np.ndarray, targets: np.ndarray, k: int) -> TopK:
    """Compare the k best-scored labels of every image with its positives, over all images at once.

    Unknown labels are no candidates: an image with fewer than k known labels gives all of them.
    Of equal scores the earlier label wins. nan without positives.
    """
    hits, given, total = (int(row.sum()) for row in top_k_counts(scores, targets, k))
    if total == 0:
        return TopK(k, float("nan"), float("nan"), float("nan"))
    precision, recall = hits / given, hits / total
    f1 = 2 * precision * recall / (precision + recall) if hits else 0.0
    return TopK(k, precision, recall, f1)


def top_k_counts(
    scores: np.ndarray, targets: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return hits, labels given and positives of every image, int64 ``[N]`` each.

    Images without a positive count nothing. See ``top_k``.
    """
    _check(scores, targets)
    hits, given = np.zeros((2, len(scores)), dtype=np.int64)
    for start in range(0, len(scores), _IMAGES_AT_ONCE):
        rows = slice(start, start + _IMAGES_AT_ONCE)
        best = _best(np.where(targets[rows] >= 0, scores[rows], -np.inf), k)
        hits[rows] = (best & (targets[rows] == 1)).sum(axis=1)
        given[rows] = (best & (targets[rows] >= 0)).sum(axis=1)
    positives = (targets == 1).sum(axis=1)
    return hits, given * (positives > 0), positives


def _best(scores: np.ndarray, k: int) -> np.ndarray:
    """Mark the k greatest of every row ``[N, K]``; of equal ones the earlier."""
    if k >= scores.shape[1]:
        return np.ones(scores.shape, dtype=bool)
    last = -np.partition(-scores, k - 1, axis=1)[:, k - 1 : k]
    better, ties = scores > last, scores == last
    wanted = k - better.sum(axis=1, keepdims=True)
    return better | (ties & (np.cumsum(ties, axis=1) <= wanted))


def evaluate(
    scores: np.ndarray, targets: np.ndarray, ks: Sequence[int] = DEFAULT_TOP_K
) -> Evaluation:
    """Return mAP and the top-k figures of scores and targets ``[N, K]``."""
    return Evaluation(
        mean_ap=mean_average_precision(scores, targets),
        top=tuple(top_k(scores, targets, k) for k in ks),
        images=int((targets == 1).any(axis=1).sum()),
        classes=int((targets == 1).any(axis=0).sum()),
    )


def split_columns(seen: int, total: int) -> dict[str, slice]:
    """Return the columns of "seen" (the first ones), and with others "zsl" (those) and "gzsl"."""
    if seen == total:
        return {"seen": slice(None)}
    return {"seen": slice(seen), "zsl": slice(seen, None), "gzsl": slice(None)}


def evaluate_split(
    scores: np.ndarray, targets: np.ndarray, seen: int, ks: Sequence[int] = DEFAULT_TOP_K
) -> dict[str, Evaluation]:
    """Evaluate columns of which the first ``seen`` are seen labels and the rest unseen.

    Gives "seen"; with unseen labels also "zsl" (their columns alone) and "gzsl" (all columns).
    """
    _check(scores, targets)
    return {
        name: evaluate(scores[:, columns], targets[:, columns], ks)
        for name, columns in split_columns(seen, scores.shape[1]).items()
    }


def _check(scores: np.ndarray, targets: np.ndarray) -> None:
    if scores.shape != targets.shape or scores.ndim != 2:
        raise ValueError(
            f"scores {list(scores.shape)} and targets {list(targets.shape)} must both be [N, K]"
        )
    if not np.isfinite(scores).all():
        raise ValueError("scores must be finite; the model gave nan or infinity")

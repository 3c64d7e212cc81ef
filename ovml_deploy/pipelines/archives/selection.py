"""The best labels of many images at once, whatever the number of labels."""

import numpy as np

from ovml_deploy.pipelines.tag_blocks import Selected
from ovml_deploy.runtime.results import scores_of


class Selection:
    """The ``count`` best labels of each of ``images``, of logits that come a tile of labels at a time.

    The same tags as ``runtime.results.select_tags``, which takes one image's at once: ranked by
    calibrated logits, of equal ones the first in the vocabulary.
    """

    def __init__(self, images: int, count: int, softmax: bool) -> None:
        self._images, self._count = images, count
        self._kept: list[np.ndarray] | None = None
        self._softmax = softmax
        self._most = np.full(images, -np.inf)  # of all logits, and the sum of exp(logit - most)
        self._sum = np.zeros(images)

    def add(self, first: int, logits: np.ndarray, winners: np.ndarray, ranks: np.ndarray) -> None:
        """Take the tile of labels from ``first`` on: logits, winners, ranks, all ``[B, K]``."""
        if self._softmax:
            wide = np.asarray(logits, np.float64)
            most = np.maximum(self._most, wide.max(axis=1))
            self._sum *= np.exp(self._most - most)
            self._sum += np.exp(wide - most[:, None]).sum(axis=1)
            self._most = most
        rows, places = _candidates(ranks, self._count)
        values = (logits[rows, places], winners[rows, places], ranks[rows, places])
        found = [rows, places + first, *values]
        if self._kept is not None:
            found = [np.concatenate(pair) for pair in zip(self._kept, found, strict=True)]
        self._kept = self._best(found)

    def result(self, threshold: float | None) -> Selected:
        """Return the tags, those whose score reaches ``threshold``."""
        assert self._kept is not None
        rows, labels, logits, winners, ranks = self._kept
        if self._softmax:
            scores = np.exp(np.asarray(logits, np.float64) - self._most[rows]) / self._sum[rows]
        else:
            scores = scores_of(ranks, "sigmoid")
        if threshold is not None:
            good = scores >= threshold
            rows, labels, logits = rows[good], labels[good], logits[good]
            winners, scores = winners[good], scores[good]
        counts = np.bincount(rows, minlength=self._images)
        return Selected(counts, labels, scores, logits, winners)

    def _best(self, found: list[np.ndarray]) -> list[np.ndarray]:
        rows, labels, _, _, ranks = found
        order = np.lexsort((labels, -ranks, rows))
        rows = rows[order]
        counts = np.bincount(rows, minlength=self._images)
        starts = np.cumsum(counts) - counts
        order = order[np.arange(len(rows)) - starts[rows] < self._count]
        return [values[order] for values in found]


def _candidates(ranks: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of all ranks as good as a row's last that is kept."""
    wide = ranks.shape[1]
    if count >= wide:
        return np.divmod(np.arange(ranks.size), wide)
    last = np.partition(ranks, wide - count, axis=1)[:, wide - count]
    rows, places = np.nonzero(ranks >= last[:, None])
    return rows, places

"""What tagging returns, and how logits become tags."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np

from ovml_deploy.runtime.calibration import Calibration
from ovml_deploy.runtime.vocabulary import Vocabulary


@dataclass(frozen=True)
class Tag:
    """One label of one image.

    ``score``: in [0, 1]; with a calibrated vocabulary the probability that the label is right.
    ``logit``: as the model gave it. ``query``: the index of the feature that matched it best.
    """

    label: str
    score: float
    logit: float
    query: int


@dataclass(frozen=True)
class TagResult(Sequence[Tag]):
    """The tags of one image, best first, all from one vocabulary; or what went wrong with it."""

    source: str
    tags: tuple[Tag, ...]
    vocabulary_id: str
    error: str | None = None

    def __len__(self) -> int:
        return len(self.tags)

    def __iter__(self) -> Iterator[Tag]:
        return iter(self.tags)

    @overload
    def __getitem__(self, index: int) -> Tag: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Tag]: ...
    def __getitem__(self, index: int | slice) -> Tag | Sequence[Tag]:
        return self.tags[index]


def scores_of(
    logits: np.ndarray, activation: str, calibration: Calibration | None = None
) -> np.ndarray:
    """Logits ``[..., K]`` -> scores in [0, 1]: the one place where this is done.

    With a calibration, its probabilities, whatever the activation. Without one, "sigmoid" label by
    label or "softmax" over labels.
    """
    if calibration is not None:
        logits, activation = calibration.logits(logits), "sigmoid"
    logits = np.asarray(logits, dtype=np.float64)
    if activation == "softmax":
        exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
        return exponentials / exponentials.sum(axis=-1, keepdims=True)
    return 0.5 * (1.0 + np.tanh(0.5 * logits))  # a sigmoid that cannot overflow


def select_tags(
    logits: np.ndarray,
    winners: np.ndarray,
    vocabulary: Vocabulary,
    activation: str,
    top_k: int | None,
    threshold: float | None,
) -> tuple[Tag, ...]:
    """Return an image's tags, best first, from its logits and winners ``[K]``.

    ``top_k`` keeps at most so many, ``threshold`` those whose score reaches it; None stands for
    the threshold of the vocabulary's calibration, and for no threshold where there is none.
    """
    calibration = vocabulary.calibration
    if threshold is None and calibration is not None:
        threshold = calibration.threshold
    count = len(vocabulary) if top_k is None else min(top_k, len(vocabulary))
    scores = scores_of(logits, activation, calibration)
    # Ranked before the sigmoid, which makes all great logits the same 1.0.
    ranks = logits if calibration is None else calibration.logits(logits)
    # Every label as good as the last that is kept, so that ties stay in vocabulary order.
    last = np.partition(ranks, -count)[-count]
    best = np.flatnonzero(ranks >= last)
    best = best[np.lexsort((best, -ranks[best]))][:count]
    return tuple(
        Tag(vocabulary.labels[i], float(scores[i]), float(logits[i]), int(winners[i]))
        for i in best
        if threshold is None or scores[i] >= threshold
    )

"""Tags of many images, in columns."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ovml_deploy.runtime.results import Tag, TagResult
from ovml_deploy.runtime.vocabulary import Vocabulary


@dataclass(frozen=True)
class Selected:
    """Tags of ``B`` images in a row, image by image, best first.

    ``counts`` ``[B]``: how many each image has; the rest ``[T]``: ``labels`` (places in the
    vocabulary), ``scores`` (float64), ``logits`` (float32), ``queries`` (the winning features).
    """

    counts: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    logits: np.ndarray
    queries: np.ndarray

    def take(self, images: np.ndarray) -> "Selected":
        """Return the tags of these images only, in this order."""
        starts = np.cumsum(self.counts) - self.counts
        counts = self.counts[images]
        places = np.repeat(starts[images] - (np.cumsum(counts) - counts), counts)
        places += np.arange(len(places))
        rest = (self.labels, self.scores, self.logits, self.queries)
        return Selected(counts, *(values[places] for values in rest))


@dataclass(frozen=True)
class TagBlock:
    """The tags of some images: ``names`` (a list, or an Arrow array), and their tags in columns."""

    names: Any
    tags: Selected
    vocabulary: Vocabulary

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[TagResult]:
        """Yield each image's tags as a Tagger gives them."""
        tags, at, labels = self.tags, 0, self.vocabulary.labels
        for name, count in zip(self.name_list(), tags.counts.tolist(), strict=True):
            chosen = tuple(
                Tag(
                    labels[tags.labels[i]],
                    float(tags.scores[i]),
                    float(tags.logits[i]),
                    int(tags.queries[i]),
                )
                for i in range(at, at + count)
            )
            at += count
            yield TagResult(name, chosen, self.vocabulary.id)

    def name_list(self) -> list[str]:
        """Return the names as a list."""
        names: list[str] = self.names if isinstance(self.names, list) else self.names.to_pylist()
        return names

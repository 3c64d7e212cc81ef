"""What a picture may show: the classifier's classes and everything above them in WordNet."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from ovml_deploy.training.wordnet import WordNet

TRUE, FALSE, UNKNOWN = 1, 0, -1

_VISIBLE_TOPICS = ("05", "06", "13", "20")  # animals, artifacts, food, plants (lexnames(5WN))


class Taxonomy:
    """The ``kinds`` of things: the classes in the classifier's order, then their ancestors.

    A picture whose leaf is an ancestor ("frog") is of some class below it, but nobody says which.
    """

    def __init__(self, wordnet: WordNet, classes: Sequence[str]) -> None:
        self.wordnet = wordnet
        self.class_count = len(classes)
        above = dict.fromkeys(a for offset in classes for a in wordnet.ancestors(offset))
        self.kinds = tuple(dict.fromkeys([*classes, *above]))
        self.index = {offset: number for number, offset in enumerate(self.kinds)}
        self._is_a = torch.zeros(len(self.kinds), len(self.kinds), dtype=torch.bool)
        for number, offset in enumerate(self.kinds):
            self._is_a[number, [self.index[a] for a in wordnet.ancestors(offset)]] = True

    def __contains__(self, offset: str) -> bool:
        return offset in self.index

    def is_visible(self, offset: str) -> bool:
        """Whether a meaning is that of an animal, an artifact, food or a plant."""
        return self.wordnet.synsets[offset].topic in _VISIBLE_TOPICS

    def truth(self, synsets: Iterable[str]) -> Tensor:
        """Return int8 ``[kinds]``: of which kinds a word with these meanings is true.

        It is true of everything below a meaning, and unknown of what is above one.
        """
        columns = [self.index[offset] for offset in synsets]
        truth = torch.full((len(self.kinds),), FALSE, dtype=torch.int8)
        truth[self._is_a[columns].any(dim=0)] = UNKNOWN
        truth[self._is_a[:, columns].any(dim=1)] = TRUE
        return truth

    def class_counts(self) -> dict[str, int]:
        """Return how many classes each kind has below it, or is."""
        counts = self._is_a[: self.class_count].sum(dim=0).tolist()
        return dict(zip(self.kinds, counts, strict=True))

    def shown(self, contents: Sequence[Iterable[str]]) -> Tensor:
        """Return bool ``[images, kinds]`` of the offsets that each image shows."""
        shown = torch.zeros(len(contents), len(self.kinds), dtype=torch.bool)
        for row, offsets in enumerate(contents):
            shown[row, [self.index[offset] for offset in offsets]] = True
        return shown

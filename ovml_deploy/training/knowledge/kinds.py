"""Kinds of categories that are no categories themselves, as WordNet names them."""

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from itertools import pairwise

from ovml_deploy.training.knowledge.mentions import Mentions
from ovml_deploy.training.knowledge.words import words
from ovml_deploy.training.wordnet import VISIBLE_TOPICS, NounIndex, Synset, WordNet

_MOST_KINDS = 12
# Which kinds come first: those of WordNet's tagged texts, those its definitions often use, the near.
_COMMON_WEIGHT, _LEVEL_WEIGHT = 2.0, 0.5


class Kinds:
    """Finds kinds of the categories that have a synset in ``named``.

    ``taken`` tells what means a category already. No kind is named by one of the ``adjectives``:
    "a young man" is no young animal. ``offsets`` holds the synset of each kind found.
    """

    def __init__(
        self,
        named: Collection[str],
        taken: Mentions,
        wordnet: WordNet,
        index: NounIndex,
        adjectives: Collection[str],
    ) -> None:
        self._named, self._taken = named, taken
        self._wordnet, self._index, self._adjectives = wordnet, index, adjectives
        self.offsets: dict[str, str] = {}

    def find(self) -> dict[str, tuple[str, ...]]:
        """Return up to 12 kinds by the category's synset, the nearest and commonest first.

        What is below a category is a kind of the nearest one only: a poodle of dogs, and not of
        animals where dogs are a category.
        """
        used = _uses(self._wordnet)
        found = defaultdict[str, dict[str, tuple[float, str]]](dict)
        for offset, synset in self._wordnet.synsets.items():
            if synset.topic not in VISIBLE_TOPICS or synset.is_instance:
                continue
            above = self._wordnet.ancestors(offset)
            nearest = self._nearest([other for other in above if other in self._named])
            kind = self._name(synset) if nearest else None
            if kind is None or self._taken.named(kind):
                continue
            self.offsets[kind] = offset
            is_common = kind.lower() in self._index.common
            phrase = " ".join(words(kind))
            common = _COMMON_WEIGHT * is_common + math.log1p(used[phrase])
            for other in nearest:
                place = _LEVEL_WEIGHT * above.index(other) - common
                found[other].setdefault(phrase, (place, kind))
        return {
            offset: tuple(kind for _, kind in sorted(kinds.values())[:_MOST_KINDS])
            for offset, kinds in found.items()
        }

    def _nearest(self, offsets: Sequence[str]) -> list[str]:
        """Leave out those that are above others of them."""
        above = {a for offset in offsets for a in self._wordnet.ancestors(offset)[1:]}
        return [offset for offset in offsets if offset not in above]

    def _name(self, synset: Synset) -> str | None:
        """Return what people call a kind, in lower case if they do."""
        names = [
            name
            for name in synset.names
            if not self._is_latin(name, synset)
            and is_commonest(name, synset.offset, self._index)
            and name.lower() not in self._adjectives
        ]
        return next((name for name in names if name.islower()), names[0] if names else None)

    def _is_latin(self, name: str, synset: Synset) -> bool:
        """Say so of a capitalized name after the first, and of one that ends in no noun."""
        if name.islower():
            return False
        return name != synset.names[0] or name.split()[-1].lower() not in self._index.senses


def is_commonest(noun: str, offset: str, index: NounIndex) -> bool:
    """Say whether a synset is the commonest meaning of a noun."""
    return index.senses.get(noun.lower(), ("",))[0] == offset


def _uses(wordnet: WordNet) -> Counter[str]:
    """How often definitions and examples use each word, and each pair of words."""
    uses = Counter[str]()
    for synset in wordnet.synsets.values():
        for text in (synset.gloss, *synset.examples):
            found = words(text)
            uses.update(found)
            uses.update(map(" ".join, pairwise(found)))
    return uses

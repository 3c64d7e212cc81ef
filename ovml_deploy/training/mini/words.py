"""The words the model learns from, and those it is kept from so that they can measure it."""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ovml_deploy.training.data.text_files import read_lines
from ovml_deploy.training.mini.taxonomy import FALSE, TRUE, UNKNOWN, Taxonomy
from ovml_deploy.training.wordnet import NounIndex

_HERE = Path(__file__).parent
#: The vocabulary of the shipped bundle.
VOCABULARY_FILE = _HERE / "words.txt"
#: Everyday words that no part of the measured training sees, nor their synonyms and definitions.
EVERYDAY_FILE = _HERE / "everyday.txt"
#: Everyday words that hold for no class, though some are related to one ("tree" to "plant").
FOREIGN_FILE = _HERE / "foreign.txt"
#: Words for more classes than this ("artifact", "entity") say too little to be tags.
_MOST_CLASSES = 550
_UNSEEN_SHARE = 0.08
_VALIDATION_SHARE = 0.06
#: What is below a class or a visible kind may be true of its classes, unless the kind is a very
#: general one: above so many classes.
_GENERAL = 100
_MOST_FOREIGN = 3000


@dataclass(frozen=True)
class Words:
    """Texts and of which kinds of things each is true.

    ``truth[i, k]`` (int8) says whether text i, a name or a definition, holds for kind k of the
    taxonomy: 1, 0, or -1 where that is unknown.
    """

    texts: tuple[str, ...]
    truth: Tensor

    def true_of(self, shown: Tensor) -> Tensor:
        """Return int8 targets ``[images, words]`` of images that show ``shown [images, kinds]``."""
        positive = shown.float() @ (self.truth == TRUE).T.float() > 0
        unknown = shown.float() @ (self.truth == UNKNOWN).T.float() > 0
        targets = torch.where(unknown, UNKNOWN, FALSE)
        return torch.where(positive, TRUE, targets).to(torch.int8)

    def plus(self, other: "Words") -> "Words":
        """Return these words and the other's."""
        return Words(self.texts + other.texts, torch.cat([self.truth, other.truth]))

    def lookup(self, texts: Sequence[str]) -> "Words":
        """Return those of the texts that are among these words."""
        row = {text: index for index, text in enumerate(self.texts)}
        chosen = [text for text in texts if text in row]
        return Words(tuple(chosen), self.truth[[row[text] for text in chosen]])


@dataclass(frozen=True)
class WordSplit:
    """Words to train on, and words kept from training with all that means the same.

    Seen and unseen are split by meaning: no synonym or definition of a withheld meaning is among
    the training texts. ``names`` are all training names and ``definitions`` theirs, ``seen_labels``
    the first name of each seen meaning. Withheld are ``validation`` (to choose by), ``everyday``
    and ``unseen`` (to measure by). ``all_names`` holds every name, for the shipped fit;
    ``foreign`` common nouns that hold for no class ("sky", "music"), to be scored low.
    """

    names: Words
    definitions: Words
    seen_labels: Words
    validation: Words
    everyday: Words
    unseen: Words
    all_names: Words
    all_definitions: Words
    foreign: Words

    def unseen_labels(self) -> Words:
        """Return everyday and unseen words; no word is both."""
        return self.everyday.plus(self.unseen)


def split_words(taxonomy: Taxonomy, everyday: Sequence[str], index: NounIndex) -> WordSplit:
    """Collect names and definitions of all kinds; withhold the everyday ones and two random shares.

    The draw has a fixed seed. Foreign words are found among the common nouns of ``index``.
    """
    names, definitions = _collect(taxonomy)
    kinds = [kind for kind, count in taxonomy.class_counts().items() if count <= _MOST_CLASSES]
    kept = {synset for text in everyday for synset in names.get(text, ())}
    free = [kind for kind in kinds if kind not in kept]
    shuffled = random.Random(0).sample(free, len(free))
    unseen_count, validation_count = (
        int(len(free) * share) for share in (_UNSEEN_SHARE, _VALIDATION_SHARE)
    )
    unseen = set(shuffled[:unseen_count])
    validation = set(shuffled[unseen_count : unseen_count + validation_count])
    withheld = kept | unseen | validation
    usable = set(kinds)

    def without(found: dict[str, set[str]], excluded: set[str]) -> Words:
        return _words(
            taxonomy, {t: s for t, s in found.items() if s <= usable and not s & excluded}
        )

    def labels(chosen: set[str]) -> Words:
        """First names all of whose meanings are chosen: "printer" may be half seen."""
        first = {taxonomy.wordnet.names(kind)[0] for kind in chosen}
        return _words(taxonomy, {t: s for t, s in names.items() if t in first and s <= chosen})

    return WordSplit(
        names=without(names, withheld),
        definitions=without(definitions, withheld),
        seen_labels=labels(usable - withheld),
        validation=labels(validation),
        everyday=_words(taxonomy, {text: names.get(text, set()) for text in everyday}),
        unseen=labels(unseen),
        all_names=without(names, set()),
        all_definitions=without(definitions, set()),
        foreign=_words(taxonomy, {text: set() for text in _foreign(taxonomy, index.common)}),
    )


def _collect(taxonomy: Taxonomy) -> tuple[dict[str, set[str]], dict[str, set[str]]]:
    """Return the meanings of each name and of each definition."""
    names: dict[str, set[str]] = {}
    definitions: dict[str, set[str]] = {}
    for kind in taxonomy.kinds:
        synset = taxonomy.wordnet.synsets[kind]
        definitions.setdefault(synset.gloss, set()).add(kind)
        for name in synset.names:
            names.setdefault(name, set()).add(kind)
    return names, definitions


def _foreign(taxonomy: Taxonomy, common: Iterable[str]) -> list[str]:
    """List FOREIGN_FILE, then draw common nouns without relation to any class.

    They name no class, nothing above one, and nothing below a kind of them.
    """
    wordnet = taxonomy.wordnet
    kinds = {
        kind
        for kind, count in taxonomy.class_counts().items()
        if count <= _GENERAL and taxonomy.is_visible(kind)
    }
    related = set[str]()
    for synset in wordnet.synsets.values():
        if synset.offset in taxonomy or not kinds.isdisjoint(wordnet.ancestors(synset.offset)):
            related.update(name.lower() for name in synset.names)
    foreign = sorted(set(common) - related)
    drawn = random.Random(0).sample(foreign, min(len(foreign), _MOST_FOREIGN))
    return [*read_lines(FOREIGN_FILE), *drawn]


def _words(taxonomy: Taxonomy, found: dict[str, set[str]]) -> Words:
    rows = [taxonomy.truth(sorted(synsets)) for synsets in found.values()]
    empty = torch.zeros(0, len(taxonomy.kinds), dtype=torch.int8)
    return Words(tuple(found), torch.stack(rows) if rows else empty)

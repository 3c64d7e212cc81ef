"""The words the model learns from, and those it is kept from so that they can measure it."""

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ovml_deploy.training.mini.wordnet import WordNet

_HERE = Path(__file__).parent
#: The vocabulary of the shipped bundle.
VOCABULARY_FILE = _HERE / "words.txt"
#: Everyday words that no part of the training sees.
EVERYDAY_FILE = _HERE / "everyday.txt"
#: Everyday words that hold for no class, though some are related to one ("tree" to "plant").
FOREIGN_FILE = _HERE / "foreign.txt"
#: Words for more classes than this ("artifact", "entity") say too little to be tags.
_MOST_CLASSES = 550
_VALIDATION_SHARE = 0.05
#: What is below a class or a kind of these topics may be true of its classes: animals, artifacts,
#: food and plants (lexnames(5WN)), unless the kind is a very general one.
_VISIBLE_TOPICS = ("05", "06", "13", "20")
_GENERAL = 100
_MOST_FOREIGN = 3000


@dataclass(frozen=True)
class Words:
    """Texts and the ImageNet classes that each is true of.

    ``truth[i, c]`` says whether text i (a name or a definition) holds for class c.
    """

    texts: tuple[str, ...]
    truth: Tensor

    def true_of(self, classes: Tensor) -> Tensor:
        """Return which words are true of images of ``classes [images, C]``: ``[images, words]``."""
        return (classes.float() @ self.truth.T.float()) > 0

    def plus(self, other: "Words") -> "Words":
        """Return these words and the other's."""
        return Words(self.texts + other.texts, torch.cat([self.truth, other.truth]))


@dataclass(frozen=True)
class WordSplit:
    """Training names, their definitions, and two sets of names kept from training.

    ``foreign`` are common nouns that hold for no class ("sky", "music"), to be scored low.
    """

    names: Words
    definitions: Words
    validation: Words
    everyday: Words
    foreign: Words

    def all_names(self) -> Words:
        """Return every name, those kept from training included."""
        return self.names.plus(self.validation).plus(self.everyday)

    def lookup(self, texts: Sequence[str]) -> Words:
        """Return those of the texts that are among all names."""
        known = self.all_names()
        row = {text: index for index, text in enumerate(known.texts)}
        chosen = [text for text in texts if text in row]
        return Words(tuple(chosen), known.truth[[row[text] for text in chosen]])


def read_lines(path: Path) -> list[str]:
    """Return a UTF-8 file's lines that are not empty."""
    return [line.strip() for line in path.read_text("utf-8").splitlines() if line.strip()]


def split_words(
    wordnet: WordNet, offsets: Sequence[str], everyday: Sequence[str], common: Iterable[str]
) -> WordSplit:
    """Collect names and definitions of the classes ``offsets`` and of all that is above them.

    A twentieth of the names, drawn with a fixed seed, is for validation. ``common`` are the nouns
    among which foreign ones are found.
    """
    names = _collect(wordnet, offsets, definitions=False)
    definitions = _collect(wordnet, offsets, definitions=True)
    usable = [text for text, classes in names.items() if len(classes) <= _MOST_CLASSES]
    free = [text for text in usable if text not in set(everyday)]
    shuffled = random.Random(0).sample(free, len(free))
    cut = int(len(free) * _VALIDATION_SHARE)
    count = len(offsets)
    return WordSplit(
        names=_words({text: names[text] for text in shuffled[cut:]}, count),
        definitions=_words(
            {t: c for t, c in definitions.items() if len(c) <= _MOST_CLASSES}, count
        ),
        validation=_words({text: names[text] for text in shuffled[:cut]}, count),
        everyday=_words({text: names.get(text, set()) for text in everyday}, count),
        foreign=_words({text: set() for text in _foreign(wordnet, offsets, common)}, count),
    )


def _foreign(wordnet: WordNet, offsets: Sequence[str], common: Iterable[str]) -> list[str]:
    """List FOREIGN_FILE, then draw common nouns without relation to any class.

    They name no class, nothing above one, and nothing below a kind of them.
    """
    above = Counter(ancestor for offset in offsets for ancestor in wordnet.ancestors(offset))
    kinds = {
        offset
        for offset, count in above.items()
        if count <= _GENERAL and wordnet.synsets[offset].topic in _VISIBLE_TOPICS
    }
    related = set[str]()
    for synset in wordnet.synsets.values():
        if synset.offset in above or not kinds.isdisjoint(wordnet.ancestors(synset.offset)):
            related.update(name.lower() for name in synset.names)
    foreign = sorted(set(common) - related)
    drawn = random.Random(0).sample(foreign, min(len(foreign), _MOST_FOREIGN))
    return [*read_lines(FOREIGN_FILE), *drawn]


def _collect(wordnet: WordNet, offsets: Sequence[str], *, definitions: bool) -> dict[str, set[int]]:
    found: dict[str, set[int]] = {}
    for index, offset in enumerate(offsets):
        for ancestor in wordnet.ancestors(offset):
            synset = wordnet.synsets[ancestor]
            for text in (synset.gloss,) if definitions else synset.names:
                found.setdefault(text, set()).add(index)
    return found


def _words(found: dict[str, set[int]], class_count: int) -> Words:
    truth = torch.zeros(len(found), class_count, dtype=torch.bool)
    for row, classes in enumerate(found.values()):
        truth[row, sorted(classes)] = True
    return Words(tuple(found), truth)

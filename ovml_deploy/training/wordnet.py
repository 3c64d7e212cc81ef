"""WordNet's nouns: names, glosses and relations, from the files of Debian's ``wordnet-base``."""

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

from ovml_deploy.errors import DataError

DATA_FILE = Path("/usr/share/wordnet/data.noun")
INDEX_FILE = Path("/usr/share/wordnet/index.noun")
_HYPERNYM, _INSTANCE_OF, _PART = "@", "@i", "%p"
_WHOLES, _GROUP = ("#p", "#s"), "#m"  # what this is a part or the substance of, or a member of
#: What a photograph can show (lexnames(5WN)): the few topmost things, animals, artifacts, bodies,
#: food, natural objects, persons, plants.
VISIBLE_TOPICS = ("03", "05", "06", "08", "13", "17", "18", "20")
# How a meaning is chosen; of 1,396 words whose meaning ImageNet gives, 95% get it.
_SENSES = 12
_RANK_WEIGHT, _KIN_WEIGHT = 3.0, 0.4
_MOST_KIN = 8.0
# How definitions are cut into phrases.
_MOST_WORDS = 10
_ASIDE = re.compile(r"\s*\([^)]*\)|\s*\"[^\"]*\"")
_PLACES = "in|on|at|near|under|along"
_ADVERBS = "usually|often|typically|especially|sometimes|chiefly"
_LEAD = re.compile(
    rf"^(any of (various |several |numerous |many )?(the )?|(any|an|a|the|{_ADVERBS}) )"
)
_MODIFIERS = "having|with|that|consisting|containing|resembling|covered|made|used|found|worn"
_BREAK = re.compile(
    rf",?\s+(?=(?:(?:{_ADVERBS}) )?(?:{_MODIFIERS}|native|for|{_PLACES}) (?!which|whom))"
)
_OPEN = re.compile(
    rf"\b(\w+ed|found|made|worn|kept|native|occurs|or|and|of|to|than|such as|capable|\w+ing|{_ADVERBS})$"
)
_CLAUSE, _TRAIL = re.compile(rf"({_MODIFIERS}) "), re.compile(rf"(for|{_PLACES}) ")
_VAGUE = re.compile(r"\b(order|form|length|diameter|particular|general|least|size|shape)\b")


@dataclass(frozen=True)
class Synset:
    """One meaning: its topic, synonyms, hypernyms, definition, parts, wholes, groups it may be in.

    Other meanings are given by their offsets. ``is_instance`` says that it is a single thing with a
    proper name ("Stephen Crane"), no kind.
    """

    offset: str
    topic: str  # number of the lexicographer's file (lexnames(5WN)): "05" is animals
    names: tuple[str, ...]
    hypernyms: tuple[str, ...]
    gloss: str
    examples: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()
    wholes: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    is_instance: bool = False


def parse_synset(line: str) -> Synset:
    """Parse one line of ``data.noun`` (wndb(5WN)). Raises ValueError or IndexError if malformed."""
    data, _, gloss = line.partition("|")
    fields = data.split()
    word_count = int(fields[3], 16)
    names = tuple(word.replace("_", " ") for word in fields[4 : 4 + 2 * word_count : 2])
    pointer_count = int(fields[4 + 2 * word_count])
    start = 5 + 2 * word_count
    pointers = [
        (fields[place], f"n{fields[place + 1]}")
        for place in range(start, start + 4 * pointer_count, 4)
    ]

    def targets(*symbols: str) -> tuple[str, ...]:
        return tuple(target for symbol, target in pointers if symbol in symbols)

    definition, *examples = gloss.replace(';  "', '; "').split('; "')
    return Synset(
        offset=f"n{fields[0]}",
        topic=fields[1],
        names=names,
        hypernyms=targets(_HYPERNYM, _INSTANCE_OF),
        gloss=definition.strip(),
        examples=tuple(example.strip().strip('"') for example in examples),
        parts=targets(_PART),
        wholes=targets(*_WHOLES),
        groups=targets(_GROUP),
        is_instance=bool(targets(_INSTANCE_OF)),
    )


def gloss_phrases(gloss: str) -> Iterator[str]:
    """Cut a definition into short phrases: "feline mammal", "having thick soft fur".

    Places and purposes stay with the clause that they end; long and vague phrases are left out.
    """
    for clause in re.split(r"[;:]", _ASIDE.sub("", gloss)):
        pieces: list[str] = []
        for piece in (piece.strip(" ,.") for piece in _BREAK.split(clause)):
            if pieces and (
                _OPEN.search(pieces[-1]) or (_CLAUSE.match(pieces[-1]) and _TRAIL.match(piece))
            ):
                pieces[-1] += f" {piece}"
            elif piece:
                pieces.append(piece)
        for piece in pieces:
            phrase = _LEAD.sub("", piece)
            if phrase and len(phrase.split()) <= _MOST_WORDS and not _VAGUE.search(phrase):
                yield phrase


class WordNet:
    """Noun synsets by offset ("n02123045", which is also how ImageNet names its classes)."""

    def __init__(self, synsets: Iterable[Synset]) -> None:
        self.synsets = {synset.offset: synset for synset in synsets}

    @classmethod
    def load(cls, path: Path = DATA_FILE) -> "WordNet":
        """Read ``data.noun``. Raises DataError where it is absent or not WordNet's."""
        lines = _lines(path)
        try:
            return cls([parse_synset(line) for line in lines])
        except (ValueError, IndexError) as error:
            raise DataError(f"{path} is not a WordNet data file: {error}") from error

    def ancestors(self, offset: str) -> tuple[str, ...]:
        """Return the offset itself and everything above it, nearest first, each once."""
        seen = {offset: None}
        queue = [offset]
        for current in queue:
            for parent in self.synsets[current].hypernyms:
                if parent not in seen:
                    seen[parent] = None
                    queue.append(parent)
        return tuple(seen)

    def names(self, offset: str) -> tuple[str, ...]:
        """Return the synonyms of a synset, as people write them."""
        return self.synsets[offset].names

    @cached_property
    def generality(self) -> Counter[str]:
        """How many synsets are at or below each: few for a specific one."""
        return Counter(above for offset in self.synsets for above in self.ancestors(offset))

    @cached_property
    def topic_sizes(self) -> Counter[str]:
        """How many synsets each topic has."""
        return Counter(synset.topic for synset in self.synsets.values())


class NounIndex:
    """The meanings of each noun, the commonest first, and which nouns are common.

    ``ranked`` counts how many of a noun's meanings occur in WordNet's tagged texts (tagsense_cnt);
    the order of the others says nothing.
    """

    def __init__(self, lines: Iterable[str]) -> None:
        self.senses: dict[str, tuple[str, ...]] = {}
        self.ranked: dict[str, int] = {}
        for line in lines:
            fields = line.split()
            noun, sense_count = fields[0].replace("_", " "), int(fields[2])
            self.senses[noun] = tuple(f"n{offset}" for offset in fields[-sense_count:])
            self.ranked[noun] = int(fields[-sense_count - 1])
        self.common = {noun for noun, count in self.ranked.items() if count}

    @classmethod
    def load(cls, path: Path = INDEX_FILE) -> "NounIndex":
        """Read ``index.noun`` (wndb(5WN)). Raises DataError where it is absent or not WordNet's."""
        lines = _lines(path)
        try:
            return cls(lines)
        except (ValueError, IndexError) as error:
            raise DataError(f"{path} is not a WordNet index file: {error}") from error

    def rank(self, noun: str, offset: str) -> int:
        """Return the place of a meaning among the noun's, 0 the commonest."""
        return min(self.senses[noun].index(offset), self.ranked[noun])


@dataclass(frozen=True)
class Meaning:
    """What a name means: a synset, and whether the whole name is the noun, not its last words."""

    offset: str
    is_exact: bool


def find_meanings(names: Sequence[str], wordnet: WordNet, index: NounIndex) -> dict[str, Meaning]:
    """Return the meaning of each name that WordNet knows, by the name, its singular or last words.

    Of several meanings a common and visible one is taken that fits the list: a crane is a bird among
    herons, and a machine among trucks.
    """
    nouns = {name: noun for name in names if (noun := _find_noun(name, index)) is not None}
    senses = {name: _senses(name, noun, wordnet, index) for name, noun in nouns.items()}
    senses = {name: found for name, found in senses.items() if found}
    chosen = {name: found[0] for name, found in senses.items()}
    for kin_weight in (0.0, _KIN_WEIGHT):  # the topics first: kin need good first guesses
        fit = _Fit(chosen, wordnet)
        score = partial(_score, fit, index, kin_weight)
        chosen = {
            name: max(found, key=partial(score, name, nouns[name]))
            for name, found in senses.items()
        }
    return {
        name: Meaning(offset, is_exact=len(nouns[name].split()) == len(_words(name)))
        for name, offset in chosen.items()
    }


def _score(
    fit: "_Fit", index: NounIndex, kin_weight: float, name: str, noun: str, offset: str
) -> float:
    kin = kin_weight * fit.kin(name, offset) if kin_weight else 0.0
    return fit.topic(offset) + kin - _RANK_WEIGHT * index.rank(noun, offset)


class _Fit:
    """How well a meaning fits those chosen for the names of a list."""

    def __init__(self, chosen: dict[str, str], wordnet: WordNet) -> None:
        self._chosen, self._wordnet = chosen, wordnet
        self._topics = Counter(wordnet.synsets[offset].topic for offset in chosen.values())
        self._above = Counter(a for offset in chosen.values() for a in wordnet.ancestors(offset))

    def topic(self, offset: str) -> float:
        """Log of how much commoner the meaning's topic is in the list than in WordNet."""
        topic, sizes = self._wordnet.synsets[offset].topic, self._wordnet.topic_sizes
        share = (self._topics[topic] + 1) / (len(self._chosen) + len(sizes))
        return math.log(share * len(self._wordnet.synsets) / sizes[topic])

    def kin(self, name: str, offset: str) -> float:
        """Information (nats) of the closest hypernym shared with another name, at most 8."""
        own = set(self._wordnet.ancestors(self._chosen[name]))
        sizes = [
            self._wordnet.generality[above]
            for above in self._wordnet.ancestors(offset)
            if self._above[above] > (above in own)
        ]
        information = math.log(len(self._wordnet.synsets) / min(sizes)) if sizes else 0.0
        return min(information, _MOST_KIN)


def _words(name: str) -> list[str]:
    return name.lower().replace("_", " ").split()


def _find_noun(name: str, index: NounIndex) -> str | None:
    words = _words(name)
    for start in range(len(words)):
        for noun in _singulars(" ".join(words[start:])):
            for spelling in (noun, noun.replace("-", " "), noun.replace(" ", "-")):
                if spelling in index.senses:
                    return spelling
    return None


def _singulars(noun: str) -> Iterator[str]:
    yield noun
    for ending, singular in (("ies", "y"), ("men", "man"), ("es", ""), ("s", "")):
        if noun.endswith(ending) and not noun.endswith("ss"):
            yield noun.removesuffix(ending) + singular


def _senses(name: str, noun: str, wordnet: WordNet, index: NounIndex) -> list[str]:
    """Return the noun's visible senses or else its first; "crane" is no Mr Crane."""
    senses = [o for o in index.senses[noun] if not wordnet.synsets[o].is_instance]
    senses = [o for o in senses if name in wordnet.names(o)] or senses
    visible = [o for o in senses[:_SENSES] if wordnet.synsets[o].topic in VISIBLE_TOPICS]
    return visible or senses[:1]


def _lines(path: Path) -> list[str]:
    if not path.is_file():
        raise DataError(
            f"WordNet's nouns are not at {path}. Install them: apt-get install wordnet-base"
        )
    lines = path.read_text("utf-8").splitlines()
    return [line for line in lines if not line.startswith("  ")]  # those are the licence

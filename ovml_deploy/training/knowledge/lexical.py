"""Knowledge without a language model: what WordNet's definitions and relations say."""

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from itertools import combinations

from ovml_deploy.errors import UsageError
from ovml_deploy.training.knowledge.captions import LOOKS, Captions, with_article
from ovml_deploy.training.knowledge.file import (
    CO_OCCURS,
    SHARES,
    Category,
    Knowledge,
    Relation,
    check_categories,
)
from ovml_deploy.training.knowledge.kinds import Kinds, is_commonest
from ovml_deploy.training.knowledge.mentions import Mentions
from ovml_deploy.training.knowledge.words import words
from ovml_deploy.training.wordnet import (
    INDEX_FILE,
    NounIndex,
    Synset,
    WordNet,
    find_meanings,
    gloss_phrases,
)

SOURCE = "WordNet 3.0"
_ADJECTIVES_FILE = INDEX_FILE.with_name("index.adj")  # in the form of the nouns
_MOST_ATTRIBUTES, _MOST_CONTEXTS, _MOST_PARTS = 8, 4, 3
_NEAR = 3  # so many hypernyms lend their parts
_PARTS = ("05", "06", "08", "17", "20")  # topics: no cells, no personality
_MOST_RELATIONS, _MOST_CO_OCCURRENCES = 12, 6
# A shared hypernym relates what is below it unless it is general: has more synsets below it. One
# like "device" relates only those that have few closer relations.
_CLOSE, _FAR, _FEW = 800, 3500, 3
_CONTEXT = re.compile(r"(used|worn|found|native|for|in|on|at|near|under|along) ")


def lexical_knowledge(
    names: Iterable[str], *, sentences_per_category: int = 16, seed: int = 0
) -> Knowledge:
    """Return what WordNet knows of the named categories, with captions of imagined photographs.

    A name that WordNet lacks gets sentences only. Raises LabelError for names that cannot be
    categories, UsageError for a count below 1, DataError where WordNet is not installed.
    """
    if sentences_per_category < 1:
        raise UsageError(f"{sentences_per_category} sentences for a category; ask for at least 1.")
    adjectives = NounIndex.load(_ADJECTIVES_FILE).senses
    lexicon = Lexicon(check_categories(names), WordNet.load(), NounIndex.load(), adjectives)
    return lexicon.knowledge(sentences_per_category, seed)


class Lexicon:
    """A list of categories, and what WordNet says of each.

    No kind of a category is named by one of the ``adjectives``: "a young man" is no young animal.
    """

    def __init__(
        self,
        names: Sequence[str],
        wordnet: WordNet,
        index: NounIndex,
        adjectives: Collection[str] = (),
    ) -> None:
        self.wordnet, self.index, self._adjectives = wordnet, index, adjectives
        self.meanings = find_meanings(names, wordnet, index)
        self._taken = {" ".join(words(name)) for name in names}
        self._named = defaultdict[str, list[str]](list)  # the categories that name a synset
        for name, meaning in self.meanings.items():
            if meaning.is_exact:
                self._named[meaning.offset].append(name)
        self.names = tuple(names)
        self._offsets = {name: meaning.offset for name, meaning in self.meanings.items()}
        self._by_name = self._with_kinds([self._category(name) for name in names])
        self.categories = tuple(self._by_name.values())
        self.mentions = Mentions(self.categories)

    def __getitem__(self, name: str) -> Category:
        return self._by_name[name]

    def knowledge(self, sentences_per_category: int, seed: int) -> Knowledge:
        """Return what is known, and captions."""
        relations = self.relations()
        captions = Captions(self, relations)
        sentences = tuple(captions.write(sentences_per_category, seed))
        return Knowledge(SOURCE, self.categories, relations, sentences)

    def relations(self) -> tuple[Relation, ...]:
        """Return who shares a close hypernym, or is part of or defined by the other.

        The closest come first, as long as both have room for more.
        """
        shared = self._shared_generality()
        together = [pair for pair in self._together() if shared.get(pair, _FAR) > _CLOSE]
        degree = Counter(name for pair in together for name in pair)
        room = Counter[str]()
        found = dict[tuple[str, str], str]()
        for pair in sorted(together, key=lambda pair: (max(degree[name] for name in pair), pair)):
            if max(room[name] for name in pair) < _MOST_CO_OCCURRENCES:
                room.update(pair)
                found[pair] = CO_OCCURS
        for size, pair in sorted((size, pair) for pair, size in shared.items()):
            fewest, most = sorted(room[name] for name in pair)
            is_wanted = size <= _CLOSE or fewest < _FEW
            if is_wanted and most < _MOST_RELATIONS and pair not in found:
                room.update(pair)
                found[pair] = SHARES
        return tuple(Relation(*pair, kind) for pair, kind in found.items())

    def below(self, nouns: str) -> frozenset[str]:
        """Return the categories, and kinds of any, that are one of the nouns of "food, beverage"."""
        roots = {
            m.offset for m in find_meanings(nouns.split(", "), self.wordnet, self.index).values()
        }
        return frozenset(
            name
            for name, offset in self._offsets.items()
            if not roots.isdisjoint(self.wordnet.ancestors(offset))
        )

    def definition(self, name: str) -> str:
        """Return the first clause of what WordNet says a category is; empty where it lacks it."""
        if name not in self.meanings or not self.meanings[name].is_exact:
            return ""
        return re.split(r"[;:]", re.sub(r"\([^)]*\)\s*", "", self._synset(name).gloss))[0].strip()

    def _category(self, name: str) -> Category:
        if name not in self.meanings:
            return Category(name)
        synset = self._synset(name)
        phrases = [phrase for phrase in gloss_phrases(synset.gloss) if " " in phrase]
        looks = [word for word in words(phrases[0]) if word in LOOKS] if phrases else []
        parts = [f"has {with_article(part)}" for part in self._parts(synset)]
        wholes = [f"as part of {with_article(whole)}" for whole in self._names(synset.wholes)]
        groups = [f"in {with_article(group)}" for group in self._names(synset.groups)]
        contexts = [phrase for phrase in phrases if _CONTEXT.match(phrase)]
        attributes = [phrase for phrase in phrases if phrase not in contexts]
        return Category(
            name,
            self._synonyms(name, synset),
            tuple(dict.fromkeys([*looks, *attributes, *parts]))[:_MOST_ATTRIBUTES],
            tuple(dict.fromkeys([*contexts, *groups, *wholes]))[:_MOST_CONTEXTS],
            self._broader(name),
        )

    def _synset(self, name: str) -> Synset:
        return self.wordnet.synsets[self.meanings[name].offset]

    def _synonyms(self, name: str, synset: Synset) -> tuple[str, ...]:
        """Other names of the synset that mean nothing commoner, and no other category."""
        if not self.meanings[name].is_exact:
            return ()
        return tuple(
            other
            for other in synset.names
            if " ".join(words(other)) not in self._taken
            and is_commonest(other, synset.offset, self.index)
        )

    def _broader(self, name: str) -> tuple[str, ...]:
        """Of categories that mean the same, the later is a kind of the earlier."""
        meaning = self.meanings[name]
        first, *above = self.wordnet.ancestors(meaning.offset)
        same = self._named[first]
        same = same[: same.index(name)] if meaning.is_exact else same
        return (*same, *(other for a in above for other in self._named.get(a, ())))

    def _with_kinds(self, categories: Sequence[Category]) -> dict[str, Category]:
        kinds = Kinds(self._named, Mentions(categories), self.wordnet, self.index, self._adjectives)
        found = kinds.find()
        self._offsets |= kinds.offsets
        by_name = {
            name: found.get(offset, ()) for offset, named in self._named.items() for name in named
        }
        return {item.name: replace(item, kinds=by_name.get(item.name, ())) for item in categories}

    def _near(self, synset: Synset) -> list[Synset]:
        near = self.wordnet.ancestors(synset.offset)[: _NEAR + 1]
        return [self.wordnet.synsets[offset] for offset in near]

    def _parts(self, synset: Synset) -> list[str]:
        offsets = [part for near in self._near(synset) for part in near.parts]
        return self._names(o for o in offsets if self.wordnet.synsets[o].topic in _PARTS)[
            :_MOST_PARTS
        ]

    def _names(self, offsets: Iterable[str]) -> list[str]:
        """Return what people call some synsets: no Latin, and no word that means another thing."""
        found = {offset: self.wordnet.names(offset)[0] for offset in offsets}
        return [n for o, n in found.items() if n.islower() and is_commonest(n, o, self.index)]

    def _shared_generality(self) -> dict[tuple[str, str], int]:
        """For pairs of categories, the size of the smallest hypernym that both have."""
        below = defaultdict[str, list[str]](list)
        found: dict[tuple[str, str], int] = {}
        for name, meaning in self.meanings.items():
            for other in self[name].broader[:1]:  # related, however general
                pair = (min(name, other), max(name, other))
                found[pair] = self.wordnet.generality[self.meanings[other].offset]
            for above in self.wordnet.ancestors(meaning.offset):
                if self.wordnet.generality[above] <= _FAR:
                    below[above].append(name)
        for above, names in below.items():
            size = self.wordnet.generality[above]
            for pair in combinations(sorted(names), 2):
                found[pair] = min(size, found.get(pair, size))
        return found

    def _together(self) -> set[tuple[str, str]]:
        """Pairs where one is a part of, or occurs in the definition of, the other."""
        found = set[tuple[str, str]]()
        kin = {category.name: set(category.broader) for category in self.categories}
        for name in self.meanings:
            synset = self._synset(name)
            near = [*(p for above in self._near(synset) for p in above.parts), *synset.wholes]
            others = {other for part in near for other in self._named.get(part, ())}
            others.update(*map(self.mentions.find, gloss_phrases(synset.gloss)))
            for other in others - {name} - kin[name]:
                if name not in kin[other]:
                    found.add((min(name, other), max(name, other)))
        return found

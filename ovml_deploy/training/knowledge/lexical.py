"""Knowledge without a language model: what WordNet's definitions and relations say."""

import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations

from ovml_deploy.errors import UsageError
from ovml_deploy.training.knowledge.file import (
    CO_OCCURS,
    SHARES,
    Category,
    Knowledge,
    Relation,
    Sentence,
    check_categories,
)
from ovml_deploy.training.knowledge.mentions import Mentions
from ovml_deploy.training.knowledge.words import other_numbers, words
from ovml_deploy.training.wordnet import NounIndex, Synset, WordNet, find_meanings, gloss_phrases

SOURCE = "WordNet 3.0"
_MOST_ATTRIBUTES, _MOST_CONTEXTS, _MOST_PARTS = 8, 4, 3
_NEAR = 3  # so many hypernyms lend their parts
_PARTS = ("05", "06", "08", "17", "20")  # topics: no cells, no personality
_MOST_RELATIONS, _MOST_CO_OCCURRENCES = 12, 6
# A shared hypernym relates what is below it unless it is general: has more synsets below it. One
# like "device" relates only those that have few closer relations.
_CLOSE, _FAR, _FEW = 800, 3500, 3
_CONTEXT = re.compile(r"(used|worn|found|native|for|in|on|at|near|under|along) ")
_MODIFIER = re.compile(r"(having|with|that|consisting|containing|resembling|covered|made) ")
_VOWEL = re.compile(
    r"(?!uni(?![dnm])|us[eu]|ut[ei]|eu|ewe|one\b|ukulele)[aeiou]|hour|heir|honest", re.I
)
_MOST_WORDS = 16
_LOOKS = frozenset(
    {"small", "large", "tall", "long", "short", "thin", "thick", "slender", "round", "flat",
     "heavy", "soft", "hard", "striped", "spotted", "black", "white", "brown", "grey", "red",
     "yellow", "green", "blue", "colorful", "shiny", "furry", "hairy", "woolly", "feathered",
     "wooden", "horned", "tropical", "wild", "domestic", "young", "electric", "portable"}
)  # fmt: skip
#: Where things are photographed together, by what they are kinds of.
_SCENES = {
    "on a kitchen counter": "food, beverage, kitchen utensil, kitchen appliance, crockery, vegetable",
    "on a table": "food, tableware, cutlery, edible fruit, bottle, timepiece, candle, portable computer",
    "in a living room": "furniture, home appliance, domestic cat, electronic equipment, furnishing",
    "in an office": "office furniture, computer, peripheral, writing implement, telephone, timepiece",
    "on a street": "motor vehicle, wheeled vehicle, building, signal, person, dog, street sign",
    "by the water": "boat, ship, seabird, wading bird, bridge, waterfowl, pier",
    "under water": "fish, crustacean, mollusk, aquatic mammal, coelenterate, echinoderm",
    "in the sky": "aircraft, bird of prey, seabird, balloon",
    "in a meadow": "ungulate, insect, flower, farm machine, dog, toad, shrub",
    "in a forest": "carnivore, rodent, bird, fungus, reptile, ape, monkey, arachnid, amphibian, tree",
    "on a stage": "musical instrument, microphone, singer, curtain",
    "in a wardrobe": "clothing, footwear, headdress, bag, fabric",
    "in a workshop": "tool, machine, fastener, measuring instrument, scientific instrument",
    "on a sports field": "sports equipment, ball, athlete, protective garment",
    "in a garden": "plant, songbird, butterfly, garden tool, fence, vegetable, snail, bee",
}
_ALONE = (
    "a photo of {0}", "a photo of {0}{at}", "a close-up of {0}", "{0}{at}", "a picture of {0}{at}",
    "a blurry picture of {0}", "a black and white photo of {0}", "{0} seen from above",
)  # fmt: skip
_TOGETHER = {
    2: (
        "{0} and {1}{at}", "a photo of {0} and {1}{at}", "{0} next to {1}", "{0} beside {1}{at}",
        "{0} in front of {1}", "{0} with {1} in the background", "a picture of {0} near {1}",
    ),
    3: (
        "{0}, {1} and {2}{at}", "a photo of {0} with {1} and {2}", "{0} between {1} and {2}",
        "{0} and {1} next to {2}",
    ),
    4: ("{0}, {1}, {2} and {3}{at}", "a photo of {0} and {1} beside {2} and {3}"),
}  # fmt: skip
_ATTEMPTS = 8
# Names that take no article, beyond what WordNet's tree tells.
_MASS_KINDS = "beverage, sauce, meat, soup, dough"
_MASS = frozenset(
    {"food", "furniture", "clothing", "bedding", "jewelry", "equipment", "crockery", "cutlery",
     "tableware", "footwear", "makeup", "armor", "mail", "cookware", "hosiery", "swimwear",
     "neckwear", "drapery", "headgear", "rice", "bread", "broccoli", "corn", "cabbage",
     "cauliflower", "transport", "cattle", "swine", "luggage", "popcorn", "spaghetti", "pasta",
     "celery", "grass", "snow", "ice", "water", "sand", "news", "sunscreen", "lotion",
     "cosmetic", "pottery", "machinery", "hay", "swimming", "coral", "cloth", "fabric",
     "velvet", "wool", "flavoring", "condiment", "alcohol"}
)  # fmt: skip
_PLURAL = frozenset(
    {"glasses", "sunglasses", "eyeglasses", "spectacles", "binoculars", "scissors", "tights",
     "pants", "shorts", "trousers", "jeans", "trunks", "clothes", "goggles", "tongs", "pliers",
     "headphones", "people", "cattle", "men", "women", "children"}
)  # fmt: skip


def lexical_knowledge(
    names: Iterable[str], *, sentences_per_category: int = 16, seed: int = 0
) -> Knowledge:
    """Return what WordNet knows of the named categories, with captions of imagined photographs.

    A name that WordNet lacks gets sentences only. Raises LabelError for names that cannot be
    categories, UsageError for a count below 1, DataError where WordNet is not installed.
    """
    if sentences_per_category < 1:
        raise UsageError(f"{sentences_per_category} sentences for a category; ask for at least 1.")
    lexicon = Lexicon(check_categories(names), WordNet.load(), NounIndex.load())
    return lexicon.knowledge(sentences_per_category, seed)


class Lexicon:
    """A list of categories, and what WordNet says of each."""

    def __init__(self, names: Sequence[str], wordnet: WordNet, index: NounIndex) -> None:
        self.wordnet, self.index = wordnet, index
        self.meanings = find_meanings(names, wordnet, index)
        self._taken = {" ".join(words(name)) for name in names}
        self._named = defaultdict[str, list[str]](list)  # the categories that name a synset
        for name, meaning in self.meanings.items():
            if meaning.is_exact:
                self._named[meaning.offset].append(name)
        self.names = tuple(names)
        self._by_name = {name: self._category(name) for name in names}
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

    def kinds(self, nouns: str) -> frozenset[str]:
        """Return the categories that are kinds of one of some nouns, given as "food, beverage"."""
        roots = {
            m.offset for m in find_meanings(nouns.split(", "), self.wordnet, self.index).values()
        }
        return frozenset(
            name
            for name, meaning in self.meanings.items()
            if not roots.isdisjoint(self.wordnet.ancestors(meaning.offset))
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
        looks = [word for word in words(phrases[0]) if word in _LOOKS] if phrases else []
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
            and self._is_commonest(other, synset.offset)
        )

    def _is_commonest(self, noun: str, offset: str) -> bool:
        return self.index.senses.get(noun.lower(), ("",))[0] == offset

    def _broader(self, name: str) -> tuple[str, ...]:
        """Of categories that mean the same, the later is a kind of the earlier."""
        meaning = self.meanings[name]
        first, *above = self.wordnet.ancestors(meaning.offset)
        same = self._named[first]
        same = same[: same.index(name)] if meaning.is_exact else same
        return (*same, *(other for a in above for other in self._named.get(a, ())))

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
        return [n for o, n in found.items() if n.islower() and self._is_commonest(n, o)]

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


class Captions:
    """Writes captions of photographs that show one to four of the categories."""

    def __init__(self, lexicon: Lexicon, relations: Iterable[Relation]) -> None:
        self._lexicon = lexicon
        self._mass = lexicon.kinds(_MASS_KINDS)
        self._scenes = {place: sorted(lexicon.kinds(kinds)) for place, kinds in _SCENES.items()}
        self._blank = [place for place in _SCENES if not lexicon.mentions.find(place)]
        self._places = defaultdict[str, list[str]](list)
        for place, names in self._scenes.items():
            for name in names:
                self._places[name].append(place)
        self._related = defaultdict[str, list[str]](list)
        self._kin = {category.name: {category.name} for category in lexicon.categories}
        for relation in relations:
            self._related[relation.first].append(relation.second)
            self._related[relation.second].append(relation.first)
        for category in lexicon.categories:
            for broader in category.broader:
                self._kin[category.name].add(broader)
                self._kin[broader].add(category.name)

    def write(self, count: int, seed: int) -> Iterator[Sentence]:
        """Yield up to ``count`` captions for each category, no two alike; a third shows it alone.

        Each is tried until it mentions what it shows, and one that shows a category alone no other
        but what that is a kind of.
        """
        seen = set[str]()
        for category in self._lexicon.categories:
            # by name, so that other categories hardly change the captions of this one
            draw = random.Random(f"{seed} {category.name}")
            for number in range(count):
                for _ in range(_ATTEMPTS):
                    if number % 3 == 0:
                        shown, text = [category.name], self._alone(category, draw)
                    else:
                        shown, text = self._together(category.name, draw)
                    mentioned = self._lexicon.mentions.find(text)
                    alone = len(shown) > 1 or self._kin[category.name].issuperset(mentioned)
                    if alone and text not in seen and set(mentioned).issuperset(shown):
                        seen.add(text)
                        yield Sentence(text, mentioned)
                        break

    def _alone(self, category: Category, draw: random.Random) -> str:
        details = self._details(category)
        looks = [word for word in category.attributes if word in _LOOKS]
        is_one = not self._is_mass(category.name) and not self._is_plural(category.name)
        if details and draw.random() < 0.6:
            form = draw.choice(("{}", "a photo of {}", "a close-up of {}"))
            return form.format(self._one(category.name) + draw.choice(details))
        if looks and is_one and draw.random() < 0.5:
            noun = with_article(f"{draw.choice(looks)} {category.name}")
        else:
            noun = self._noun(category, draw)
        return draw.choice(_ALONE).format(
            noun, at=f" {self._place([category.name], draw)}".rstrip()
        )

    def _details(self, category: Category) -> list[str]:
        """What can follow the name of one thing: its definition, an attribute, a context."""
        details = [f" {text}" for text in category.contexts]
        for text in category.attributes:
            if _MODIFIER.match(text):
                details.append(f" {text}")
            elif text.startswith("has "):
                details.append(f" with {text.removeprefix('has ')}")
        gloss = self._lexicon.definition(category.name)
        if gloss and len(gloss.split()) <= _MOST_WORDS:
            details += [f", {gloss}"] * (1 + len(details) // 2)
        return details

    def _together(self, name: str, draw: random.Random) -> tuple[list[str], str]:
        """Show a category among related ones, those of the same scene, and any others."""
        shown, excluded = [name], set(self._kin[name])
        places = self._places[name]
        size = draw.choices((2, 3, 4), (6, 3, 1))[0]
        for _ in range(_ATTEMPTS):
            if len(shown) == size:
                break
            pools = (self._related[name], self._scenes[draw.choice(places)] if places else [])
            pool = draw.choices((*pools, self._lexicon.names), (5, 3, 2))[0]
            other = draw.choice(pool or self._lexicon.names)
            if other not in excluded:
                shown.append(other)
                excluded |= self._kin[other]
        if len(shown) == 1:  # there is nothing else to show
            return shown, self._alone(self._lexicon[name], draw)
        draw.shuffle(shown)
        nouns = [self._noun(self._lexicon[other], draw) for other in shown]
        at = f" {self._place(shown, draw)}".rstrip()
        return shown, draw.choice(_TOGETHER[len(shown)]).format(*nouns, at=at)

    def _place(self, shown: list[str], draw: random.Random) -> str:
        """A place where all of them may be, or none; no place that is a category itself."""
        places = [place for place in self._blank if all(place in self._places[n] for n in shown)]
        return draw.choice(places) if places else ""

    def _noun(self, category: Category, draw: random.Random) -> str:
        """Write "a cat", "two cats", "some rice", sometimes with a synonym."""
        synonyms = [text for text in category.synonyms if text.islower()]
        name = draw.choice(synonyms) if synonyms and draw.random() < 0.2 else category.name
        if draw.random() < 0.25 and not self._is_mass(category.name) and not self._is_plural(name):
            plurals = other_numbers(words(name))
            last = name.split()[-1]
            if len(plurals) == 1 and last.isalpha() and last.islower():  # a regular one
                plural = name.removesuffix(last) + plurals.pop().split()[-1]
                return draw.choice(("two {}", "three {}", "several {}", "{}")).format(plural)
        return self._one(name, category.name)

    def _one(self, name: str, category: str | None = None) -> str:
        if self._is_mass(category or name) or self._is_plural(name):
            return f"some {name}"
        return with_article(name)

    def _is_mass(self, name: str) -> bool:
        return name in self._mass or words(name)[-1] in _MASS

    def _is_plural(self, name: str) -> bool:
        last = words(name)[-1]
        shorter = [form for form in other_numbers([last]) if last.startswith(form)]
        return last in _PLURAL or any(form in self._lexicon.index.senses for form in shorter)


def with_article(noun: str) -> str:
    """Return "an apple", "a unicorn", "an X-ray"."""
    first = re.split(r"[\s-]", noun)[0]
    if len(first) == 1 or (first.isupper() and len(first) < 4):  # spelt out
        return f"{'an' if first[0].upper() in 'AEFHILMNORSX' else 'a'} {noun}"
    return f"{'an' if _VOWEL.match(noun) else 'a'} {noun}"

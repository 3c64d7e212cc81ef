"""Captions of imagined photographs of categories, as WordNet knows them."""

import random
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from ovml_deploy.training.knowledge.file import Category, Relation, Sentence
from ovml_deploy.training.knowledge.words import other_numbers, words

if TYPE_CHECKING:
    from ovml_deploy.training.knowledge.lexical import Lexicon

_MODIFIER = re.compile(r"(having|with|that|consisting|containing|resembling|covered|made) ")
_VOWEL = re.compile(
    r"(?!uni(?![dnm])|us[eu]|ut[ei]|eu|ewe|one\b|ukulele)[aeiou]|hour|heir|honest", re.I
)
_MOST_WORDS = 16
#: Adjectives in definitions that tell how a thing looks.
LOOKS = frozenset(
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
_SHARE_OF_KINDS, _SHARE_OF_KINDS_ALONE, _SHARE_EXPLAINED = 0.4, 1 / 3, 0.3
# Names that take no article, beyond what WordNet's tree tells.
_MASS_KINDS = "beverage, sauce, meat, soup, dough, fabric, flavorer, cosmetic, cheese"
_MASS = frozenset(
    {"food", "furniture", "clothing", "bedding", "jewelry", "equipment", "crockery", "cutlery",
     "tableware", "footwear", "makeup", "armor", "mail", "cookware", "hosiery", "swimwear",
     "neckwear", "drapery", "headgear", "rice", "bread", "broccoli", "corn", "cabbage",
     "cauliflower", "transport", "cattle", "swine", "luggage", "popcorn", "spaghetti", "pasta",
     "celery", "grass", "snow", "ice", "water", "sand", "news", "sunscreen", "lotion",
     "cosmetic", "pottery", "machinery", "hay", "swimming", "coral", "cloth", "fabric",
     "velvet", "wool", "flavoring", "condiment", "alcohol", "juice", "flour", "butter", "toast",
     "candy", "underwear", "lingerie", "workwear", "attire", "laundry"}
)  # fmt: skip
_PLURAL = frozenset(
    {"glasses", "sunglasses", "eyeglasses", "spectacles", "binoculars", "scissors", "tights",
     "pants", "shorts", "trousers", "jeans", "trunks", "clothes", "goggles", "tongs", "pliers",
     "headphones", "people", "cattle", "men", "women", "children", "underpants", "drawers",
     "slacks", "briefs", "fries", "regimentals"}
)  # fmt: skip


class Captions:
    """Writes captions of photographs that show one to four of the categories."""

    def __init__(self, lexicon: "Lexicon", relations: Iterable[Relation]) -> None:
        self._lexicon = lexicon
        self._mass = lexicon.below(_MASS_KINDS)
        self._mass |= {
            text
            for item in lexicon.categories
            if self._is_mass(item.name)
            for text in item.synonyms
        }
        self._scenes = {
            place: sorted(lexicon.below(nouns).intersection(lexicon.names))
            for place, nouns in _SCENES.items()
        }
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
        if category.kinds and draw.random() < _SHARE_OF_KINDS_ALONE:
            return self._kind_alone(category, draw)
        details = self._details(category)
        looks = [word for word in category.attributes if word in LOOKS]
        is_one = not self._is_mass(category.name) and not self._is_plural(category.name)
        if details and draw.random() < 0.6:
            form = draw.choice(("{}", "a photo of {}", "a close-up of {}"))
            return form.format(self._one(category.name) + draw.choice(details))
        if looks and is_one and draw.random() < 0.5:
            noun = with_article(f"{draw.choice(looks)} {category.name}")
        else:
            noun = self._counted(self._name(category, draw), draw)
        return self._alone_form(category, noun, draw)

    def _kind_alone(self, category: Category, draw: random.Random) -> str:
        kind = draw.choice(category.kinds)
        if draw.random() < _SHARE_EXPLAINED:
            form = draw.choice(("{}, a kind of {}", "a photo of {}, a kind of {}"))
            return form.format(self._one(kind), category.name)
        return self._alone_form(category, self._counted(kind, draw), draw)

    def _alone_form(self, category: Category, noun: str, draw: random.Random) -> str:
        at = f" {self._place([category.name], draw)}".rstrip()
        return draw.choice(_ALONE).format(noun, at=at)

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
        """Write "a cat", "two cats", "some rice", often with a kind, sometimes with a synonym."""
        if category.kinds and draw.random() < _SHARE_OF_KINDS:
            return self._counted(draw.choice(category.kinds), draw)
        return self._counted(self._name(category, draw), draw)

    def _name(self, category: Category, draw: random.Random) -> str:
        synonyms = [text for text in category.synonyms if text.islower()]
        return draw.choice(synonyms) if synonyms and draw.random() < 0.2 else category.name

    def _counted(self, name: str, draw: random.Random) -> str:
        if draw.random() < 0.25 and not self._is_mass(name) and not self._is_plural(name):
            plurals = other_numbers(words(name))
            last = name.split()[-1]
            if len(plurals) == 1 and last.isalpha() and last.islower():  # a regular one
                plural = name.removesuffix(last) + plurals.pop().split()[-1]
                return draw.choice(("two {}", "three {}", "several {}", "{}")).format(plural)
        return self._one(name)

    def _one(self, name: str) -> str:
        if self._is_mass(name) or self._is_plural(name):
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

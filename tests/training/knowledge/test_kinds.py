"""Kinds of categories in a small handwritten WordNet, and captions that name them."""

import re

import pytest

from ovml_deploy.training.knowledge.captions import Captions
from ovml_deploy.training.knowledge.file import Sentence
from ovml_deploy.training.knowledge.lexical import Lexicon, lexical_knowledge
from ovml_deploy.training.wordnet import DATA_FILE, INDEX_FILE, NounIndex, WordNet, parse_synset

ENTITY, ANIMAL, DOG, POODLE, CAT, DRINK, COFFEE = range(1, 8)


class Words:
    """Writes the lines of WordNet's files."""

    def __init__(self) -> None:
        self.data: list[str] = []
        self.senses: dict[str, list[int]] = {}

    def add(
        self, names: str, *above: int, gloss: str = "it is", topic: str = "05", symbol: str = "@"
    ) -> int:
        offset = len(self.data) + 1
        fields = names.split()
        pointers = " ".join(f"{symbol} {other:08} n 0000" for other in above)
        self.data.append(
            f"{offset:08} {topic} n {len(fields):02x} {' '.join(f'{name} 0' for name in fields)} "
            f"{len(above):03} {pointers} | {gloss}"
        )
        for name in fields:
            self.senses.setdefault(name.lower(), []).append(offset)
        return offset

    def lexicon(self, *names: str, common: str = "", adjectives: str = "") -> Lexicon:
        index = [
            f"{noun} n {len(rows)} 0 {len(rows)} {int(noun in common.split())} "
            + " ".join(f"{row:08}" for row in rows)
            for noun, rows in self.senses.items()
        ]
        wordnet = WordNet(map(parse_synset, self.data))
        return Lexicon(names, wordnet, NounIndex(index), adjectives.split())


@pytest.fixture
def some() -> Words:
    some = Words()
    some.add("entity", topic="03")
    some.add("animal", ENTITY)
    some.add("dog Canis_familiaris", ANIMAL)
    some.add("poodle", DOG)
    some.add("cat", ANIMAL)
    some.add("drink beverage", ENTITY, topic="13")
    some.add("coffee java", DRINK, topic="13")
    return some


def test_what_is_below_a_category_is_a_kind_of_the_nearest(some: Words) -> None:
    some.add("toy_poodle", POODLE)
    some.add("horse", ANIMAL)
    found = some.lexicon("animal", "dog", "cat")
    assert found["animal"].kinds == ("horse",)
    assert found["dog"].kinds == ("poodle", "toy poodle")
    assert found["cat"].kinds == ()
    found = some.lexicon("animal", "poodle")
    assert found["animal"].kinds == ("cat", "dog", "horse")  # and no toy poodle
    assert some.lexicon("animal")["animal"].kinds[-1] == "toy poodle"  # the farthest


def test_a_kind_of_two_is_a_kind_of_both_unless_one_is_above(some: Words) -> None:
    some.add("mouser", DOG, CAT)
    some.add("show_dog", ANIMAL, POODLE)
    found = some.lexicon("animal", "dog", "cat")
    assert "mouser" in found["dog"].kinds
    assert "mouser" in found["cat"].kinds
    assert "mouser" not in found["animal"].kinds
    assert "show dog" not in found["animal"].kinds  # though it is right below
    assert found.mentions.find("a mouser") == ("dog", "cat")


def test_categories_that_mean_the_same_have_the_same_kinds(some: Words) -> None:
    some.add("espresso", COFFEE, topic="13")
    found = some.lexicon("coffee", "java", "black coffee")
    assert found["coffee"].kinds == found["java"].kinds == ("espresso",)
    assert found["black coffee"].kinds == ()  # of which coffee is no kind
    assert found.mentions.find("an espresso") == ("coffee", "java")


def test_what_is_no_name_of_a_visible_kind_is_left_out(some: Words) -> None:
    some.add("lion", ENTITY, topic="18")  # first a person who is much visited
    some.add("lion Panthera", CAT)  # Latin, as it is not the first name
    some.add("Felis_ocreata", CAT)  # Latin, as it ends in no noun
    some.add("Garfield", CAT, symbol="@i")  # one cat
    some.add("pride", CAT, topic="09")  # a feeling
    some.add("stray", CAT)  # an adjective
    some.add("dogs", CAT)  # the plural of a category
    some.add("puss", CAT)
    some.add("Siamese_cat Siamese", CAT)
    some.add("Manx Manx_cat tailless_cat", CAT)
    found = some.lexicon("cat", "Puss", "dog", adjectives="stray")
    assert found["cat"].kinds == ("Siamese cat", "tailless cat")
    assert "stray" in some.lexicon("cat")["cat"].kinds


def test_the_common_come_first_and_at_most_twelve(some: Words) -> None:
    for number in range(9):
        some.add(f"breed{number}", CAT)
    far = some.add("house_cat", CAT)
    some.add("kitten", far, gloss="a young cat")
    some.add("tabby", far, gloss="a cat with tabby stripes, a tabby coat")
    some.add("alley_cat", far, gloss="a cat")
    found = some.lexicon("cat", common="kitten")
    assert found["cat"].kinds == (
        "kitten",  # of tagged texts
        "tabby",  # of definitions
        *(f"breed{number}" for number in range(9)),
        "house cat",
    )  # an alley cat is far and rare


def test_kinds_of_a_category_are_mentioned_by_it(some: Words) -> None:
    some.add("tabby", CAT)
    found = some.lexicon("cat", "dog").mentions
    assert found.find("two tabbies and a poodle") == ("cat", "dog")


def captions(found: Lexicon, count: int = 150) -> list[Sentence]:
    return list(Captions(found, found.relations()).write(count, seed=0))


def share(found: list[Sentence], pattern: str, among: str) -> float:
    """The share of those that match a pattern among those that match another."""
    chosen = [sentence.text for sentence in found if re.search(among, sentence.text)]
    assert len(chosen) > 100
    return sum(re.search(pattern, text) is not None for text in chosen) / len(chosen)


@pytest.fixture
def shown(some: Words) -> list[Sentence]:
    some.add("tabby", CAT)
    some.add("Manx_cat", CAT)
    some.add("espresso", COFFEE, topic="13")
    others = [f"thing{letter}" for letter in "abcdefghijklmnopqrstuvwxyz"]
    return captions(some.lexicon("cat", "coffee", *others))


_TOGETHER = r"thing.*(\bcats?\b|tabb|Manx)|(\bcats?\b|tabb|Manx).*thing"


def test_two_in_five_of_those_shown_together_are_kinds(shown: list[Sentence]) -> None:
    assert 0.36 < share(shown, "tabb|Manx cat", _TOGETHER) < 0.44
    for text in ("tabby", "tabbies", "Manx cat", "Manx cats"):
        assert any(re.search(rf"\b{text}\b", sentence.text) for sentence in shown)


def test_captions_of_one_category_name_kinds_and_what_they_are_kinds_of(some: Words) -> None:
    for number in range(12):
        some.add(f"breed{number} ", CAT)
    lone = [s for s in captions(some.lexicon("cat", "dog"), 300) if s.categories == ("cat",)]
    kinds = [sentence.text for sentence in lone if "breed" in sentence.text]
    told = [text for text in kinds if re.search(r"\ba breed\d+, a kind of cat$", text)]
    assert len(kinds) / len(lone) > 0.25
    assert len(told) / len(kinds) > 0.15
    assert all("a kind of cat" not in text for text in set(kinds) - set(told))


def test_a_kind_takes_the_article_that_becomes_it(shown: list[Sentence]) -> None:
    texts = " / ".join(sentence.text for sentence in shown)
    assert "some espresso" in texts
    assert "some java" in texts  # a synonym of what is drunk
    assert not re.search(r"an espresso|espressos|a java|a coffee", texts)
    assert "a Manx cat" in texts


@pytest.mark.skipif(
    not (DATA_FILE.is_file() and INDEX_FILE.is_file()), reason="apt-get install wordnet-base"
)
def test_real_kinds() -> None:
    knowledge = lexical_knowledge(
        ["animal", "domestic cat", "dog", "building", "person"], sentences_per_category=1
    )
    kinds = {category.name: category.kinds for category in knowledge.categories}
    assert {"tabby cat", "Siamese cat", "Persian cat"} <= set(kinds["domestic cat"])
    assert {"hound", "terrier", "puppy"} <= set(kinds["dog"])
    assert {"hotel", "hospital"} <= set(kinds["building"])
    assert {"man", "woman", "child"} <= set(kinds["person"])
    assert not {"poodle", "tabby cat", "young", "male"} & set(kinds["animal"])
    assert {len(found) for found in kinds.values()} == {12}

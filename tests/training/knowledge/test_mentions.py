"""Which categories a sentence mentions: plurals, synonyms, whole words, the longest phrase."""

import time

import pytest

from ovml_deploy.training.knowledge.file import Category
from ovml_deploy.training.knowledge.mentions import Mentions


def mentioned(names: list[str], text: str) -> list[str]:
    return list(Mentions(Category(name) for name in names).find(text))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("cat", "The Cats sleep"),
        ("cat", "a CAT, of course"),
        ("cat", "the cat's tail"),
        ("cat", "the cats\u2019 tails"),
        ("bus", "two buses"),
        ("box", "boxes"),
        ("church", "churches"),
        ("brush", "brushes"),
        ("berry", "berries"),
        ("toy", "toys"),
        ("potato", "potatoes"),
        ("photo", "photos"),
        ("man", "three men"),
        ("woman", "women"),
        ("snowman", "snowmen"),
        ("person", "people"),
        ("child", "children"),
        ("mouse", "mice"),
        ("goose", "geese"),
        ("tooth", "teeth"),
        ("foot", "feet"),
        ("knife", "knives"),
        ("bookshelf", "bookshelves"),
        ("leaf", "leaves"),
        ("wolf", "wolves"),
        ("giraffe", "giraffes"),
        ("roof", "roofs"),
        ("ox", "oxen"),
        ("cactus", "cacti"),
        ("cactus", "cactuses"),
        ("sheep", "two sheep"),
        ("fish", "many fish"),
        ("quiz", "quizzes"),
        ("oasis", "oases"),
        ("aquarium", "aquaria"),
        ("bag of rice", "bags of rice"),
        ("man-of-war", "men of war"),
        ("baby carriage", "baby carriages"),
        ("T-shirt", "a t shirt"),
        ("t shirt", "two T-shirts"),
        ("traffic light", "at the traffic-lights"),
        # where the category is a plural
        ("flowers", "a flower"),
        ("men", "a man"),
        ("cherries", "a cherry"),
        ("buses", "a bus"),
        ("scissors", "the scissors"),
        ("caf\u00e9", "at the cafe\u0301"),
    ],
)
def test_it_is_mentioned(name: str, text: str) -> None:
    assert mentioned(["zebra", name], text) == [name]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("cat", "a catalogue, a bobcat, a scatter"),
        ("man", "a woman in Manchester"),
        ("bus", "a bu"),
        ("glass", "a glas"),
        ("glasses", "a glass"),
        ("news", "a new car"),
        ("shorts", "a short man"),
        ("electronics", "an electronic lock"),
        ("hot dog", "a dog on a hot day"),
        ("hot dog", "it is hot"),
        ("dog", "eating a hot dog"),
        ("dog", "hot-dogs"),
        ("bear", "teddy bears"),
        ("light", "a traffic light"),
        ("cat", ""),
        ("cat", "!?"),
    ],
)
def test_it_is_not_mentioned(name: str, text: str) -> None:
    assert mentioned([name], text) == []


def test_the_longest_phrase_wins_wherever_it_starts() -> None:
    names = ["dog", "hot dog", "dog house", "fire", "house", "fire house door"]
    assert mentioned(names, "a hot dog") == ["hot dog"]
    assert mentioned(names, "a dog, a hot dog") == ["dog", "hot dog"]
    assert mentioned(names, "dog house") == ["dog house"]
    assert mentioned(names, "dog fire house door") == ["dog", "fire house door"]
    assert mentioned(["red car", "car park sign"], "red car park sign") == ["car park sign"]


def test_names_come_in_the_order_of_the_categories_and_once() -> None:
    assert mentioned(["dog", "cat"], "cat dog cat cats") == ["dog", "cat"]


def test_synonyms_mention_all_that_they_are_synonyms_of() -> None:
    mentions = Mentions(
        [
            Category("man", ("guy", "fellow")),
            Category("cat", ("kitty", "pussy-cat", "!!!")),
            Category("person", ("fellow",)),
        ]
    )
    assert mentions.find("kitties and guys") == ("man", "cat")
    assert mentions.find("a pussy cat") == ("cat",)
    assert mentions.find("two fellows") == ("man", "person")


def test_a_kind_mentions_all_that_it_is_a_kind_of() -> None:
    mentions = Mentions(
        [
            Category("cat", ("kitty",), kinds=("tabby", "Siamese-cat", "mouser")),
            Category("dog", kinds=("mouser", "???")),
            Category("toy", kinds=("teddy bear",)),
            Category("bear"),
        ]
    )
    assert mentions.find("two Tabbies") == ("cat",)
    assert mentions.find("a siamese cat") == ("cat",)
    assert mentions.find("a mouser") == ("cat", "dog")
    assert mentions.find("teddy bears") == ("toy",)
    assert mentions.named("tabbies") == ("cat",)


def test_names_and_synonyms_win_over_kinds() -> None:
    mentions = Mentions(
        [
            Category("animal", kinds=("cat", "kitty", "poodle", "fox terrier")),
            Category("cat", ("kitty",)),
            Category("poodles"),
            Category("eyewear", kinds=("glasses", "loupe")),
            Category("glass"),
            Category("magnifier", kinds=("loupes",)),
            Category("terrier"),
        ]
    )
    assert mentions.find("a cat") == mentions.find("kitties") == ("cat",)
    assert mentions.find("a poodle") == ("poodles",)  # the other number wins, too
    assert mentions.find("two glasses") == ("glass",)
    assert mentions.find("two loupes") == ("magnifier",)  # among kinds, what is written out
    assert mentions.find("a loupe") == ("eyewear",)
    assert mentions.find("fox terriers") == ("animal",)  # but longer phrases win


def test_what_is_written_out_wins_over_a_plural() -> None:
    assert mentioned(["glass", "glasses"], "her glasses") == ["glasses"]
    assert mentioned(["glass", "glasses"], "a glass") == ["glass"]
    assert mentioned(["glass"], "two glasses") == ["glass"]


def test_a_misleading_thing_that_is_asked_for_is_found() -> None:
    assert mentioned(["traffic light", "light"], "traffic lights") == ["traffic light"]
    assert mentioned(["bear", "teddy bear"], "a bear and a teddy bear") == ["bear", "teddy bear"]


def test_the_whole_of_a_phrase_names_a_category() -> None:
    mentions = Mentions([Category("dog"), Category("T-shirt")])
    assert mentions.named(" Dogs ") == ("dog",)
    assert mentions.named("t shirts") == ("T-shirt",)
    assert mentions.named("dog food") == ()
    assert mentions.named("") == ()


def test_thousands_of_categories_cost_no_more_than_a_few() -> None:
    def seconds(count: int) -> float:
        mentions = Mentions(Category(f"thing{n} part{n % 7}", (f"word{n}",)) for n in range(count))
        sentences = [f"a word{n} and thing{n} part{n % 7} in the garden" for n in range(3000)]
        start = time.perf_counter()
        found = [mentions.find(sentence) for sentence in sentences]
        assert sum(map(bool, found)) == min(count, 3000)
        return time.perf_counter() - start

    assert seconds(5000) < 20 * seconds(50) + 0.2  # a test of each category would take 100 times

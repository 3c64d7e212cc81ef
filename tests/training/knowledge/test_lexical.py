"""Knowledge from WordNet: a small handwritten one, and Debian's where it is installed."""

import re
from collections import Counter

import pytest

from ovml_deploy.errors import LabelError, UsageError
from ovml_deploy.training.knowledge.captions import with_article
from ovml_deploy.training.knowledge.file import Category, Knowledge, Relation
from ovml_deploy.training.knowledge.lexical import Lexicon, lexical_knowledge
from ovml_deploy.training.knowledge.mentions import Mentions
from ovml_deploy.training.wordnet import DATA_FILE, INDEX_FILE, NounIndex, WordNet, parse_synset

NOUNS = (
    "00000001 03 n 01 entity 0 000 | that which is",
    "00000002 05 n 02 animal 0 beast 0 002 @ 00000001 n 0000 %p 00000009 n 0000 | it lives",
    "00000003 05 n 03 cat 0 puss 0 Felis_catus 0 002 @ 00000002 n 0000 #m 00000010 n 0000 "
    "| small feline mammal usually having thick soft fur; kept in houses",
    "00000004 05 n 01 tabby 0 001 @ 00000003 n 0000 | a cat with a grey coat",
    "00000005 06 n 03 car 0 auto 0 beast 0 002 @ 00000001 n 0000 %p 00000006 n 0000 "
    "| a vehicle used for travel; pulled by no horse",
    "00000006 06 n 01 wheel 0 002 @ 00000001 n 0000 #p 00000005 n 0000 | a disk that turns",
    "00000007 05 n 02 horse 0 Equus_caballus 0 001 @ 00000002 n 0000 | a large hoofed mammal",
    "00000008 06 n 01 coach 0 001 @ 00000001 n 0000 | a carriage pulled by four horses",
    "00000009 08 n 01 tail 0 001 @ 00000001 n 0000 | it wags",
    "00000010 14 n 01 clowder 0 001 @ 00000001 n 0000 | a group of cats",
)
INDEX = tuple(
    f"{noun} n {len(senses)} 0 {len(senses)} {len(senses)} {' '.join(f'{n:08}' for n in senses)}"
    for noun, senses in {
        "entity": [1], "animal": [2], "beast": [2, 5], "cat": [3], "puss": [3], "felis_catus": [3],
        "tabby": [4], "car": [5], "auto": [5], "wheel": [6], "horse": [7], "equus_caballus": [7],
        "coach": [8], "tail": [9], "clowder": [10],
    }.items()
)  # fmt: skip


def lexicon(*names: str) -> Lexicon:
    return Lexicon(names, WordNet(map(parse_synset, NOUNS)), NounIndex(INDEX))


@pytest.fixture(scope="module")
def knowledge() -> Knowledge:
    if not (DATA_FILE.is_file() and INDEX_FILE.is_file()):
        pytest.skip(f"WordNet is not in {DATA_FILE.parent} (apt-get install wordnet-base)")
    return lexical_knowledge(REAL, sentences_per_category=12)


REAL = (
    "animal", "cat", "dog", "tabby", "cup", "coffee", "laptop", "desk", "car", "automobile", "wheel",
    "orange", "apple", "scissors", "zebra", "giraffe", "zorblax", "red car", "person", "rice",
)  # fmt: skip


def test_a_category_has_what_its_definition_and_relations_say() -> None:
    cat = lexicon("cat", "animal")["cat"]
    assert cat == Category(
        name="cat",
        synonyms=("puss", "Felis catus"),
        attributes=(
            "small",
            "small feline mammal",
            "having thick soft fur",
            "kept in houses",
            "has a tail",
        ),
        contexts=("in a clowder",),
        broader=("animal",),
        kinds=("tabby",),
    )
    car, wheel = lexicon("car", "wheel").categories
    assert car.attributes == ("pulled by no horse", "has a wheel")
    assert car.contexts == ("used for travel",)
    assert wheel.contexts == ("as part of a car",)


def test_synonyms_are_not_stolen() -> None:
    assert lexicon("animal", "car")["animal"].synonyms == ("beast",)
    assert lexicon("animal", "car")["car"].synonyms == ("auto",)  # a beast is first an animal
    assert lexicon("cat", "Puss")["cat"].synonyms == ("Felis catus",)  # it is a category
    assert lexicon("red car")["red car"].synonyms == ()  # an auto may be blue


def test_broader_is_every_category_above() -> None:
    found = lexicon("tabby", "animal", "cat", "red car", "car", "auto")
    assert found["tabby"].broader == ("cat", "animal")
    assert found["animal"].broader == ()
    assert found["red car"].broader == ("car", "auto")
    assert (found["car"].broader, found["auto"].broader) == ((), ("car",))  # no kind of itself


def test_relations_are_kin_parts_and_what_definitions_name() -> None:
    found = lexicon("cat", "tabby", "horse", "car", "wheel", "zorblax").relations()
    assert Relation("cat", "tabby", "shares") in found
    assert Relation("cat", "horse", "shares") in found
    assert Relation("car", "wheel", "shares") in found  # in a WordNet so small all are kin
    assert "zorblax" not in {
        name for relation in found for name in (relation.first, relation.second)
    }
    assert len({frozenset((r.first, r.second)) for r in found}) == len(found)


def test_an_unknown_name_is_a_category_with_plain_captions() -> None:
    found = lexicon("zorblax").knowledge(6, seed=0)
    assert found.categories == (Category("zorblax"),)
    assert found.relations == ()
    assert "a photo of a zorblax" in {sentence.text for sentence in found.sentences}
    assert all(sentence.categories == ("zorblax",) for sentence in found.sentences)


def test_captions_use_definitions_attributes_contexts_and_synonyms() -> None:
    texts = {sentence.text for sentence in lexicon("cat", "tabby").knowledge(90, seed=0).sentences}
    for text in (
        "a tabby, a cat with a grey coat",
        "a photo of a cat having thick soft fur",
        "a cat with a tail",
        "a photo of a cat in a clowder",
    ):
        assert text in texts
    for part in (" puss", "two cats", "several tabbies", "a small cat"):
        assert any(part in text for text in texts)
    assert not any("Felis" in text for text in texts)  # nobody writes Latin under a photograph


def test_what_is_shown_alone_is_not_defined_by_another_category() -> None:
    defined = "a coach, a carriage pulled by four horses"
    without = lexicon("coach", "cat").knowledge(60, seed=0).sentences
    assert defined in {sentence.text for sentence in without}
    found = lexicon("coach", "horse").knowledge(60, seed=0).sentences
    assert not any("carriage pulled" in sentence.text for sentence in found)


def test_bad_arguments() -> None:
    with pytest.raises(UsageError, match="0 sentences"):
        lexical_knowledge(["cat"], sentences_per_category=0)
    with pytest.raises(LabelError, match="repeats"):
        lexical_knowledge(["cat", "cat"])
    with pytest.raises(LabelError, match="no letters"):
        lexical_knowledge(["cat", "123"])


@pytest.mark.parametrize(
    "phrase",
    ["an apple", "a cat", "a unicycle", "a uniform", "an umbrella", "an uncle", "a utensil",
     "an hourglass", "a house", "an SUV", "a CD player", "a T-shirt", "an X-ray", "an iPod",
     "a European robin", "a one-armed bandit", "an onion", "an NBA player"],
)  # fmt: skip
def test_articles(phrase: str) -> None:
    assert with_article(phrase.split(" ", 1)[1]) == phrase


def test_real_relations_tell_what_shares_from_what_occurs_together(knowledge: Knowledge) -> None:
    kinds = {(r.first, r.second): r.kind for r in knowledge.relations}
    assert kinds["giraffe", "zebra"] == "shares"
    assert kinds["cat", "tabby"] == "shares"
    assert kinds["car", "wheel"] == "co-occurs"
    assert ("desk", "zebra") not in kinds
    many = lexical_knowledge([f"{c} cat" for c in "abcdefghijklmnopqrst"], sentences_per_category=1)
    degrees = Counter(name for r in many.relations for name in (r.first, r.second))
    assert max(degrees.values()) == 12


def test_real_categories(knowledge: Knowledge) -> None:
    by_name = {category.name: category for category in knowledge.categories}
    assert knowledge.names == REAL
    assert by_name["tabby"].broader == ("cat", "animal")
    assert by_name["automobile"].broader == ("car",)
    assert by_name["red car"].broader == ("car", "automobile")
    assert by_name["car"].synonyms == ("auto", "motorcar")  # WordNet has "machine" as well
    assert "used for drinking" in by_name["cup"].contexts
    assert by_name["zorblax"] == Category("zorblax")


def test_sentences_mention_what_they_say_and_no_two_are_alike(knowledge: Knowledge) -> None:
    mentions = Mentions(knowledge.categories)
    texts = [sentence.text for sentence in knowledge.sentences]
    assert len(set(texts)) == len(texts) >= 0.9 * 12 * len(REAL)
    for sentence in knowledge.sentences:
        assert sentence.categories == mentions.find(sentence.text) != ()
        assert "{" not in sentence.text
        assert re.search(r"\ba [aeio]\w", sentence.text) is None
        assert re.search(r"\b(a|an|two|three) (rice|coffee|scissors)\b", sentence.text) is None


def test_a_third_shows_one_category_alone(knowledge: Knowledge) -> None:
    above = {category.name: set(category.broader) for category in knowledge.categories}
    alone = [
        sentence
        for sentence in knowledge.sentences
        if any(set(sentence.categories) <= {name, *above[name]} for name in sentence.categories)
    ]
    assert 0.3 < len(alone) / len(knowledge.sentences) < 0.4
    shown = Counter(name for sentence in knowledge.sentences for name in sentence.categories)
    assert min(shown[name] for name in REAL) >= 10


def test_the_seed_decides(knowledge: Knowledge) -> None:
    assert lexical_knowledge(REAL, sentences_per_category=12) == knowledge
    other = lexical_knowledge(REAL, sentences_per_category=12, seed=1)
    assert other.categories == knowledge.categories
    assert other.sentences != knowledge.sentences

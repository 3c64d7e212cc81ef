"""Reading WordNet's two files of nouns."""

from pathlib import Path

import pytest

from ovml_deploy.errors import DataError
from ovml_deploy.training.wordnet import (
    DATA_FILE,
    INDEX_FILE,
    Meaning,
    NounIndex,
    WordNet,
    find_meanings,
    gloss_phrases,
    parse_synset,
)

TABBY = (
    "02123045 05 n 02 tabby 0 tabby_cat 0 001 @ 02121808 n 0000 | a cat with a grey coat"
    ' mottled with black; "she had a tabby"  \n'
)


def test_wordnet_lines_give_topic_names_hypernyms_and_definition() -> None:
    synset = parse_synset(TABBY)
    assert synset.offset == "n02123045"
    assert synset.topic == "05"
    assert synset.names == ("tabby", "tabby cat")
    assert synset.hypernyms == ("n02121808",)
    assert synset.gloss == "a cat with a grey coat mottled with black"


def test_only_hypernyms_are_followed_and_instances_are_hypernyms() -> None:
    pointers = "003 ~ 00000007 n 0000 @i 00000002 n 0000 %p 00000009 n 0000"
    synset = parse_synset(f"00000006 05 n 01 Rin_Tin_Tin 0 {pointers} | a dog of the films  \n")
    assert synset.hypernyms == ("n00000002",)


def test_pointers_give_parts_wholes_and_groups_and_quotes_are_examples() -> None:
    pointers = "005 %p 00000001 n 0000 #p 00000002 n 0000 #s 00000003 n 0000 #m 00000004 n 0000"
    line = f"00000006 06 n 01 mast 0 {pointers} ~ 00000009 n 0000 | a spar"
    synset = parse_synset(f'{line}; "before the mast"; "half mast"  \n')
    assert synset.parts == ("n00000001",)
    assert synset.wholes == ("n00000002", "n00000003")
    assert synset.groups == ("n00000004",)
    assert synset.gloss == "a spar"
    assert synset.examples == ("before the mast", "half mast")
    assert not synset.is_instance
    assert parse_synset("00000001 18 n 01 Crane 0 001 @i 00000002 n 0000 | poet").is_instance


def test_wordnet_climbs_to_the_root() -> None:
    lines = (
        "00000001 03 n 01 animal 0 000 | lives",
        "00000002 05 n 01 cat 0 001 @ 00000001 n 0000 |",
    )
    wordnet = WordNet(map(parse_synset, (*lines, TABBY.replace("02121808", "00000002"))))
    assert wordnet.ancestors("n02123045") == ("n02123045", "n00000002", "n00000001")
    assert wordnet.ancestors("n00000001") == ("n00000001",)
    assert wordnet.names("n02123045") == ("tabby", "tabby cat")
    assert wordnet.generality == {"n00000001": 3, "n00000002": 2, "n02123045": 1}
    assert wordnet.topic_sizes == {"05": 2, "03": 1}


def test_wordnet_meets_an_ancestor_once_though_two_ways_lead_there() -> None:
    lines = (
        "00000001 03 n 01 entity 0 000 | is",
        "00000002 05 n 01 pet 0 001 @ 00000001 n 0000 | is kept",
        "00000003 05 n 01 animal 0 001 @ 00000001 n 0000 | lives",
        "00000004 05 n 01 dog 0 002 @ 00000002 n 0000 @ 00000003 n 0000 | barks",
    )
    found = WordNet(map(parse_synset, lines)).ancestors("n00000004")
    assert found == ("n00000004", "n00000002", "n00000003", "n00000001")


def test_index_gives_the_commonest_meaning_first_and_says_what_is_common(tmp_path: Path) -> None:
    file = tmp_path / "index.noun"
    file.write_text(
        "  1 This software and database\n"
        "ice_cream n 1 2 @ ~ 1 1 07614500  \n"
        "dog n 2 1 @ 2 1 02084071 10114209  \n"
        "dodecanol n 1 1 @ 1 0 14930670  \n",
        "utf-8",
    )
    index = NounIndex.load(file)
    assert index.senses == {
        "ice cream": ("n07614500",),
        "dog": ("n02084071", "n10114209"),
        "dodecanol": ("n14930670",),
    }
    assert index.common == {"ice cream", "dog"}
    assert [index.rank("dog", offset) for offset in index.senses["dog"]] == [0, 1]
    assert index.rank("dodecanol", "n14930670") == 0


def test_meanings_without_a_rank_are_all_alike() -> None:
    index = NounIndex(["seal n 3 0 3 1 00000001 00000002 00000003"])
    assert [index.rank("seal", f"n0000000{number}") for number in (1, 2, 3)] == [0, 1, 1]


@pytest.mark.parametrize(("reader", "what"), [(WordNet, "data"), (NounIndex, "index")])
def test_wordnet_says_what_is_missing_or_wrong(
    tmp_path: Path, reader: type[WordNet] | type[NounIndex], what: str
) -> None:
    with pytest.raises(DataError, match="apt-get install wordnet-base"):
        reader.load(tmp_path / "absent")
    other = tmp_path / "other"
    other.write_text("not one of its files\n")
    with pytest.raises(DataError, match=f"other is not a WordNet {what} file"):
        reader.load(other)


@pytest.mark.parametrize(
    ("gloss", "phrases"),
    [
        (
            "feline mammal usually having thick soft fur and no ability to roar: domestic cats",
            [
                "feline mammal",
                "having thick soft fur and no ability to roar",
                "domestic cats",
            ],
        ),
        ("a small open container usually used for drinking; usually has a handle",
         ["small open container", "used for drinking", "has a handle"]),
        ("a cat with a grey coat mottled with black",
         ["cat", "with a grey coat mottled with black"]),
        ("any of various (mostly large) birds", ["birds"]),
        ("a board on which notices can be posted", ["board on which notices can be posted"]),
        ("a bar 2 feet in length", ["bar 2 feet"]),
        ("one " * 11, []),
        ("", []),
    ],
)  # fmt: skip
def test_definitions_are_cut_into_phrases(gloss: str, phrases: list[str]) -> None:
    assert list(gloss_phrases(gloss)) == phrases


@pytest.fixture(scope="module")
def real() -> tuple[WordNet, NounIndex]:
    if not (DATA_FILE.is_file() and INDEX_FILE.is_file()):
        pytest.skip(f"WordNet is not in {DATA_FILE.parent} (apt-get install wordnet-base)")
    return WordNet.load(), NounIndex.load()


@pytest.mark.parametrize(
    ("names", "gloss"),
    [
        (["crane"], "lifts and moves heavy objects"),  # neither Stephen nor Hart Crane
        (["crane", "heron", "stork"], "large long-necked wading bird"),
        (["mouse"], "any of numerous small rodents"),
        (["computer mouse"], "a hand-operated electronic device"),
        (["orange", "red"], "round yellow to orange fruit"),
        (["bank"], "sloping land"),  # no deposits: an institution cannot be photographed
        (["turkey", "chicken", "ham"], "large gallinaceous bird"),  # flesh comes second
        (["cat", "car", "truck", "bus", "bicycle"], "feline mammal"),  # no Caterpillar
        (["t-shirt"], "a close-fitting pullover shirt"),
    ],
)
def test_meanings_are_visible_common_and_fit_the_list(
    real: tuple[WordNet, NounIndex], names: list[str], gloss: str
) -> None:
    meaning = find_meanings(names, *real)[names[0]]
    assert real[0].synsets[meaning.offset].gloss.startswith(gloss)
    assert meaning.is_exact


def test_a_capital_letter_chooses_among_meanings() -> None:
    lines = (
        "00000001 05 n 01 Jersey 0 000 | cows",
        "00000002 06 n 02 sweater 0 jersey 0 000 | knit",
    )
    wordnet = WordNet(map(parse_synset, lines))
    index = NounIndex(["jersey n 2 0 2 2 00000001 00000002"])
    assert find_meanings(["jersey"], wordnet, index)["jersey"].offset == "n00000002"
    assert find_meanings(["Jersey"], wordnet, index)["Jersey"].offset == "n00000001"


def test_plurals_and_last_words_have_a_meaning_too(real: tuple[WordNet, NounIndex]) -> None:
    wordnet, index = real
    found = find_meanings(["cars", "shiny cars", "Cherries", "zorblax", "firemen"], wordnet, index)
    car = index.senses["car"][0]
    assert found["cars"] == Meaning(car, is_exact=True)
    assert found["shiny cars"] == Meaning(car, is_exact=False)
    assert found["Cherries"].offset in index.senses["cherry"]
    assert found["firemen"].offset in index.senses["fireman"]
    assert "zorblax" not in found

"""Reading WordNet's two files of nouns."""

from pathlib import Path

import pytest

from ovml_deploy.errors import DataError
from ovml_deploy.training.mini.wordnet import NounIndex, WordNet, parse_synset

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


def test_wordnet_climbs_to_the_root(wordnet: WordNet) -> None:
    assert wordnet.ancestors("n00000004") == ("n00000004", "n00000003", "n00000002", "n00000001")
    assert wordnet.ancestors("n00000011") == ("n00000011",)
    assert wordnet.names("n00000004") == ("tabby", "tabby cat")


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

"""What is known of categories: its checks, its targets, and its file."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ovml_deploy.errors import DataError, LabelError
from ovml_deploy.training.knowledge.file import (
    Category,
    Knowledge,
    Relation,
    Sentence,
    check_categories,
    read_knowledge,
    write_knowledge,
)

CATEGORIES = (
    Category("cat", ("kitty",), ("whiskers",), ("sofa",), ("animal",), ("tabby",)),
    Category("animal", broader=("living thing",)),
    Category("living thing"),
    Category("dog", broader=("animal",)),
    Category("car"),
)
KNOWLEDGE = Knowledge(
    "a test",
    CATEGORIES,
    (Relation("cat", "dog", "shares"), Relation("dog", "car", "co-occurs")),
    (
        Sentence('A cat says "m\u00e9ow" in a car.', ("cat", "car")),
        Sentence("An animal.", ("animal",)),
        Sentence("An animal and a dog.", ("animal", "dog")),
        Sentence("A car.", ("car",)),
    ),
)


def test_a_knowledge_file_reads_as_written(tmp_path: Path) -> None:
    path = tmp_path / "new" / "knowledge.json"
    write_knowledge(KNOWLEDGE, path)
    assert read_knowledge(path) == KNOWLEDGE
    assert list(path.parent.iterdir()) == [path]


def test_the_file_has_a_line_for_each_thing(tmp_path: Path) -> None:
    write_knowledge(KNOWLEDGE, tmp_path / "k.json")
    text = (tmp_path / "k.json").read_text("utf-8")
    assert text.splitlines() == [
        '{"format": "ovml-deploy/knowledge", "version": 1, "source": "a test",',
        '"categories": [',
        '{"name": "cat", "synonyms": ["kitty"], "attributes": ["whiskers"], "contexts": ["sofa"], '
        '"broader": ["animal"], "kinds": ["tabby"]},',
        '{"name": "animal", "broader": ["living thing"]},',
        '{"name": "living thing"},',
        '{"name": "dog", "broader": ["animal"]},',
        '{"name": "car"}',
        "],",
        '"relations": [',
        '["cat", "dog", "shares"],',
        '["dog", "car", "co-occurs"]',
        "],",
        '"sentences": [',
        '{"text": "A cat says \\"m\u00e9ow\\" in a car.", "categories": ["cat", "car"]},',
        '{"text": "An animal.", "categories": ["animal"]},',
        '{"text": "An animal and a dog.", "categories": ["animal", "dog"]},',
        '{"text": "A car.", "categories": ["car"]}',
        "]}",
    ]


def test_targets_follow_what_is_a_kind_of_what() -> None:
    targets = KNOWLEDGE.targets()
    assert targets.dtype == np.int8
    #   cat, animal, living thing, dog, car
    assert targets.tolist() == [
        [1, 1, 1, 0, 1],
        [-1, 1, 1, -1, 0],  # the animal may be a cat or a dog
        [-1, 1, 1, 1, 0],
        [0, 0, 0, 0, 1],
    ]


def test_what_is_a_kind_of_what_is_followed_all_the_way_up() -> None:
    names = ["poodle", "dog", "animal", "being", "thing"]
    chain = [
        Category(name, broader=tuple(names[row + 1 : row + 2])) for row, name in enumerate(names)
    ]
    knowledge = Knowledge("a test", tuple(chain), (), (Sentence("A poodle.", ("poodle",)),))
    assert knowledge.targets().tolist() == [[1, 1, 1, 1, 1]]
    knowledge = Knowledge("a test", tuple(chain), (), (Sentence("A thing.", ("thing",)),))
    assert knowledge.targets().tolist() == [[-1, -1, -1, -1, 1]]


def test_the_categories_of_a_sentence_come_in_order(tmp_path: Path) -> None:
    data = json.loads(as_json())
    data["sentences"][0]["categories"] = ["car", "cat", "car"]
    assert read(tmp_path, data).sentences[0].categories == ("cat", "car")


def as_json() -> str:
    return json.dumps(
        {
            "format": "ovml-deploy/knowledge",
            "version": 1,
            "source": "a test",
            "categories": [
                {"name": "cat", "broader": ["animal"]},
                {"name": "animal"},
                {"name": "car"},
            ],
            "relations": [["cat", "car", "co-occurs"]],
            "sentences": [{"text": "A cat.", "categories": ["cat"]}],
        }
    )


def read(folder: Path, data: Any) -> Knowledge:
    path = folder / "k.json"
    path.write_text(data if isinstance(data, str) else json.dumps(data), encoding="utf-8")
    return read_knowledge(path)


def test_relations_may_be_left_out(tmp_path: Path) -> None:
    data = json.loads(as_json())
    del data["relations"]
    assert read(tmp_path, data).relations == ()


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ([], [], "no knowledge file"),
        ([], {"sentences": []}, "no knowledge file"),
        (["version"], 2, "version 2 is not known"),
        (["version"], None, "version None is not known"),
        (["sentense"], [], "the file has 'sentense'; known are"),
        (["source"], 7, "source is 7, not a text"),
        (["categories"], {}, "'categories' is {}, not a list"),
        (["categories"], [], "no labels"),
        (["categories", 0], "cat", "category 1 is 'cat', not an object"),
        (["categories", 0, "synonym"], ["x"], "category 1 has 'synonym'"),
        (["categories", 0, "synonyms"], "x", "category 1: 'synonyms' is 'x', not a list"),
        (["categories", 0, "synonyms"], [1], "category 1, synonyms is 1, not a text"),
        (["categories", 0, "kinds"], "x", "category 1: 'kinds' is 'x', not a list"),
        (["categories", 0, "kinds"], [""], "category 1, kinds is '', not a text"),
        (["categories", 0, "name"], None, "category 1, name is None"),
        (["categories", 0, "name"], "animal", "repeats label 1"),
        (["categories", 0, "name"], "Animal", "'Animal' and 'animal' are the same words"),
        (["categories", 0, "broader"], ["bird"], "'cat' is a kind of names 'bird'"),
        (["categories", 0, "broader"], ["cat"], "'cat' is a kind of itself"),
        (["categories", 1, "broader"], ["cat"], "is a kind of itself"),
        (["relations", 0], ["cat", "car"], "relation 1 is"),
        (["relations", 0], ["cat", "car", ["shares"]], "relation 1 is \\['shares'\\], not a text"),
        (["relations", 0], ["cat", "car", "likes"], "of the kind 'likes'"),
        (["relations", 0], ["cat", "bus", "shares"], "relation 1 names 'bus'"),
        (["relations", 0], ["cat", "cat", "shares"], "relates 'cat' to itself"),
        (["sentences"], [], "no sentences"),
        (["sentences", 0, "text"], " ", "sentence 1, text is ' '"),
        (["sentences", 0, "text"], "a \x1b[31mcat", "unprintable"),
        (["sentences", 0, "text"], "a cat \ud800", "unprintable"),
        (["sentences", 0, "categories"], [], "mentions no category"),
        (["sentences", 0, "categories"], ["bird"], "sentence 1 names 'bird'"),
        (["sentences", 0, "categories"], [None], "sentence 1, categories is None"),
        (["sentences", 0], None, "sentence 1 is None"),
    ],
)
def test_a_bad_file_is_refused_with_the_place(
    tmp_path: Path, place: list[Any], value: Any, message: str
) -> None:
    data = json.loads(as_json())
    if not place:
        data = value
    else:
        part = data
        for key in place[:-1]:
            part = part[key]
        part[place[-1]] = value
    with pytest.raises(DataError, match=message) as caught:
        read(tmp_path, data)
    assert "k.json" in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "cat\ndog", "[" * 100_000, '{"a": 1' + "0" * 5000 + "}"])
def test_what_is_not_json_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(DataError, match=r"k\.json' is not JSON"):
        read(tmp_path, text)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_knowledge(tmp_path / "absent.json")
    (tmp_path / "latin.json").write_bytes(b'{"a": "\xe9"}')
    with pytest.raises(DataError, match="not UTF-8"):
        read_knowledge(tmp_path / "latin.json")


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "k.json"
    write_knowledge(KNOWLEDGE, path)
    bad = Knowledge("\ud800", CATEGORIES, (), KNOWLEDGE.sentences)
    with pytest.raises(UnicodeEncodeError):
        write_knowledge(bad, path)
    assert read_knowledge(path) == KNOWLEDGE
    assert list(tmp_path.iterdir()) == [path]


def test_categories_are_checked() -> None:
    assert check_categories([" cat ", "T-shirt", "caf\u00e9", "\u732b", "3D printer"])[0] == "cat"
    for bad in ("123", "???", "1-2", "\u2764"):
        with pytest.raises(LabelError, match=r"category .* has no letters"):
            check_categories(["cat", bad])
    for one, other in (("cat", "Cat"), ("t shirt", "T-Shirt"), ("stra\u00dfe", "STRASSE")):
        with pytest.raises(LabelError, match="are the same words"):
            check_categories([one, "dog", other])
    several = (
        r"'cat' and 'Cat' are the same words; .* 'dog' and 'DOG' are the same words: no sentence"
    )
    with pytest.raises(LabelError, match=several):
        check_categories(["cat", "Cat", "dog", "DOG"])
    with pytest.raises(LabelError, match="repeats label 1"):
        check_categories(["cat", "cat"])
    with pytest.raises(LabelError, match="no labels"):
        check_categories([])

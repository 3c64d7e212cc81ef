"""Groups of related categories, and the file that a user may change."""

import json
from pathlib import Path

import pytest

from ovml_deploy.errors import DataError, UsageError
from ovml_deploy.training.knowledge.file import Category, Knowledge, Relation, Sentence
from ovml_deploy.training.knowledge.groups import cluster, read_groups, restrict, write_groups
from ovml_deploy.training.knowledge.lexical import lexical_knowledge
from ovml_deploy.training.wordnet import DATA_FILE, INDEX_FILE

NAMES = ("animal", "cat", "dog", "car", "bus", "truck", "sky")
COCO = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat",
    "traffic light", "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat",
    "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe", "backpack",
    "umbrella", "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard", "sports ball",
    "kite", "baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket",
    "bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple",
    "sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair",
    "couch", "potted plant", "bed", "dining table", "toilet", "tv", "laptop", "mouse", "remote",
    "keyboard", "cell phone", "microwave", "oven", "toaster", "sink", "refrigerator", "book",
    "clock", "vase", "scissors", "teddy bear", "hair drier", "toothbrush",
)  # fmt: skip


def knowledge(names: tuple[str, ...] = NAMES) -> Knowledge:
    broader = {"cat": ("animal",), "dog": ("animal",)}
    relations = (
        Relation("cat", "dog", "shares"),
        Relation("bus", "car", "shares"),
        Relation("car", "truck", "shares"),
        Relation("car", "dog", "co-occurs"),
    )
    return Knowledge(
        "test",
        tuple(Category(name, broader=broader.get(name, ())) for name in names),
        relations,
        (Sentence("a cat", ("cat",)),),
    )


def test_groups_are_what_is_related() -> None:
    groups = cluster(knowledge())
    assert groups == {
        "animal": ("animal", "cat", "dog"),  # named after its broadest
        "car": ("car", "bus", "truck"),  # after its best connected
        "other": ("sky",),  # related to nothing
    }
    assert list(groups) == ["animal", "car", "other"]


def test_a_greater_resolution_gives_more_groups_and_the_order_of_relations_none() -> None:
    found = knowledge()
    assert list(cluster(found, resolution=0.1)) == ["animal", "other"]
    assert cluster(found, 50) == {"other": NAMES}
    turned = Knowledge("test", found.categories, found.relations[::-1], found.sentences)
    assert cluster(turned) == cluster(found)


def test_a_category_called_other_takes_in_the_rest() -> None:
    names = ("other", "cat", "dog", "bus", "car", "truck", "animal", "sky")
    found = knowledge(names)
    more = (*found.relations, Relation("other", "animal", "shares"))
    groups = cluster(Knowledge("test", found.categories, more, found.sentences), resolution=3)
    assert sorted(name for members in groups.values() for name in members) == sorted(names)
    assert {"other", "sky"} <= set(groups["other"])


@pytest.mark.parametrize("resolution", [0.0, -1.0, float("nan"), float("inf")])
def test_a_resolution_must_be_positive(resolution: float) -> None:
    with pytest.raises(UsageError, match="resolution"):
        cluster(knowledge(), resolution)


@pytest.mark.skipif(
    not (DATA_FILE.is_file() and INDEX_FILE.is_file()), reason="apt-get install wordnet-base"
)
def test_cocos_categories_fall_into_sensible_groups() -> None:
    found = lexical_knowledge(COCO, sentences_per_category=1)
    groups = cluster(found)
    assert sorted(name for members in groups.values() for name in members) == sorted(COCO)
    assert all(name in members for name, members in groups.items() if name != "other")
    assert 8 <= len(groups) <= 20
    assert len(groups["other"]) <= 8
    owner = {name: group for group, members in groups.items() for name in members}
    for alike in (
        ("cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe", "bird"),
        ("bicycle", "car", "motorcycle", "bus", "train", "truck"),
        ("banana", "apple", "orange", "broccoli", "carrot"),
        ("chair", "couch", "bed", "dining table"),
        ("microwave", "oven", "toaster", "refrigerator"),
        ("cup", "bowl", "bottle", "wine glass"),
    ):
        assert len({owner[name] for name in alike}) == 1
    assert len({owner[name] for name in ("cat", "car", "apple", "chair", "oven", "cup")}) == 6
    assert cluster(lexical_knowledge(COCO, sentences_per_category=2)) == groups


def test_groups_are_read_as_they_were_written(tmp_path: Path) -> None:
    groups = {"pets \u00e9": ("cat", "dog"), "other": ("sky",)}
    file = tmp_path / "groups.json"
    write_groups(groups, file)
    assert read_groups(file, ("sky", "dog", "cat")) == groups
    assert file.read_text("utf-8").count("\n") == 4  # one group a line
    assert "\u00e9" in file.read_text("utf-8")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "no groups"),
        ("null", "no groups"),
        ('{"a": "cat"}', "'a' is 'cat', not a list"),
        ('{"a": ["cat", 1]}', "'a' is .* not a list of categories"),
        ('{"a": ["cat", "fish"], "b": ["dog"]}', "'a' has 'fish', which is none"),
        ('{"a": ["cat"], "b": ["cat", "dog"]}', "'cat' is in 'a' and again in 'b'"),
        ('{"a": ["cat", "dog", "cat"]}', "'cat' is in 'a' and again in 'a'"),
        ('{"a": ["cat"]}', "no group has 'dog'.* Add"),
        ("{}", "no group has 'cat', 'dog'"),
        ('{" ": ["cat", "dog"]}', "give it one"),
        ('{"": ["cat", "dog"]}', "give it one"),
        ('{"a": ["cat", "dog"], "b": []}', "'b' has no categories"),
        ('{"a": ["cat"], "a": ["dog"]}', "'a' stands there 2 times"),
    ],
)
def test_bad_group_files(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "groups.json"
    file.write_text(content)
    with pytest.raises(DataError, match=message) as caught:
        read_groups(file, ["cat", "dog"])
    assert "groups.json" in str(caught.value)


def test_a_group_file_that_is_absent_or_not_text(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_groups(tmp_path / "absent.json", ["cat"])
    file = tmp_path / "groups.json"
    file.write_bytes(json.dumps({"caf\u00e9": ["cat"]}, ensure_ascii=False).encode("latin1"))
    with pytest.raises(DataError, match="not UTF-8"):
        read_groups(file, ["cat"])


def test_groups_of_some_categories_only() -> None:
    groups = {"pets": ("cat", "dog"), "cars": ("van",)}
    assert restrict(groups, ["dog", "boat"]) == {"pets": ("dog",)}

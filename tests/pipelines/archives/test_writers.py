"""Every format holds the same tags, and readers of that format read it."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ovml_deploy.errors import UsageError
from ovml_deploy.pipelines.tag_blocks import Selected, TagBlock
from ovml_deploy.pipelines.tag_files import write_tags
from ovml_deploy.runtime.vocabulary import Vocabulary

LABELS = ('a "b"', "c, d", "e", "ü")
NAMES = ['x,"y".jpg', "ö.jpg", "3.jpg", "4.jpg"]
COUNTS = [2, 0, 1, 3]
TAGS = [0, 3, 2, 1, 0, 2]
SCORES = [0.9, 0.1, 1 / 3, 0.7, 0.6, 0.5]


def blocks() -> Iterator[TagBlock]:
    words = Vocabulary("w", LABELS, np.zeros((4, 2), np.float32), "text", "prompts")
    for images, tags in ((slice(0, 3), slice(0, 3)), (slice(3, 4), slice(3, 6))):
        selected = Selected(
            np.array(COUNTS[images]),
            np.array(TAGS[tags]),
            np.array(SCORES[tags]),
            np.array(SCORES[tags], np.float32),
            np.array(TAGS[tags]),
        )
        yield TagBlock(pa.array(NAMES[images]), selected, words)


def wanted() -> list[tuple[str, list[tuple[str, float]]]]:
    ends = np.cumsum(COUNTS)
    found = [(LABELS[tag], score) for tag, score in zip(TAGS, SCORES, strict=True)]
    return [(name, found[end - n : end]) for name, end, n in zip(NAMES, ends, COUNTS, strict=True)]


@pytest.fixture
def written(tmp_path):
    def write(name: str) -> Path:
        seen: list[int] = []
        assert write_tags(blocks(), tmp_path / name, seen.append) == 4
        assert seen == [3, 4]
        assert [path.name for path in tmp_path.iterdir()] == [name]
        return tmp_path / name

    return write


def test_parquet(written) -> None:
    rows = pq.read_table(written("t.parquet")).to_pylist()
    assert [(r["path"], [(t["label"], t["score"]) for t in r["tags"]]) for r in rows] == wanted()
    assert [t["query"] for r in rows for t in r["tags"]] == TAGS


def test_csv(written) -> None:
    with open(written("t.csv"), newline="", encoding="utf-8") as file:
        rows = [(row["path"], row["label"], float(row["score"])) for row in csv.DictReader(file)]
    assert rows == [(name, *tag) for name, tags in wanted() for tag in tags]


def test_jsonl(written) -> None:
    rows = [json.loads(line) for line in written("t.jsonl").read_text("utf-8").splitlines()]
    assert [(r["path"], [(t["label"], t["score"]) for t in r["tags"]]) for r in rows] == wanted()


def test_coco(written) -> None:
    value = json.loads(written("t.json").read_text("utf-8"))
    names = {image["id"]: image["file_name"] for image in value["images"]}
    labels = {category["id"]: category["name"] for category in value["categories"]}
    assert [*names.values()] == NAMES
    assert [*labels.values()] == [*LABELS]
    assert [a["id"] for a in value["annotations"]] == [1, 2, 3, 4, 5, 6]
    found = [
        (names[a["image_id"]], labels[a["category_id"]], a["score"]) for a in value["annotations"]
    ]
    assert found == [(name, *tag) for name, tags in wanted() for tag in tags]


@pytest.mark.parametrize("ending", ["parquet", "csv", "jsonl", "json"])
def test_no_images(tmp_path, ending) -> None:
    path = tmp_path / f"t.{ending}"
    assert write_tags(iter(()), path) == 0
    assert path.exists()


@pytest.mark.parametrize("ending", ["parquet", "csv", "jsonl", "json"])
def test_after_an_error_what_was_there_stays(tmp_path, ending) -> None:
    path = tmp_path / f"t.{ending}"
    path.write_text("old")

    def failing() -> Iterator[TagBlock]:
        yield next(blocks())
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        write_tags(failing(), path)
    assert path.read_text() == "old"
    assert [one.name for one in tmp_path.iterdir()] == [path.name]


def test_an_unknown_ending_is_refused(tmp_path) -> None:
    with pytest.raises(UsageError, match=r"\.parquet, \.csv, \.jsonl, \.json"):
        write_tags(blocks(), tmp_path / "t.xlsx")

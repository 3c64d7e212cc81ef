"""Readers of the official CSV layout and of COCO, targets, and the seen/unseen split."""

import json
from pathlib import Path

import numpy as np
import pytest

from ovml_deploy.errors import DataError
from ovml_deploy.training.data import make_split, read_dataset, read_unseen

LABELS = ["cat", "dog", "car"]


def write(path: Path, text: str) -> Path:
    path.write_bytes(text.encode())
    return path


def test_without_negatives_every_other_label_is_negative(tmp_path: Path) -> None:
    for header, end in (
        ("image_path,posi_labels", ""),
        ("image_path,posi_labels,nega_labels", ","),
    ):
        text = f"{header}\na.jpg,cat|dog{end}\nb.jpg,car{end}\nc.jpg,{end}\n"
        dataset = read_dataset(write(tmp_path / "train.txt", text))
        assert dataset.labels == ("cat", "dog", "car")
        assert dataset.targets(LABELS).tolist() == [[1, 1, 0], [0, 0, 1], [0, 0, 0]]
        assert dataset.targets(LABELS).dtype == np.int8


def test_with_negatives_the_rest_is_unknown(tmp_path: Path) -> None:
    text = "nega_labels,image_path,posi_labels\ndog,a.jpg,cat\n,b.jpg,car\ncat|car,c.jpg,\n"
    dataset = read_dataset(write(tmp_path / "train.csv", text))
    assert dataset.targets(LABELS).tolist() == [[1, 0, -1], [-1, -1, 1], [0, -1, 0]]


def test_columns_follow_the_labels_asked_for(tmp_path: Path) -> None:
    dataset = read_dataset(write(tmp_path / "d.csv", "image_path,posi_labels\na.jpg,cat|dog\n"))
    assert dataset.targets(["dog", "bird"]).tolist() == [[1, 0]]


def test_the_official_test_layout_joins_seen_and_unseen(tmp_path: Path) -> None:
    text = (
        "image_path,unseen_posi_labels,seen_posi_labels,unseen_nega_labels,seen_nega_labels\n"
        "a.jpg,cat,dog,,\nb.jpg,,car,,\n"
    )
    dataset = read_dataset(write(tmp_path / "test.txt", text))
    assert sorted(dataset.records[0].positive) == ["cat", "dog"]
    assert dataset.targets(LABELS).tolist() == [[1, 1, 0], [0, 0, 1]]


def test_image_paths(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    path = write(tmp_path / "d.csv", 'image_path,posi_labels\n"x/a,1.jpg",cat\n/abs/b.jpg,cat\n')
    assert [r.path for r in read_dataset(path).records] == [
        tmp_path / "x" / "a,1.jpg",
        Path("/abs/b.jpg"),
    ]
    assert read_dataset(path, tmp_path / "pictures").records[0].path == (
        tmp_path / "pictures" / "x" / "a,1.jpg"
    )
    with pytest.raises(DataError, match="no image folder"):
        read_dataset(path, tmp_path / "absent")


def test_a_byte_order_mark_and_windows_line_ends(tmp_path: Path) -> None:
    text = "\ufeffimage_path,posi_labels\r\na.jpg, cat |dog\r\n"
    assert read_dataset(write(tmp_path / "d.csv", text)).labels == ("cat", "dog")


def test_thousands_of_negatives_in_a_cell(tmp_path: Path) -> None:
    names = "|".join(f"a rather long label number {n}" for n in range(7186))
    assert len(names) > 131_072  # csv's own limit
    path = write(tmp_path / "d.csv", f"image_path,posi_labels,nega_labels\na.jpg,cat,{names}\n")
    assert int((read_dataset(path).targets(read_dataset(path).labels) == 0).sum()) == 7186


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image_path,labels\na.jpg,cat\n", "no column 'posi_labels'"),
        ("path,posi_labels\na.jpg,cat\n", "no column 'image_path'"),
        ("", "no column 'image_path'"),
        ("image_path,posi_labels\n", "names no images"),
        ("image_path,posi_labels\na.jpg,\n", "names no labels"),
        ("image_path,posi_labels\na.jpg,cat||dog\n", "line 2: an empty label"),
        ("image_path,posi_labels\na.jpg,cat|\n", "empty label"),
        ("image_path,posi_labels\n,cat\n", "image path is empty"),
        ("image_path,posi_labels\na,b.jpg,cat\n", "more cells"),
        ("image_path,posi_labels,nega_labels\na.jpg,cat|dog,dog\n", "'dog' is both"),
    ],
)
def test_bad_csv(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_dataset(write(tmp_path / "d.csv", text))


def test_files_that_are_absent_or_not_utf8(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no data file .*absent\.csv"):
        read_dataset(tmp_path / "absent.csv")
    (tmp_path / "latin.csv").write_bytes("image_path,posi_labels\na.jpg,caf\xe9\n".encode("latin1"))
    with pytest.raises(DataError, match="not UTF-8"):
        read_dataset(tmp_path / "latin.csv")


def coco() -> dict:
    return {
        "images": [{"id": 7, "file_name": "a.jpg"}, {"id": 3, "file_name": "sub/b.jpg"}],
        "categories": [
            {"id": 1, "name": "cat"},
            {"id": 18, "name": "dog"},
            {"id": 2, "name": "car"},
        ],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 1, "bbox": [0, 0, 1, 1]},
            {"id": 2, "image_id": 7, "category_id": 1, "iscrowd": 1},
            {"id": 3, "image_id": 7, "category_id": 18},
        ],
    }


def test_coco_and_csv_of_the_same_data_agree(tmp_path: Path) -> None:
    from_coco = read_dataset(write(tmp_path / "instances.json", json.dumps(coco())))
    from_csv = read_dataset(
        write(tmp_path / "d.csv", "image_path,posi_labels\na.jpg,cat|dog\nsub/b.jpg,\n")
    )
    assert from_coco.records == from_csv.records
    assert from_coco.labels == ("cat", "dog", "car")
    assert np.array_equal(from_coco.targets(LABELS), from_csv.targets(LABELS))


def test_a_label_outside_cocos_categories_is_unknown(tmp_path: Path) -> None:
    dataset = read_dataset(write(tmp_path / "i.json", json.dumps(coco())))
    assert dataset.targets(["bird", "car"]).tolist() == [[-1, 0], [-1, 0]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": []}, "names no images"),
        ({"categories": []}, "no categories"),
        ({"annotations": None}, "no list 'annotations'"),
        ({"annotations": [{"id": 9, "image_id": 7, "category_id": 5}]}, "category 5, which is ab"),
        ({"annotations": [{"id": 9, "image_id": 8, "category_id": 1}]}, "image 8, which is absent"),
        ({"annotations": [{"id": 9, "image_id": 7}]}, "needs 'category_id'"),
        ({"categories": [{"id": 1, "name": " "}]}, "empty 'name'"),
        (
            {"images": [{"id": 7, "file_name": "a"}, {"id": 7, "file_name": "b"}]},
            "two of its image",
        ),
        ({"images": [{"id": 7}]}, "needs 'file_name'"),
    ],
)
def test_bad_coco(tmp_path: Path, change: dict, message: str) -> None:
    path = write(tmp_path / "i.json", json.dumps({**coco(), **change}))
    with pytest.raises(DataError, match=message):
        read_dataset(path)


def test_json_that_is_not_coco(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not JSON"):
        read_dataset(write(tmp_path / "i.json", "{"))
    for absurd in ("[" * 100_000, "[" + "1" * 5000 + "]"):  # Python's limits of depth and digits
        with pytest.raises(DataError, match="not JSON"):
            read_dataset(write(tmp_path / "i.json", absurd))
    with pytest.raises(DataError, match="not COCO instances"):
        read_dataset(write(tmp_path / "i.json", "[]"))


def test_split(tmp_path: Path) -> None:
    train = read_dataset(write(tmp_path / "t.csv", "image_path,posi_labels\na.jpg,cat|dog\n"))
    val = read_dataset(write(tmp_path / "v.csv", "image_path,posi_labels\na.jpg,cat|car\n"))
    assert make_split(train, None).labels == ("cat", "dog")
    split = make_split(train, val, ["dog"])
    assert (split.seen, split.unseen) == (("cat",), ("dog", "car"))
    with pytest.raises(DataError, match="'cow' of the unseen labels occur in no data"):
        make_split(train, val, ["cow"])
    with pytest.raises(DataError, match=r"no label to train on: .* Take some out"):
        make_split(train, None, ["cat", "dog"])


def test_unseen_file(tmp_path: Path) -> None:
    expected = ("dog", "traffic light")
    assert read_unseen(write(tmp_path / "u.txt", "dog\r\n\n traffic light \n")) == expected
    assert read_unseen(write(tmp_path / "u.json", '["dog", "traffic light"]')) == expected
    with pytest.raises(DataError, match=r"Line 3 \('dog'\) repeats line 1\. .* omit --unseen"):
        read_unseen(write(tmp_path / "u.txt", "dog\ncat\ndog\n"))
    with pytest.raises(DataError, match="There are no labels"):
        read_unseen(write(tmp_path / "e.txt", "\n"))
    with pytest.raises(DataError, match="no file of unseen"):
        read_unseen(tmp_path / "absent.txt")

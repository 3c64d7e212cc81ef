"""Readers of the official folder layouts, whole and damaged. What they hold is in conftest.py."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ovml_deploy.errors import DataError
from ovml_deploy.training.data import make_split, read_dataset, read_seen, read_unseen


@pytest.fixture
def broken(official: Path, tmp_path: Path) -> Callable[[str], Path]:
    """A function that gives a copy of a layout that may be damaged."""
    return lambda name: Path(shutil.copytree(official / name, tmp_path / name))


def positives(path: str) -> list[set[str]]:
    return [set(record.positive) for record in read_dataset(path).records]


def change(path: Path, old: str, new: str) -> None:
    text = path.read_bytes().decode()
    assert old in text
    path.write_bytes(text.replace(old, new, 1).encode())


def test_voc(official: Path) -> None:
    data = read_dataset(f"{official / 'VOC2007'}:test")
    assert data.labels == ("dining table", "green", "red")
    assert [record.path.name for record in data.records[:2]] == ["000101.jpg", "000102.jpg"]
    assert all(record.path.is_file() for record in data.records)
    assert data.targets(data.labels).T.tolist() == [
        [0, 0, 1, 0, -1, 0, 0, -1],  # difficult where there is yellow
        [0, 1, 0, 0, 1, 0, 0, 0],
        [1, 1, 0, 0, 0, 1, 0, 0],
    ]
    assert (data.targets(["bird"]) == -1).all()
    assert len(read_dataset(f"{official / 'VOC2007'}:trainval").records) == 24


def test_nus_wide_by_the_protocol(official: Path) -> None:
    folder = official / "NUS-WIDE"
    train, test = read_dataset(f"{folder}:train"), read_dataset(f"{folder}:test")
    assert train.labels == ("red", "green", "blue")  # "yellow" is a concept too
    assert test.labels == ("red", "green", "blue", "purple", "white", "yellow")
    assert [set(r.positive) for r in train.records] == 3 * [
        {"red"}, {"red", "green"}, {"blue"}, {"green"}, {"red"}, {"blue"}
    ]  # without the image of nothing, and that of white alone  # fmt: skip
    assert [set(r.positive) for r in test.records] == [
        {"red"}, {"red", "green"}, {"blue"}, {"green", "yellow"}, {"purple", "red"}, {"white"},
        {"blue", "yellow", "white"},
    ]  # fmt: skip
    assert all(record.path.is_file() for record in train.records + test.records)
    assert (train.targets(["white"]) == -1).all()  # nobody looked for it among the tags
    assert set(np.unique(test.targets(test.labels))) == {0, 1}
    split = make_split(train, test)
    assert (split.seen, split.unseen) == (train.labels, ("purple", "white", "yellow"))
    concepts = read_unseen(folder / "ConceptsList" / "Concepts81.txt")
    assert make_split(test, None, concepts) == split


def test_nus_wide_concepts_alone(official: Path) -> None:
    found = positives(f"{official / 'NUS-WIDE'}:test81")
    assert found == [
        set(), set(), set(), set(), {"yellow"}, {"purple"}, {"white"}, {"yellow", "white"}
    ]  # fmt: skip
    assert positives(f"{official / 'NUS-WIDE'}:train81") == 3 * found
    assert read_dataset(f"{official / 'NUS-WIDE'}:test81").labels == ("purple", "white", "yellow")


def test_open_images_verified_by_people(official: Path) -> None:
    data = read_dataset(f"{official / 'OpenImages'}:test")
    assert data.labels == tuple(
        f"{name}, disc" for name in ("Red", "Green", "Blue", "Yellow", "Purple", "White")
    )
    assert data.targets(data.labels)[:2].tolist() == [
        [1, 0, 0, -1, -1, -1],
        [1, 1, 0, 0, -1, -1],
    ]
    assert all(record.path.is_file() for record in data.records)
    assert len(data.records) == 8
    assert len(read_dataset(f"{official / 'OpenImages'}:train").records) == 24


def test_open_images_guessed_by_a_machine(official: Path) -> None:
    folder = official / "OpenImages"
    data = read_dataset(f"{folder}:test-machine")  # confidences 0.9, 0.6, 0.3; at least 0.5
    assert [len(record.positive) for record in data.records] == [1, 2, 1, 2, 2, 1, 2]
    assert not any(record.negative for record in data.records)
    sure = read_dataset(f"{folder}:test-machine@0.9")
    assert [len(record.positive) for record in sure.records] == [1] * 7
    for bad in ("test-machine@", "test-machine@1.5", "test-machine@much", "test@0.5"):
        with pytest.raises(DataError, match="least confidence"):
            read_dataset(f"{folder}:{bad}")
    with pytest.raises(DataError, match=r"confidence of 0\.95 or more"):
        read_dataset(f"{folder}:test-machine@0.95")


def test_open_images_lists_may_name_mids_or_names(official: Path) -> None:
    folder = official / "OpenImages"
    train = read_dataset(f"{folder}:train")
    seen, unseen = read_seen(folder / "classes-trainable.txt"), read_unseen(folder / "unseen.txt")
    split = make_split(train, None, unseen, seen)
    assert split.seen == ("Red, disc", "Green, disc", "Blue, disc")
    assert split.unseen == ("Yellow, disc", "White, disc")  # and not purple, which is in neither
    assert make_split(train, None, ["/m/red"], ["/m/red", "/m/blue"]).seen == ("Blue, disc",)
    with pytest.raises(DataError, match="'/m/none' of the seen labels occur in no data"):
        make_split(train, None, (), ["/m/none"])


def test_open_images_label_judged_both_ways_is_unknown(broken: Callable[[str], Path]) -> None:
    folder = broken("OpenImages")
    with (folder / "test-annotations-human-imagelabels.csv").open("a") as file:
        file.write(f"{0:016x},crowdsource-verification,/m/red,0\n")
        file.write(f"{0:016x},verification,/m/red,1\n")
        file.write(f"{1:016x},verification,/m/red,1\n")
    targets = read_dataset(f"{folder}:test").targets(["Red, disc"])
    assert targets[:2].tolist() == [[-1], [1]]


def test_open_images_as_its_archives_unpack(broken: Callable[[str], Path]) -> None:
    folder = broken("OpenImages")
    (folder / "train").rename(folder / "train_0")
    (folder / "validation").mkdir()
    (folder / "oidv6-train-annotations-human-imagelabels.csv").rename(
        folder / "validation" / "validation-annotations-human-imagelabels.csv"
    )
    for image in (folder / "train_0").iterdir():
        shutil.copy(image, folder / "validation")
    data = read_dataset(f"{folder}:train-machine")
    assert all(record.path.parent.name == "train_0" for record in data.records)
    assert all(record.path.is_file() for record in data.records)
    assert len(read_dataset(f"{folder}:validation").records) == 24


def test_coco_folder(official: Path) -> None:
    data = read_dataset(f"{official / 'coco'}:val2014")
    assert data.labels == ("red", "green", "blue", "yellow", "purple", "white")
    assert len(data.records) == 8  # the image without annotations too
    assert all(record.path.is_file() for record in data.records)
    assert data.targets(data.labels).sum() == 12
    as_file = read_dataset(
        official / "coco" / "annotations" / "instances_val2014.json", official / "coco" / "val2014"
    )
    assert as_file.records == data.records


def test_images_may_lie_elsewhere(official: Path, tmp_path: Path) -> None:
    for name in ("VOC2007:test", "NUS-WIDE:test", "OpenImages:test", "coco:val2014"):
        data = read_dataset(official / name, tmp_path)
        assert all(record.path.is_relative_to(tmp_path) for record in data.records)
    with pytest.raises(DataError, match="no image folder"):
        read_dataset(official / "VOC2007:test", tmp_path / "absent")


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("VOC2007", "test, trainval"),
        ("NUS-WIDE", "train, test, train81, test81"),
        ("OpenImages", "test, test-machine, train, train-machine"),
        ("coco", "val2014"),
    ],
)
def test_a_part_must_be_named_and_exist(official: Path, name: str, parts: str) -> None:
    with pytest.raises(DataError, match=rf"is a folder; name one of its parts \({parts}\)"):
        read_dataset(official / name)
    for wrong in ("holdout", "test@0.5x" if name != "OpenImages" else "val", ""):
        with pytest.raises(DataError, match=rf"has no part '{wrong}'.*such as .*{name}:"):
            read_dataset(f"{official / name}:{wrong}")


def test_what_is_neither_file_nor_layout(official: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none of the layouts.*VOC: ImageSets/Main"):
        read_dataset(tmp_path)
    with pytest.raises(DataError, match=r"none of the layouts"):
        read_dataset(f"{tmp_path}:test")
    with pytest.raises(DataError, match=r"no data file or folder .*absent:test"):
        read_dataset(tmp_path / "absent:test")
    (tmp_path / "d.csv").write_text("image_path,posi_labels\na.jpg,cat\n")
    with pytest.raises(DataError, match="is a file, which has no part 'test'"):
        read_dataset(f"{tmp_path / 'd.csv'}:test")
    (tmp_path / "a:b.csv").write_text("image_path,posi_labels\na.jpg,cat\n")
    assert read_dataset(tmp_path / "a:b.csv").labels == ("cat",)  # a colon in a name is no part


RED = "ImageSets/Main/red_test.txt"
WHITE = "Groundtruth/TrainTestLabels/Labels_white_Test.txt"
TAGS = "NUS_WID_Tags/Train_Tags1k.dat"
CONCEPTS = "ConceptsList/Concepts81.txt"
PEOPLE = "test-annotations-human-imagelabels.csv"
NAMES = "oidv6-class-descriptions.csv"


@pytest.mark.parametrize(
    ("name", "file", "old", "new", "message"),
    [
        ("VOC2007:test", RED, " 1\r\n", " 2\r\n", r"line 1: .* 1, 0 or"),
        ("VOC2007:test", RED, "000101  1\r\n", "", r"red_test.* 7 lines, .*ingtable_test.* 8 im"),
        ("VOC2007:test", RED, "000102", "000109", "line 2: image '000109', where"),
        ("NUS-WIDE:test", WHITE, "0\r\n", "", r"white_Test.* 7 lines, but .*TestImagelist.* 8 im"),
        ("NUS-WIDE:test", WHITE, "0", "x", "row 1: 'x' is neither 0 nor 1"),
        ("NUS-WIDE:train", TAGS, "1\t", "", "row 1: 3 numbers instead of 4"),
        ("NUS-WIDE:train", TAGS, "1\t0\t0\t0\t\r\n", "", r" 23 lines, but .*TrainImagelist.* 24"),
        ("NUS-WIDE:train", TAGS, "1", "2", "'2' is neither"),
        ("NUS-WIDE:test81", CONCEPTS, "white", "cow", r"no file .*Labels_cow_Test\.txt"),
        ("OpenImages:test", PEOPLE, ",1", ",0.5", r"line 2: people's confidence is .* not 0\.5"),
        ("OpenImages:test", PEOPLE, ",1", ",yes", "line 2: 'yes' is no confidence"),
        ("OpenImages:test", PEOPLE, ",1", "", "line 2: 3 cells instead of 4"),
        ("OpenImages:test", PEOPLE, "LabelName", "Label", "no column 'LabelName'"),
        ("OpenImages:test", NAMES, ',"Red, disc"', "", "not a MID and a name"),
        ("OpenImages:test", PEOPLE, ",1", ',"' + "1" * 200_000, "is not a CSV file: field larger"),
        ("OpenImages:test", NAMES, "Red,", "Red," * 50_000, "is not a CSV file: field larger"),
    ],
)
def test_damaged_files(
    broken: Callable[[str], Path], name: str, file: str, old: str, new: str, message: str
) -> None:
    folder = broken(name.partition(":")[0])
    change(folder / file, old, new)
    with pytest.raises(DataError, match=message):
        read_dataset(folder.parent / name)


@pytest.mark.parametrize(
    ("name", "gone", "message"),
    [
        ("VOC2007:test", "JPEGImages", "no image folder .*JPEGImages.*--images"),
        ("NUS-WIDE:test", "Flickr", "no image folder .*Flickr.*--images"),
        ("NUS-WIDE:test", "ImageList", r"no file .*TestImagelist\.txt"),
        ("NUS-WIDE:test", "NUS_WID_Tags", r"no file .*TagList1k\.txt"),
        ("NUS-WIDE:test", "ConceptsList", r"no file .*Concepts81\.txt"),
        ("OpenImages:test", "test", "no image folder .*test"),
        ("OpenImages:test", "oidv6-class-descriptions.csv", "needs one file of names"),
        ("coco:val2014", "val2014", "no image folder .*val2014"),
    ],
)
def test_missing_files(broken: Callable[[str], Path], name: str, gone: str, message: str) -> None:
    folder = broken(name.partition(":")[0])
    target = folder / gone
    shutil.rmtree(target) if target.is_dir() else target.unlink()
    with pytest.raises(DataError, match=message):
        read_dataset(folder.parent / name)


def test_nus_wides_81_labels_need_no_tags(broken: Callable[[str], Path]) -> None:
    folder = broken("NUS-WIDE")
    shutil.rmtree(folder / "NUS_WID_Tags")
    assert len(read_dataset(f"{folder}:test81").records) == 8

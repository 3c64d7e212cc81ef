import shutil
from pathlib import Path

import numpy as np
import pytest

from ovml_deploy.errors import DataError
from ovml_deploy.pipelines.labelled_images import (
    LabelledFolder,
    read_labelled_folder,
    targets_for,
)


class Data:
    """Targets by label."""

    def __init__(self, **columns: list[int]) -> None:
        self.columns = columns
        self.labels = tuple(columns)

    def targets(self, labels) -> np.ndarray:
        assert len(set(labels)) == len(labels)
        return np.array([self.columns[label] for label in labels], dtype=np.int8).T


def test_a_folder_of_folders(tmp_path: Path) -> None:
    for name in ("dog/b.jpg", "dog/a.PNG", "cat/deep/c.webp", "cat/notes.txt", "stray.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    for name in ("empty/readme.md", ".hidden/d.jpg"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    found = read_labelled_folder(tmp_path)
    assert found.labels == ("cat", "dog")
    names = ("cat/deep/c.webp", "dog/a.PNG", "dog/b.jpg")
    assert found.paths == tuple(str(tmp_path / name) for name in names)
    np.testing.assert_array_equal(found.targets(("dog", "cat")), [[0, 1], [1, 0], [1, 0]])
    assert found.targets(("cat",)).dtype == np.int8


@pytest.mark.parametrize("inside", [None, "a.jpg", "dog/notes.txt"])
def test_a_folder_without_labelled_images_is_refused(tmp_path: Path, inside: str | None) -> None:
    if inside:
        (tmp_path / inside).parent.mkdir(exist_ok=True)
        (tmp_path / inside).touch()
    with pytest.raises(DataError, match=r"holds no subfolders with images\. Make one subfolder"):
        read_labelled_folder(tmp_path)
    with pytest.raises(DataError, match="There is no folder"):
        read_labelled_folder(tmp_path / "absent")


def test_labels_find_their_columns() -> None:
    data = Data(dog=[1, 0, -1], Boat=[0, 1, 1], tree=[1, 1, 1])
    targets, strange = targets_for(data, ["boat", "cat", "dog"])
    assert targets.dtype == np.int8
    np.testing.assert_array_equal(targets, [[0, -1, 1], [1, -1, 0], [1, -1, -1]])
    assert strange == ("tree",)


def test_as_written_comes_before_another_case() -> None:
    data = Data(apple=[1, 0], Pear=[0, 1])
    np.testing.assert_array_equal(
        targets_for(data, ["Apple", "apple", "pear", "PEAR"])[0],
        [[-1, 1, 0, -1], [-1, 0, 1, -1]],
    )


def test_spellings_of_one_label_are_taken_together() -> None:
    """Present if either says so; absent if one says so and the other does not know."""
    data = Data(cat=[1, 0, 0, -1, -1], CAT=[0, 1, -1, 0, -1])
    targets, strange = targets_for(data, ["cat"])
    assert targets[:, 0].tolist() == [1, 1, 0, 0, -1]
    assert strange == ()


def test_a_decomposed_name_of_a_file_system_is_found() -> None:
    folder = LabelledFolder(("x.jpg",), ("cafe\u0301",), (0,))
    assert targets_for(folder, ["caf\u00e9"])[0].tolist() == [[1]]


def test_nothing_in_common_is_an_error() -> None:
    with pytest.raises(
        DataError, match=r"None of the data's 1 labels \('dog'\).*are 'a', 'b', 'c'"
    ):
        targets_for(Data(dog=[1]), ["a", "b", "c", "d"])


def test_real_images_are_found(pictures: list[Path], tmp_path: Path) -> None:
    shutil.copytree(pictures[0].parent, tmp_path / "noise")
    assert len(read_labelled_folder(tmp_path).paths) == len(pictures)

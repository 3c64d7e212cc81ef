from pathlib import Path

import pytest

from ovml_deploy.errors import UsageError
from ovml_deploy.pipelines.folders import find_images


@pytest.fixture
def here(tmp_path: Path, monkeypatch) -> Path:
    """A folder with images, other files, and awkward names, as the working directory."""
    for name in (
        "in/b.jpg",
        "in/a.PNG",
        "in/notes.txt",
        "in/deep/er/c.webp",
        "in/thumbs.jpg/d.tiff",
        "a[1].jpg",
        "2024",
        "empty/readme.md",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["in"], ["in/a.PNG", "in/b.jpg", "in/deep/er/c.webp", "in/thumbs.jpg/d.tiff"]),
        (["2024", "in/b.jpg"], ["2024", "in/b.jpg"]),  # a file that is named is taken as it is
        (["in/notes.txt"], ["in/notes.txt"]),
        (["in/*.jpg"], ["in/b.jpg"]),  # a folder of that name is none
        (["in/**/*.webp"], ["in/deep/er/c.webp"]),
        (["in/?.*"], ["in/a.PNG", "in/b.jpg"]),
        (["a[1].jpg"], ["a[1].jpg"]),  # a file before a pattern
        (["in/b.jpg", "in", "in/b.jpg"][:2], ["in/b.jpg", "in/a.PNG", *["in/deep/er/c.webp"]]),
        (["absent.jpg"], ["absent.jpg"]),
    ],
)
def test_what_names_mean(here: Path, names: list[str], found: list[str]) -> None:
    images = find_images(names).images
    assert images[: len(found)] == found
    assert len(set(images)) == len(images)


def test_a_folder_gives_its_images_only(here: Path) -> None:
    assert len(find_images(["in"]).images) == 4


def test_an_absolute_pattern(here: Path) -> None:
    assert find_images([f"{here}/in/b*"]).images == [str(here / "in/b.jpg")]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "No images are named"),
        (["empty"], r"The folder 'empty' holds no images \(.*\.jpg"),
        (["in/*.gif"], r"No file matches the pattern 'in/\*\.gif'"),
    ],
)
def test_nothing_to_do_is_an_error(here: Path, names: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        find_images(names)

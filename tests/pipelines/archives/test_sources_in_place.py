"""Images of a tar by their places in it, which other machines can read, too."""

from pathlib import Path

import pytest
from archive_files import make_images, make_tar

from ovml_deploy.errors import ImageError
from ovml_deploy.pipelines.archives.sources import Stretch, find_items, read


@pytest.fixture
def members(tmp_path: Path) -> list[tuple[str, bytes]]:
    paths = make_images(tmp_path / "photos", 5)
    return [(path.name, path.read_bytes()) for path in paths] + [("empty.png", b"")]


def found(path: Path, in_place: bool) -> list[tuple[str, bytes | str]]:
    rows: list[tuple[str, bytes | str]] = []
    for item in find_items([str(path)], lambda name: True, "image", in_place):
        try:
            rows.append((item.name, read(item).data))
        except ImageError as error:
            rows.append((item.name, str(error)))
    return rows


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_the_same_images(members, tmp_path, mode) -> None:
    """A compressed tar, whatever its name says, has no places."""
    tar = make_tar(tmp_path / "a.tar", members, mode)
    items = [*find_items([str(tar)], lambda name: True, "image", True)]
    places = [isinstance(item.content, Stretch) for item in items]
    assert places == ([True] * 5 + [False] if mode == "w" else [False] * 6)
    assert found(tar, True) == found(tar, False)
    assert [data for _, data in found(tar, True)][:5] == [data for _, data in members[:5]]


@pytest.mark.parametrize("left", [300, 1500, 4000, 6000, 9000, 10_300])
def test_cut_short_it_says_the_same(members, tmp_path, left) -> None:
    tar = make_tar(tmp_path / "a.tar", members)
    tar.write_bytes(tar.read_bytes()[:left])
    assert found(tar, True) == found(tar, False)


def test_a_tar_that_shrank_meanwhile(members, tmp_path) -> None:
    tar = make_tar(tmp_path / "a.tar", members)
    items = [*find_items([str(tar)], lambda name: True, "image", True)]
    tar.write_bytes(tar.read_bytes()[:1000])
    with pytest.raises(ImageError, match=r"0000.png: has \d+ of [\d,]+ bytes"):
        read(items[0])
    tar.unlink()
    with pytest.raises(ImageError, match="cannot be read"):
        read(items[1])

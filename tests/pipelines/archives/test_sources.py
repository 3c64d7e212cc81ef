"""Folders, tars and Parquet files give the same images; damaged ones what is before the damage."""

import hashlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from archive_files import make_images, make_tar

from ovml_deploy.errors import ImageError, UsageError
from ovml_deploy.pipelines.archives.sources import check_sources, find_items, read


def names_and_digests(*sources: object, column: str = "image") -> list[tuple[str, object]]:
    found: list[tuple[str, object]] = []
    for item in find_items([str(source) for source in sources], lambda name: True, column):
        try:
            found.append((item.name, read(item).digest))
        except ImageError as error:
            found.append((item.name, str(error)))
    return found


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    return make_images(tmp_path / "photos", 5)


@pytest.fixture
def digests(images: list[Path]) -> list[bytes]:
    return [hashlib.sha256(path.read_bytes()).digest() for path in images]


def test_a_folder(images, digests) -> None:
    wanted = [(str(path), digest) for path, digest in zip(images, digests, strict=True)]
    assert names_and_digests(images[0].parent) == wanted


@pytest.mark.parametrize("name", ["shard.tar", "shard.tar.gz"])
def test_a_tar_of_images_and_what_belongs_to_them(tmp_path, images, digests, name) -> None:
    members = [
        m for p in images for m in ((f"in/{p.name}", p.read_bytes()), (f"in/{p.stem}.json", b"{}"))
    ]
    tar = make_tar(tmp_path / name, members, "w:gz" if name.endswith("gz") else "w")
    found = names_and_digests(tar)
    assert found == [(f"{tar}::in/{p.name}", d) for p, d in zip(images, digests, strict=True)]
    assert names_and_digests(tmp_path / f"*{name[5:]}") == found


def test_a_name_twice_in_a_tar(tmp_path, images, digests) -> None:
    tar = make_tar(tmp_path / "a.tar", [("x.png", path.read_bytes()) for path in images[:2]])
    assert names_and_digests(tar) == [
        (f"{tar}::x.png", digests[0]),
        (f"{tar}::x.png#2", digests[1]),
    ]


def test_a_tar_that_ends_too_early_gives_what_it_has(tmp_path, images, digests) -> None:
    tar = make_tar(tmp_path / "a.tar", [(path.name, path.read_bytes()) for path in images])
    tar.write_bytes(tar.read_bytes()[: 3 * (512 + 3 * 1024)])  # within the third
    *good, (name, why) = names_and_digests(tar, images[4])[:-1]
    assert [digest for _, digest in good] == digests[: len(good)]
    assert 0 < len(good) < 5
    assert name == str(tar)
    assert "cannot be read behind" in why
    assert good[-1][0].split("::")[1] in why


def test_what_is_not_a_tar_or_not_there(tmp_path) -> None:
    (tmp_path / "a.tar").write_bytes(b"hello")
    (tmp_path / "b.parquet").write_bytes(b"PAR1 hello")
    names = [tmp_path / name for name in ("a.tar", "b.parquet", "c.tar", "d.parquet", "e.png")]
    whys = [why for _, why in names_and_digests(*names)]
    assert all("cannot be read behind its start" in why for why in whys[:2])
    assert all("there is no such file" in why for why in whys[2:])


@pytest.mark.parametrize("kind", ["bytes", "struct"])
def test_a_parquet_of_images(tmp_path, images, digests, kind) -> None:
    data = [path.read_bytes() for path in images]
    data[3] = None
    values = data if kind == "bytes" else [{"bytes": one, "path": "x"} for one in data]
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"picture": values, "label": range(5)}), path, row_group_size=2)
    found = names_and_digests(path, column="picture")
    assert [name for name, _ in found] == [f"{path}::{row}" for row in range(5)]
    assert [d for row, (_, d) in enumerate(found) if row != 3] == digests[:3] + digests[4:]
    assert "no bytes" in found[3][1]
    check_sources([str(path)], "picture")
    with pytest.raises(UsageError, match=r"it has: picture, label.*--image-column"):
        check_sources([str(path)], "image")
    with pytest.raises(UsageError, match="holds int64"):
        check_sources([str(path)], "label")


def test_unwanted_images_are_not_read(tmp_path, images) -> None:
    tar = make_tar(tmp_path / "a.tar", [(path.name, path.read_bytes()) for path in images])
    items = find_items([str(tar)], lambda name: name.endswith("0002.png"), "image")
    assert [item.name for item in items] == [f"{tar}::0002.png"]


def test_nothing_named_or_found(tmp_path) -> None:
    with pytest.raises(UsageError, match="No images are named"):
        check_sources([], "image")
    with pytest.raises(UsageError, match="No file matches"):
        check_sources([str(tmp_path / "*.tar")], "image")


def test_a_name_that_is_no_utf8(images) -> None:
    odd = images[0].rename(images[0].with_name("caf\udce9.png"))
    (name, digest), *_ = names_and_digests(odd)
    assert name.endswith("caf\\udce9.png")
    assert isinstance(digest, bytes)

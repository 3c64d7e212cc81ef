"""Files that the commands pass over or cannot read: what they print, and their exit codes."""

import csv
import errno
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from archive_files import make_tar
from photo_keywords import needs_exiftool, xmp_keywords
from PIL import Image
from raw_files import make_dng

HEIC = Path(__file__).resolve().parents[1] / "runtime/heic/turned.heic"
TOOLS = "passed over: 2 left by photo tools or the system (1 ._*, 1 @eaDir)\n"
OTHERS = "passed over: 2 not named like an image (1 .mov, 1 .txt)\n"


@pytest.fixture
def photos(pictures: list[Path], tmp_path: Path) -> Path:
    """Two images, a folder of one more that is linked, and what lies about in folders of photos."""
    folder = tmp_path / "photos"
    (folder / "@eaDir").mkdir(parents=True)
    (tmp_path / "other").mkdir()
    for picture, name in zip(
        pictures, ("photos/a.png", "photos/b.JPG", "other/c.png"), strict=False
    ):
        shutil.copy(picture, tmp_path / name)
    shutil.copy(pictures[0], folder / "@eaDir/a.png")
    for name in ("._a.png", "notes.txt", "clip.mov"):
        (folder / name).write_bytes(b"x")
    (folder / "linked").symlink_to("../other")
    return folder


@pytest.mark.parametrize("form", ["json", "csv", "table"])
def test_tag_says_what_it_passed_over_and_only_on_standard_error(
    cli, tiny_bundle, photos, form
) -> None:
    done = cli("tag", photos, "--engine", tiny_bundle, "--format", form)
    assert (done.code, done.err) == (0, TOOLS + OTHERS)
    names = ["a.png", "b.JPG", "linked/c.png"]
    if form == "json":
        assert [v["image"] for v in json.loads(done.out)] == [f"{photos}/{n}" for n in names]
    elif form == "csv":
        rows = [row["image"] for row in csv.DictReader(io.StringIO(done.out))]
        assert {*rows} == {f"{photos}/{n}" for n in names}
    excluded = cli("tag", photos, "--engine", tiny_bundle, "--exclude", "linked,*.jpg,*.mov,*.txt")
    assert (excluded.code, excluded.err) == (0, TOOLS + "passed over: 4 by --exclude\n")


def test_tag_fails_for_what_cannot_be_read(cli, tiny_bundle, photos, monkeypatch) -> None:
    (photos / "gone.jpg").symlink_to("nowhere.jpg")
    (photos / "2019").symlink_to("/nowhere/2019")
    (photos / "private").mkdir()
    monkeypatch.chdir(photos.parent)
    scandir = os.scandir

    def refuse(folder: str) -> object:  # root may read all folders
        if folder == "photos/private":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), folder)
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    line = ("tag", "photos", "--engine", tiny_bundle, "--exclude", "linked", "--format", "json")
    done = cli(*line)
    assert done.code == 3
    values = {value["image"]: value.get("error") for value in json.loads(done.out)}
    assert values == {
        "photos/a.png": None,
        "photos/b.JPG": None,
        "photos/gone.jpg": "photos/gone.jpg: a broken link to 'nowhere.jpg'; restore its target, or "
        "remove the link.",
        "photos/2019": "photos/2019: a broken link to '/nowhere/2019'; restore its target, or remove "
        "the link.",
        "photos/private": "photos/private: the folder cannot be read (Permission denied).",
    }
    for error in filter(None, values.values()):
        assert f"failed: {error}\n" in done.err


def test_heic_and_raw_are_tagged_or_named(cli, tiny_bundle, tmp_path, monkeypatch) -> None:
    pytest.importorskip("pi_heif", reason="the extra 'heif' (pi-heif) is not installed")
    pytest.importorskip("rawpy", reason="the extra 'raw' (rawpy) is not installed")
    folder = tmp_path / "phone"
    folder.mkdir()
    for number in range(5):
        shutil.copy(HEIC, folder / f"{number}.HEIC")
    (folder / "x.dng").write_bytes(make_dng(Image.new("RGB", (64, 48), (90, 90, 200))))
    line = ("tag", folder, "--engine", tiny_bundle, "--format", "json")
    done = cli(*line)
    assert (done.code, done.err) == (0, "")
    assert [len(value["tags"]) for value in json.loads(done.out)] == [5] * 6
    monkeypatch.setitem(sys.modules, "pi_heif", None)
    monkeypatch.setitem(sys.modules, "rawpy", None)
    done = cli(*line)
    assert done.code == 3
    assert ["error" in value for value in json.loads(done.out)] == [True] * 6
    *first, raw, more = done.err.splitlines()
    assert [each.split(":")[1].strip() for each in first] == [
        f"{folder}/{n}.HEIC" for n in range(3)
    ]
    assert "x.dng: is a camera RAW file" in raw
    assert "ovml-deploy[raw]" in raw
    assert more.startswith(
        "failed: 2 more: is a HEIC image. To read it, install: pip install 'ovml-"
    )


def test_index_says_the_same(cli, tiny_bundle, photos, tmp_path) -> None:
    pytest.importorskip("pyarrow", reason="the extra 'archives' (pyarrow) is not installed")
    good = (photos / "a.png").read_bytes()
    inside = [
        *(("./in/d.png", good), ("in/._d.png", b"x"), ("__MACOSX/in/d.png", good)),
        *(("in/d.json", b"{}"), ("in/raw/e.png", good)),
    ]
    tar = make_tar(tmp_path / "shard.tar", inside)
    (photos / "2019").symlink_to("/nowhere/2019")
    out = tmp_path / "archive"
    line = ("index", photos, tar, "--out", out, "--engine", tiny_bundle, "--exclude", "raw")
    done = cli(*line)
    assert done.code == 3
    assert f"{out}: 3 images added, 1 copies of others, 0 there already, 1 failed" in done.out
    assert done.err.splitlines()[:4] == [
        f"failed: {photos}/2019: a broken link to '/nowhere/2019'; restore its target, or remove the "
        "link.",
        "passed over: 4 left by photo tools or the system (2 ._*, 1 @eaDir, 1 __MACOSX)",
        "passed over: 1 by --exclude",
        "passed over: 3 not named like an image (1 .mov, 1 .txt, 1 .json)",
    ]
    errors = [json.loads(one) for one in (out / "errors.jsonl").read_text().splitlines()]
    assert [error["path"] for error in errors] == [f"{photos}/2019"]
    (photos / "2019").unlink()
    shutil.copytree(tmp_path / "other", photos / "2019")
    again = cli(*line)
    assert again.code == 0  # the failure of the first run is settled
    assert "0 images added, 1 copies of others, 4 there already, 0 failed" in again.out
    assert (out / "errors.jsonl").read_text() == ""


def test_calibrate_says_the_same(cli, bundle_copy, photos, tmp_path) -> None:
    data = tmp_path / "labelled"
    for label in ("cat", "dog"):
        (data / label).mkdir(parents=True)
        for number in range(8):
            colour = (200, 30 + number, 30) if label == "cat" else (30, 30, 200 - number)
            Image.new("RGB", (40, 30), colour).save(data / label / f"{number}.png")
    (data / "@eaDir").mkdir()
    (data / "cat/notes.txt").touch()
    (data / "dog/2019").symlink_to("/nowhere/2019")
    out = tmp_path / "v.safetensors"
    done = cli("vocab", "calibrate", "few", data, "--engine", bundle_copy, "--out", out)
    assert "passed over: 1 left by photo tools or the system (1 @eaDir)\n" in done.err
    assert "passed over: 1 not named like an image (1 .txt)\n" in done.err
    assert f"failed: {data}/dog/2019: a broken link to '/nowhere/2019'" in done.err
    assert done.code in (1, 3)  # 1: a model of random weights may not be calibrated
    assert (done.code == 3) == out.exists()


@needs_exiftool
def test_keywords_say_the_same(cli, tiny_bundle, photos, tmp_path) -> None:
    (photos / "2019").symlink_to("/nowhere/2019")
    out = tmp_path / "out"
    line = ("keywords", photos, "--out", out, "--engine", tiny_bundle, "--threshold", 0)
    done = cli(*line, "--exclude", "b.*")
    assert done.code == 3
    assert done.out == f"{out}: 2 copies, 1 failed\n"
    assert TOOLS + "passed over: 1 by --exclude\n" + OTHERS in done.err
    assert "2019: a broken link to '/nowhere/2019'" in done.err
    assert len(xmp_keywords(out / "linked/c.png")) == 5
    raw = tmp_path / "x.dng"
    raw.write_bytes(make_dng(Image.new("RGB", (64, 48), (90, 90, 200))))
    heic = shutil.copy(HEIC, tmp_path / "y.heic")
    pytest.importorskip("pi_heif", reason="the extra 'heif' (pi-heif) is not installed")
    pytest.importorskip("rawpy", reason="the extra 'raw' (rawpy) is not installed")
    done = cli("keywords", raw, heic, "--out", out, "--engine", tiny_bundle, "--threshold", 0)
    assert (done.code, done.err) == (0, "")
    for name in ("x.dng", "y.heic"):
        words = subprocess.run(
            ["exiftool", "-s3", "-XMP-dc:Subject", out / name], capture_output=True
        )
        assert len(words.stdout.split(b", ")) == 5

"""Runs every command and snippet of docs/outputs.md, as typed, in a folder like a user's."""

import ast
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from photo_keywords import iptc_keywords, needs_exiftool, xmp_keywords
from shell import ROOT, run, run_snippet

from ovml_deploy import assets

pytest.importorskip("pyarrow", reason="the extra 'archives' (pyarrow) is not installed")

TEXT = (ROOT / "docs" / "outputs.md").read_text("utf-8")
SECTIONS = dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", TEXT, re.MULTILINE | re.DOTALL))
KEYWORDS = "Keywords in photos"
FIFTYONE = ROOT / "build" / "fiftyone" / "bin" / "python"

pytestmark = pytest.mark.skipif(
    not (assets.MINI / "bundle.json").exists(), reason="the embedded model is not built"
)


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """What the document's commands find: three photographs, labels, a bundle."""
    (tmp_path / "photos").mkdir()
    for name in ("cat", "clock", "temple"):
        shutil.copy(assets.MINI.parent / "samples" / f"{name}.jpg", tmp_path / "photos")
    (tmp_path / "labels.txt").write_text("cat\nclock\nstatue\n")
    (tmp_path / "build").mkdir()
    (tmp_path / "build" / "qks").symlink_to(assets.MINI)
    return tmp_path


@pytest.fixture
def run_all(world: Path) -> Callable[[str], list[str]]:
    """A function that runs a section's blocks in order and returns what each line and snippet printed."""

    def checked(done: subprocess.CompletedProcess[str], typed: str) -> str:
        assert done.returncode == 0, (typed, done.stderr)
        return done.stdout

    def run_block(kind: str, block: str) -> list[str]:
        if "import fiftyone" in block:
            done = subprocess.run(
                [FIFTYONE, "-c", block], capture_output=True, text=True, cwd=world
            )
            return [checked(done, block)]
        if kind == "python":
            return [checked(run_snippet(block, world, "cpu", "archives"), block)]
        assert kind == "bash"
        lines = block.strip().splitlines()
        if lines[0].startswith("pip install"):
            assert '\narchives = ["pyarrow' in (ROOT / "pyproject.toml").read_text()
            del lines[0]
        return [checked(run(line, world), line) for line in lines]

    def run_section(title: str) -> list[str]:
        blocks = re.findall(r"^```(\w+)\n(.*?)^```$", SECTIONS[title], re.MULTILINE | re.DOTALL)
        return [said for block in blocks for said in run_block(*block)]

    return run_section


def test_printed(world: Path, run_all) -> None:
    table, values, _ = run_all("Printed, for people and pipes")
    assert "photos/cat.jpg" in table
    assert [Path(value["image"]).name for value in json.loads(values)] == [
        "cat.jpg",
        "clock.jpg",
        "temple.jpg",
    ]
    assert (world / "tags-printed.csv").read_text().startswith("image,label,score,error\n")


def test_files(run_all) -> None:
    *_, parquet, table, lines, coco = run_all("Files: Parquet, CSV, JSON lines, COCO")
    assert "photos/cat.jpg ['cat'" in parquet
    assert table.startswith("photos/cat.jpg cat 0.")
    assert lines.startswith("photos/cat.jpg ['cat', ")
    assert coco.startswith("photos/cat.jpg cat 0.")
    assert len(lines.splitlines()) == 3
    assert len(coco.splitlines()) == 9  # three tags each


@pytest.mark.skipif(
    not FIFTYONE.exists(), reason="FiftyOne is not installed ('make build/fiftyone')"
)
def test_fiftyone(world: Path, run_all, monkeypatch) -> None:
    """In the environment that FiftyOne has of its own, with its own database."""
    monkeypatch.setenv("HOME", str(world / "home"))
    monkeypatch.setenv("FIFTYONE_DO_NOT_TRACK", "true")
    *_, counted = run_all("FiftyOne")
    assert ast.literal_eval(counted.splitlines()[-1]) == {"cat": 3, "clock": 3, "statue": 3}


@needs_exiftool
def test_keywords(world: Path, run_all) -> None:
    said = run_all(KEYWORDS)
    assert said[0] == "tagged: 3 copies, 0 failed\n"
    assert xmp_keywords(world / "tagged" / "cat.jpg") == ["cat"]
    assert iptc_keywords(world / "tagged" / "cat.jpg") == ["cat"]
    assert "auto: cat" in xmp_keywords(world / "tagged-mine" / "cat.jpg")
    assert said[-1].startswith("copies/cat.jpg ('cat',)")


@needs_exiftool
def test_the_table_of_formats_is_right(world: Path) -> None:
    """The formats that Pillow writes here, in a row of the table each."""
    from PIL import Image, features

    from ovml_deploy.pipelines.keywords import write_keywords
    from ovml_deploy.runtime.tagger import Tagger

    rows = dict(re.findall(r"^\| ([^|]+) \| ([^|]+) \|", SECTIONS[KEYWORDS], re.MULTILINE))
    kinds = {"JPEG": "jpg", "TIFF": "tif", "PNG": "png", "WebP": "webp", "GIF": "gif"}
    kinds |= {"BMP": "bmp", "ICO": "ico", "Netpbm": "ppm"}
    if features.check("jpg_2000"):
        kinds["JPEG 2000"] = "jp2"
    if features.check("avif"):
        kinds["AVIF"] = "avif"
    folder = world / "kinds"
    folder.mkdir()
    pixels = Image.open(world / "photos" / "cat.jpg").resize((64, 64))
    for kind, ending in kinds.items():
        pixels.save(folder / f"{kind}.{ending}")
    tagger = Tagger.load(assets.MINI, vocabulary=["cat", "clock"])
    for copy in write_keywords(tagger, [str(folder)], world / "out", threshold=0.0):
        kind = Path(copy.source).stem
        (row,) = [row for row in rows if kind in row.split(", ")]
        assert (copy.error is None) == (rows[row] == "yes"), copy
        if copy.error is None:
            found = subprocess.run(
                ["exiftool", "-s3", "-sep", ",", "-XMP-dc:Subject", str(copy.path)],
                capture_output=True,
                text=True,
            ).stdout
            assert found == "cat,clock\n"

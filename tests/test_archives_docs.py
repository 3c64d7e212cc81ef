"""Runs every command and snippet of docs/archives.md, as typed, in a folder like a user's."""

import re
import shutil
from pathlib import Path

import pytest
from archive_files import make_images, make_tar
from shell import ROOT, run, run_snippet

from ovml_deploy import assets

pytest.importorskip("pyarrow", reason="the extra 'archives' (pyarrow) is not installed")

import pyarrow as pa
import pyarrow.parquet as pq

TEXT = (ROOT / "docs" / "archives.md").read_text("utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)

pytestmark = pytest.mark.skipif(
    not (assets.MINI / "bundle.json").exists(), reason="the embedded model is not built"
)


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """What the document's commands find: photographs, shards, a Parquet file, labels, a bundle."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for path in assets.sample_photographs()[:3]:
        shutil.copy(path, photos)
    others = [path.read_bytes() for path in make_images(tmp_path / "others", 4)]
    (tmp_path / "shards").mkdir()
    make_tar(tmp_path / "shards" / "0.tar", [("a.png", others[0]), ("b.png", others[1])])
    pq.write_table(pa.table({"picture": others[2:]}), tmp_path / "train.parquet")
    (tmp_path / "labels.txt").write_text("cat\nclock\nstatue\n")
    (tmp_path / "build").mkdir()
    (tmp_path / "build" / "qks").symlink_to(assets.MINI)
    return tmp_path


def test_every_command_and_snippet_runs_in_order(world: Path) -> None:
    assert {kind for kind, _ in BLOCKS} == {"bash", "python"}
    said, ran = [], 0
    for kind, block in BLOCKS:
        if kind == "python":
            done = run_snippet(block, world, "cpu", "archives")
            assert done.returncode == 0, (block, done.stderr)
            said.append(done.stdout)
            continue
        for line in block.strip().splitlines():
            if line.startswith("pip install"):
                assert '\narchives = ["pyarrow' in (ROOT / "pyproject.toml").read_text()
                continue
            done = run(line, world)
            assert done.returncode == 0, (line, done.stderr)
            ran += 1
    assert ran == 5
    first, second = said
    assert first.startswith("0 0\nphotos/")  # its archive is there already
    assert len(first.splitlines()) == 1 + 3
    assert second == "(3, 12, 384)\n"
    assert pq.read_table(world / "tags.parquet").num_rows == 3
    assert (world / "tags.csv").read_text().startswith('"path","label","score"\n')


def test_the_endings_are_those_that_are_written() -> None:
    from ovml_deploy.pipelines.tag_files import _WRITERS

    assert [*_WRITERS] == re.findall(r"^\| `(\.\w+)` \|", TEXT, re.MULTILINE)


def test_the_figures_are_there() -> None:
    for table in re.findall(r"<!-- table: .*? -->\n(.*?)<!-- end -->", TEXT, re.DOTALL):
        assert table.startswith("| ")

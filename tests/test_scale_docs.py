"""Runs every command and snippet of docs/scale.md, as typed, against a Ray that runs already."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from archive_files import content, make_images, make_tar
from local_ray import local_ray
from shell import ROOT, run, run_snippet

from ovml_deploy import assets

pytest.importorskip("pyarrow", reason="the extra 'archives' (pyarrow) is not installed")
pytest.importorskip("ray.data", reason="ray[data] is not installed")

TEXT = (ROOT / "docs" / "scale.md").read_text("utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)

pytestmark = pytest.mark.skipif(
    not (assets.MINI / "bundle.json").exists(), reason="the embedded model is not built"
)


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """What the document's commands find: photographs, shards, labels, a bundle, the benchmarks."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for path in assets.sample_photographs()[:3]:
        shutil.copy(path, photos)
    others = [path.read_bytes() for path in make_images(tmp_path / "others", 2)]
    (tmp_path / "shards").mkdir()
    make_tar(tmp_path / "shards" / "0.tar", [("a.png", others[0]), ("b.png", others[1])])
    (tmp_path / "labels.txt").write_text("cat\nclock\nstatue\n")
    (tmp_path / "build").mkdir()
    (tmp_path / "build" / "qks").symlink_to(assets.MINI)
    (tmp_path / "benchmarks").symlink_to(ROOT / "benchmarks")
    return tmp_path


@pytest.fixture
def cluster_address(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A cluster that commands find by RAY_ADDRESS, as they would on its head."""
    import ray

    with local_ray(2, {}):
        monkeypatch.setenv("RAY_ADDRESS", ray.get_runtime_context().gcs_address)
        yield


def test_every_command_and_snippet_runs_in_order(world: Path, cluster_address: None) -> None:
    assert {kind for kind, _ in BLOCKS} == {"bash", "python"}
    said = []
    for kind, block in BLOCKS:
        if kind == "python":
            done = run_snippet(block, world, "cpu", "ray")
            assert done.returncode == 0, (block, done.stderr)
            said.append(done.stdout)
            continue
        for line in block.strip().replace("\\\n", "").splitlines():
            if line.startswith("pip install"):
                assert "ray[data,serve]" in (ROOT / "pyproject.toml").read_text()
                continue
            done = run(line, world)
            assert done.returncode == 0, (line, done.stderr)
            said.append(done.stdout)
    first, second, python, *plans = said
    assert first.startswith("archive: 5 images added, 0 copies of others")
    assert second == "5 images with 3 labels: tags.parquet\n"
    assert python == "0 0\n5\n"
    assert len(plans) == 2
    assert all("| bottleneck |" in plan for plan in plans)
    _one_machine_makes_the_same(world)


def _one_machine_makes_the_same(world: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    for line in ("index photos 'shards/*.tar' --out here --engine build/qks", "retag here"):
        if line == "retag here":
            line += " --engine build/qks --vocab labels.txt --out here.parquet"
        command = f"{sys.executable} -m ovml_deploy.cli {line}"
        subprocess.run(["bash", "-c", command], cwd=world, check=True, env=environment)
    assert content(world / "archive") == content(world / "here")
    assert (world / "tags.parquet").read_bytes() == (world / "here.parquet").read_bytes()


def test_the_figures_are_there() -> None:
    tables = re.findall(r"<!-- table: .*? -->\n(.*?)<!-- end -->", TEXT, re.DOTALL)
    assert len(tables) >= 2
    assert all(table.startswith("| ") for table in tables)

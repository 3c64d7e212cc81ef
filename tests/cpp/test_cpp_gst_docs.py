"""Runs the commands and the snippet of docs/gstreamer.md, as typed, on a film."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from cpp import built
from gstreamer import DEBIAN, environment, plugin
from shell import ROOT

from ovml_deploy import assets

pytest.importorskip("av", reason="the extra 'video' (av) is not installed")

from films import film

TEXT = (ROOT / "docs" / "gstreamer.md").read_text("utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
LINES = [line for kind, text in BLOCKS if kind == "bash" for line in text.strip().splitlines()]

pytestmark = pytest.mark.skipif(
    not (assets.MINI / "bundle.json").exists(), reason="the embedded model is not built"
)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that looks as the root of a checkout after ``make cpp``, with a film."""
    plugin()
    folder = tmp_path_factory.mktemp("gst")
    (folder / "build").mkdir()
    (folder / "build" / "cpp").symlink_to(built())
    (folder / "ovml_deploy").symlink_to(ROOT / "ovml_deploy")
    film(folder / "film.mp4", [("cat", 1), ("flower", 1)], rate=10)
    return folder


def run(command: list[str], world: Path, **more: str) -> str:
    done = subprocess.run(
        command, cwd=world, env={**environment(), **more}, capture_output=True, text=True
    )
    assert done.returncode == 0, (command, done.stderr[-3000:])
    return done.stdout


def typed(start: str) -> list[str]:
    return [line for line in LINES if line.startswith(start)]


def test_the_packages_are_those_that_make_test_installs() -> None:
    (line,) = typed("apt-get")
    makefile = (ROOT / "Makefile").read_text()
    for package in line.split()[3:]:
        assert package in makefile


def test_the_element_is_found_and_has_the_properties_of_the_table(world: Path) -> None:
    (path,) = typed("export GST_PLUGIN_PATH=")
    (look,) = typed("gst-inspect-1.0")
    shown = run(["bash", "-c", f"{path}; {look}"], world)
    properties = re.findall(r"^\| `([a-z-]+)` \|", TEXT, re.MULTILINE)
    assert len(properties) == 8
    for name in properties:
        assert f"\n  {name} " in shown


def test_the_pipeline_of_the_page_tells_of_tags(world: Path) -> None:
    (line,) = typed("gst-launch-1.0")
    told = [
        one for one in run(["bash", "-c", line], world).splitlines() if "ovmltag, frame=" in one
    ]
    assert len(told) == 4  # every fifth of 20
    (shown,) = [text for kind, text in BLOCKS if kind == "text"]
    fields = re.findall(r"([a-z-]+)=\(", shown)
    assert re.findall(r"([a-z-]+)=\(", told[0]) == fields
    assert "labels=(string)< cat, rocket >" in told[0]


def test_the_snippet_tells_of_tags(world: Path) -> None:
    (snippet,) = [text for kind, text in BLOCKS if kind == "python"]
    lines = run([sys.executable, "-c", snippet], world, PYTHONPATH=DEBIAN).splitlines()
    assert [line.split()[0] for line in lines] == ["0.00", "0.50", "1.00", "1.50"]
    assert all("('cat'," in line for line in lines)


def test_the_lines_of_tag_stream_run(world: Path) -> None:
    of_film, of_pipeline = typed("build/cpp/gst/tag_stream")
    lines = run(["bash", "-c", of_film], world).splitlines()
    assert [line.split("  ")[0] for line in lines] == ["0.000", "0.500", "1.000", "1.500"]
    assert run(["bash", "-c", of_pipeline], world).count("\n") == 2

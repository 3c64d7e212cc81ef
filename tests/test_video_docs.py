"""Runs the commands and snippets of docs/video.md, as typed, on a film made here."""

import importlib.util
import json
import re
import sys
from pathlib import Path

import pytest
from shell import ROOT, run, run_snippet

from ovml_deploy import assets

pytest.importorskip("av", reason="the extra 'video' (av) is not installed")

from films import film

TEXT = (ROOT / "docs" / "video.md").read_text("utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
SNIPPETS = [block for kind, block in BLOCKS if kind == "python"]
DEBIAN = "/usr/lib/python3/dist-packages"

pytestmark = pytest.mark.skipif(
    not (assets.MINI / "bundle.json").exists(), reason="the embedded model is not built"
)


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """A film of a cat from second 2 to 5, a bundle, and what else the document names."""
    folder = tmp_path_factory.mktemp("video")
    film(folder / "film.mp4", [("flower", 2), ("cat", 3), ("flower", 2)], rate=25)
    (folder / "build").mkdir()
    (folder / "build" / "qks").symlink_to(assets.MINI)
    return folder


def python(code: str, folder: Path) -> str:
    if "import cv2" in code or "import gi" in code:  # the user's own packages, no extra's
        done = run(f"{sys.executable} - <<'END'\n{code}\nEND", folder)
    else:
        done = run_snippet(code, folder, "cpu", "video")
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_command_runs(world: Path) -> None:
    commands = [line for kind, block in BLOCKS if kind == "bash" for line in block.splitlines()]
    assert len(commands) == 4
    for line in commands:
        if line.startswith("pip install"):
            assert '\nvideo = ["av' in (ROOT / "pyproject.toml").read_text()
            continue
        done = run(line, world)
        assert done.returncode == 0, (line, done.stderr)
    assert (world / "events.csv").read_text().startswith("source,label,start,end")
    assert (world / "film.vtt").read_text().startswith("WEBVTT")
    assert json.loads((world / "frames.jsonl").read_text().splitlines()[0])["time"] == 0
    assert (world / "tagged.mp4").stat().st_size > 1000


def test_the_python_example_sees_the_cat(world: Path) -> None:
    assert re.search(r"^2\.0 to 5\.0 s: cat ", python(SNIPPETS[0], world), re.MULTILINE)


def test_the_opencv_example_sees_the_cat(world: Path) -> None:
    pytest.importorskip("cv2", reason="opencv-python-headless is not installed")
    said = python(SNIPPETS[1], world)
    assert "cat 2.0 5.0\n" in said
    assert re.search(r"^3\.0 \[.*'cat'", said, re.MULTILINE)


def test_the_gstreamer_example_sees_the_cat(world: Path) -> None:
    """Debian's bindings are not of this environment; only they are taken from Debian's folder."""
    if sys.version_info[:2] != (3, 11) and importlib.util.find_spec("gi") is None:
        pytest.skip("Debian's python3-gst-1.0 is for another Python")
    if not (Path(DEBIAN) / "gi").is_dir():
        pytest.skip("Debian's python3-gst-1.0 is not installed")
    found = run("gst-inspect-1.0 avdec_h264 qtdemux", world)
    if found.returncode != 0:
        pytest.skip("Debian's gstreamer1.0-tools, -plugins-good and -libav are not installed")
    said = python(f"import sys; sys.path.append({DEBIAN!r})\n{SNIPPETS[2]}", world)
    assert "cat 2.0 5.0\n" in said


def test_a_live_gstreamer_source_is_tagged(world: Path) -> None:
    if not (Path(DEBIAN) / "gi").is_dir() or sys.version_info[:2] != (3, 11):
        pytest.skip("Debian's python3-gst-1.0 is not installed for this Python")
    head = SNIPPETS[2].partition("\nsource = ")[0]
    code = f"""import sys; sys.path.append({DEBIAN!r})
{head}
from ovml_deploy.pipelines.video import tag_frames
source = "videotestsrc num-buffers=10 ! video/x-raw,format=RGB,width=322,height=240"
found = tag_frames(Tagger.load("build/qks"), frames(source), channels="rgb", threshold=0.0)
print([round(result.time, 3) for result in found if len(result.tags) == 5])
"""
    assert json.loads(python(code, world)) == [round(i / 30, 3) for i in range(10)]


def test_the_table_is_there() -> None:
    (table,) = re.findall(r"<!-- table: soak -->\n(.*?)<!-- end -->", TEXT, re.DOTALL)
    assert table.startswith("| ")

"""Runs the snippet of docs/speed.md, as typed, on photographs one of which is broken."""

import re
import shutil
from pathlib import Path

import pytest
from PIL import Image
from shell import ROOT, run_snippet

from ovml_deploy import assets

TEXT = (ROOT / "docs" / "speed.md").read_text("utf-8")


@pytest.mark.skipif(not (assets.MINI / "bundle.json").exists(), reason="no embedded model")
def test_large_photographs_are_tagged(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "build").mkdir()
    (tmp_path / "build" / "qks").symlink_to(assets.MINI)
    (cat,) = [path for path in assets.sample_photographs() if path.stem == "cat"]
    with Image.open(cat) as image:
        image.resize((3000, 2400)).save(tmp_path / "photos" / "a.jpg", quality=92)
    shutil.copy(cat, tmp_path / "photos" / "b.jpg")
    (tmp_path / "photos" / "c.jpg").write_text("no image")
    (snippet,) = re.findall(r"^```python\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    done = run_snippet(snippet, tmp_path, "cpu")
    assert done.returncode == 0, done.stderr
    large, small, broken = done.stdout.splitlines()
    assert large.startswith("photos/a.jpg [")
    assert "'cat'" in large
    assert small.replace("b.jpg", "a.jpg") == large
    assert "not an image that can be read" in broken

"""Every command of the README and of docs/: its options exist; those that no other test runs, run."""

import importlib
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import fire
import pytest
from shell import ROOT, run

from ovml_deploy import assets
from ovml_deploy.cli import Commands
from ovml_deploy.commandline import Job

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands(page: Path) -> list[str]:
    """The lines of a page's shell blocks that call this project, joined where they are continued."""
    blocks = re.findall(r"^```bash\n(.*?)^```$", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [line for line in lines if re.match(r"ovml-deploy |python -m export\.", line)]


LINES = sorted({(page.name, line) for page in PAGES for line in commands(page)})


def test_there_is_something_to_test() -> None:
    assert len(LINES) > 60
    assert len({name for name, _ in LINES}) > 12


@pytest.mark.parametrize(("page", "line"), LINES)
def test_the_command_and_its_options_exist(page: str, line: str) -> None:
    words = shlex.split(line, comments=True)
    words = words[: next((i for i, word in enumerate(words) if word in ("|", ">", "&")), None)]
    component: Any = Commands()
    if words[0] == "ovml-deploy":
        arguments = words[1:]
    else:
        pytest.importorskip("torch")
        component, arguments = importlib.import_module(words[2]).main, words[3:]
    parsed = fire.Fire(component, arguments, name="test", serialize=lambda _: None)
    assert isinstance(parsed, Job), line


@pytest.mark.skipif(not (assets.MINI / "bundle.json").exists(), reason="no embedded model")
def test_the_commands_of_images_md_run(tmp_path: Path) -> None:
    (tmp_path / "photos" / "2019" / "raw").mkdir(parents=True)
    cat = next(path for path in assets.sample_photographs() if path.stem == "cat")
    shutil.copy(cat, tmp_path / "photos" / "2019")
    shutil.copy(cat, tmp_path / "photos" / "2019" / "raw")
    lines = commands(ROOT / "docs" / "images.md")
    assert len(lines) == 2
    for line in lines:
        done = run(line, tmp_path)
        assert done.returncode == 0, (line, done.stderr)
        assert "photos/2019/cat.jpg" in done.stdout
        assert ("raw/cat.jpg" in done.stdout) == ("--exclude" not in line)

"""The commands and the snippet of docs/data-free.md, as typed: words, knowledge, prompts, tags."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from shell import ROOT, run, run_snippet

from ovml_deploy import assets
from ovml_deploy.runtime.tagger import Tagger
from ovml_deploy.training.wordnet import DATA_FILE

DOCUMENT = (ROOT / "docs/data-free.md").read_text("utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL)
WORDS = ("cat", "dog", "cup", "rocket", "clock", "flower")
#: What a test cannot have: a hub's weights. The rest of the line stays as typed.
WEIGHTS = "--backbone ViT-B-16-quickgelu --pretrained openai"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, tiny_clip: Any) -> Path:
    """The folder in which the first block of commands was run."""
    if not DATA_FILE.exists():
        pytest.skip("Debian's wordnet-base is not installed")
    folder = tmp_path_factory.mktemp("data-free")
    (folder / "labels.txt").write_text("\n".join(WORDS), "utf-8")
    (folder / "photos").mkdir()
    for sample in assets.sample_photographs()[:3]:
        shutil.copy(sample, folder / "photos")
    tiny = f"--backbone {tiny_clip.name} --pretrained {tiny_clip.pretrained} --epochs 1"
    for line in BLOCKS[0][1].splitlines():
        result = run(line.replace(WEIGHTS, tiny), folder)
        assert result.returncode == 0, f"{line}\n{result.stdout}{result.stderr}"
    return folder


def test_the_chain_ends_in_tags(world: Path) -> None:
    tagger = Tagger.load(world / "build/prompts")
    assert tagger.bundle.head == "prompt-tuned"
    assert tagger.vocabulary.name == "tuned"
    assert set(tagger.vocabulary.labels) == set(WORDS)
    result = tagger.tag(world / "photos" / "cat.jpg", top_k=3)
    assert len(result.tags) == 3


def test_a_word_that_was_not_tuned(world: Path) -> None:
    code = BLOCKS[2][1]
    assert BLOCKS[2][0] == "python"
    done = run_snippet(code + "\nprint(tagger.vocabulary.labels)", world, "cpu")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "('cat', 'unicycle')"


def test_the_bundle_verifies(world: Path) -> None:
    result = run("ovml-deploy verify --engine build/prompts", world)
    assert result.returncode == 0, result.stderr
    assert "logits" in result.stdout

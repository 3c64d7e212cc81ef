"""Runs the commands and snippets of docs/serving.md, as typed, against a server started as it says."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from servers import running_server
from shell import ROOT, run

from ovml_deploy import assets

TEXT = (ROOT / "docs" / "serving.md").read_text("utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
HERE = "http://127.0.0.1:8000"

pytestmark = pytest.mark.skipif(
    not (assets.MINI / "bundle.json").exists(), reason="the embedded model is not built"
)


@dataclass(frozen=True)
class World:
    folder: Path
    url: str

    def run(self, line: str) -> subprocess.CompletedProcess[str]:
        return run(line.replace(HERE, self.url), self.folder)


def commands(block: str) -> list[str]:
    return block.replace("\\\n", "").strip().splitlines()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("serving")
    for name, sample in zip(("dock.jpg", "yard.jpg"), assets.sample_photographs(), strict=False):
        shutil.copy(sample, folder / name)
    start = next(line for line in commands(BLOCKS[0][1]) if line.startswith("ovml-deploy serve"))
    _, _, *options = shlex.split(start)
    where = options.index("--engine")
    del options[where : where + 2]  # the user's own bundle; the embedded one is in its place
    options[options.index("--state") + 1] = str(folder / "vocabularies")
    with running_server(assets.MINI, *options) as server:
        yield World(folder, server.url)


def test_every_curl_answers_as_the_text_says(world: World) -> None:
    lines = [c for kind, text in BLOCKS if kind == "bash" for c in commands(text)]
    lines = [line for line in lines if line.startswith("curl")]
    assert len(lines) >= 9
    for line in lines:
        done = world.run(line.replace("curl -s", "curl -sS --fail-with-body"))
        assert done.returncode == 0, (line, done.stdout, done.stderr)
        if "DELETE" in line:
            assert done.stdout == ""
            continue
        answer = json.loads(done.stdout)
        if "/v1/tag" in line:
            assert len(answer["results"]) == line.count("@")
            assert all(result["error"] is None for result in answer["results"])
            assert {*answer["vocabulary"]} == {"name", "version", "id", "labels"}
    names = json.loads(world.run(f"curl -s {HERE}/v1/vocabularies").stdout)["vocabularies"]
    assert {entry["name"]: entry["active"] for entry in names}["start"]


def test_the_example_answer_has_the_real_one_s_fields(world: World) -> None:
    example = json.loads(next(text for kind, text in BLOCKS if kind == "json"))
    line = next(c for c in commands(BLOCKS[1][1]) if "top_k" in c)
    answer = json.loads(world.run(line).stdout)
    assert shape(example) == shape(answer)


def shape(value: object) -> object:
    """The fields of an answer, without their values; of lists, those of the first item."""
    if isinstance(value, dict):
        return {key: shape(part) for key, part in value.items()}
    return [shape(value[0])] if isinstance(value, list) else ""


def test_the_python_snippet_runs(world: World) -> None:
    snippet = next(text for kind, text in BLOCKS if kind == "python").replace(HERE, world.url)
    done = subprocess.run(
        [sys.executable, "-c", snippet], cwd=world.folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    labels = re.findall(r"'label': '(\w+)'", done.stdout)
    assert len(labels) == 2
    assert labels[0] in ("forklift", "crane")
    assert labels[1] in ("fire", "smoke")


def test_the_document_names_every_metric_and_kind(world: World) -> None:
    from ovml_deploy.serving.http.problems import _KINDS

    metrics = world.run(f"curl -s {HERE}/metrics").stdout
    ours = set(re.findall(r"^# TYPE (ovml_\w+) (?:counter|gauge|histogram)", metrics, re.MULTILINE))
    ours = {name.removesuffix("_created") for name in ours}
    assert ours
    for name in ours:
        assert f"`{name}" in TEXT or f"{name}{{" in TEXT, name
    for _, kind in _KINDS.values():
        assert f"`{kind}`" in TEXT, kind

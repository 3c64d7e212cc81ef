"""The other speed benchmarks, on a small model: what they count, and what they leave in the folder."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from ovml_deploy.runtime.backends import why_missing

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"

if why_missing("openvino") is not None:
    pytest.skip("their floor is OpenVINO's", allow_module_level=True)


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch):
    """Run a script in this process, and return its headlines by name."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))

    def run(script: str, folder: Path, *options: str) -> dict[str, tuple[str, str]]:
        monkeypatch.setattr(sys, "argv", [f"{script}.py", *options, "--write", str(folder)])
        __import__(script).main()
        (facts,) = folder.glob("*.json")
        found = json.loads(facts.read_text())
        assert found["environment"]["threads"] >= 1
        text = facts.with_suffix(".md").read_text()
        assert found["environment"]["commit"] in text
        assert "|---|" in text
        return {what: (figure, against) for what, figure, against in found["headlines"]}

    return run


def module(name: str) -> ModuleType:
    return __import__(name)


def test_throughput(bench, tiny_bundle: Path, tmp_path: Path) -> None:
    options = ["--engine", str(tiny_bundle), "--device", "cpu", "--images", "3", "--batch", "2"]
    found = bench("throughput", tmp_path, *options, "--seconds", "0", "--photos", str(tmp_path))
    figure, against = found["files to tags"]
    assert figure.endswith("images/s")
    assert float(against.split()[0]) > 0


def test_vocabularies(bench, tiny_bundle: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    vocabulary = module("vocabulary")
    monkeypatch.setattr(vocabulary, "_SWAPPED", 50)
    monkeypatch.setattr(vocabulary, "_TURN", 0.3)
    monkeypatch.setattr(vocabulary, "_PAUSE", 0.02)
    monkeypatch.setenv("OVML_CACHE", str(tmp_path / "untouched"))  # the script sets its own
    options = ["--engine", str(tiny_bundle), "--device", "cpu", "--labels", "20,300"]
    found = bench("vocabulary", tmp_path / "results", *options, "--seconds", "0")
    assert "longer" in found["label embeddings"][1]
    for name in ("swap of 50 labels, of those held", "swap of 50 labels, made anew"):
        assert float(found[name][0].removesuffix(" ms")) > 0
    assert [name for name in found if name.startswith("best")] == [
        "best 10 of 20 labels",
        "best 10 of 300 labels",
    ]


def test_memory_is_of_a_process_of_its_own(bench, tiny_bundle: Path, tmp_path: Path) -> None:
    grown = np.ones(200 << 17)  # 200 MB that the other process does not have
    options = ["--engine", str(tiny_bundle), "--device", "cpu", "--batch", "2"]
    figure, against = bench("memory", tmp_path, *options)["memory, tagging in batches of 2"]
    assert 20 < float(figure.removesuffix(" MB")) < grown.nbytes / (1 << 20) + 20
    assert "x the weights in fp32" in against


def test_nodes_add_up(bench, tiny_bundle: Path, tmp_path: Path) -> None:
    options = ["--engine", str(tiny_bundle), "--precision", "fp32", "--batch", "2", "--calls", "2"]
    figure, against = bench("nodes", tmp_path, *options)["nodes, batch 2"]
    assert float(figure.removesuffix(" ms")) > 0
    text = next(tmp_path.glob("*.md")).read_text()
    shares = [float(share) for share in re.findall(r"([\d.]+)% \|$", text, re.MULTILINE)]
    assert abs(sum(shares) - 100) < 1
    assert 0 < int(re.search(r"(\d+)%", against)[1]) < 100


def test_the_short_set_calls_scripts_as_they_are(monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    bench = module("bench")
    for script, *options in (bench._STARTUP, *bench._OTHERS):
        shown = subprocess.run(
            [sys.executable, str(BENCHMARKS / script), "--help"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        assert {option for option in [*options, "--write"] if option.startswith("--")} <= {
            word.strip("[],") for word in shown.split()
        }


def test_every_script_is_in_the_list() -> None:
    """Those that are called, not those that others import, stand in the README of the folder."""
    text = (BENCHMARKS / "README.md").read_text()
    for path in BENCHMARKS.glob("*.py"):
        names = {node.name for node in ast.parse(path.read_text()).body if hasattr(node, "name")}
        if "main" in names:
            assert f"`{path.name}`" in text, path.name

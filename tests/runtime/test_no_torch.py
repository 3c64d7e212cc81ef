"""The runtime, the pipelines and the command need no torch, nor anything of the PyTorch side."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

HEAVY = ["torch", "torchvision", "open_clip", "timm", "transformers", "onnx", "onnxscript"]

USE = """
import json, sys
import ovml_deploy, ovml_deploy.output, ovml_deploy.cli
import ovml_deploy.pipelines.folders, ovml_deploy.pipelines.contact_sheet
import ovml_deploy.runtime.doctor
from ovml_deploy import Tagger
bundle, image = sys.argv[1:]
tagger = Tagger.load(bundle)
print(json.dumps([tag.label for tag in tagger.tag(image)]))
print(json.dumps([tag.label for tag in tagger.tag(image, vocabulary=tagger.make_vocabulary(
    ["a label without torch", "cat"]))]))
"""
BLOCK = f"import sys\nfor name in {HEAVY}: sys.modules[name] = None\n"
ABSENT = f"""
import importlib.util, sys
found = [name for name in {HEAVY} if importlib.util.find_spec(name)]
assert not found, f"this environment has {{found}}"
"""


def use(python: str, guard: str, bundle: Path, image: Path, cache: Path) -> list[list[str]]:
    done = subprocess.run(
        [python, "-c", guard + USE, str(bundle), str(image)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "OVML_CACHE": str(cache)},
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(params=["blocked", "absent"])
def without_torch(request) -> tuple[str, str]:
    """An interpreter and what it runs first."""
    if request.param == "blocked":
        return sys.executable, BLOCK
    python = os.environ.get("OVML_RUNTIME_PYTHON")
    if not python:
        pytest.skip("OVML_RUNTIME_PYTHON names no environment without torch ('make test' does)")
    return python, ABSENT


def test_tagging_without_torch(
    without_torch, tiny_bundle, tiny_tagger, pictures, tmp_path: Path
) -> None:
    stored, encoded = use(*without_torch, tiny_bundle, pictures[0], tmp_path)
    assert stored == [tag.label for tag in tiny_tagger.tag(pictures[0])]
    assert set(encoded) == {"a label without torch", "cat"}
    assert list((tmp_path / "labels").iterdir()), "the words came out of a cache"


def test_importing_the_package_imports_next_to_nothing() -> None:
    code = "import sys, ovml_deploy; print([m for m in ('numpy', 'onnxruntime', 'PIL', 'fire', "
    code += "'rich', 'tokenizers') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "[]", done.stderr

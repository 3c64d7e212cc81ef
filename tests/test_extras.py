"""The environment in which documented commands run: only the packages of the extras they need."""

from pathlib import Path

import pytest
from extras import extras_for
from shell import run, run_snippet

HAS = """
import importlib.util
for name in ("numpy", "PIL", "onnxruntime", "pyarrow", "pandas", "torch", "av", "fastapi", "openvino"):
    if importlib.util.find_spec(name):
        print(name, end=" ")
"""


@pytest.mark.parametrize(
    ("extras", "found"),
    [
        (["cpu"], "numpy PIL onnxruntime"),
        (["cpu", "archives"], "numpy PIL onnxruntime pyarrow"),
        (["openvino", "serve"], "numpy PIL fastapi openvino"),
        (["mqtt"], "numpy PIL av"),
    ],
)
def test_a_process_finds_the_packages_of_its_extras(
    tmp_path: Path, extras: list[str], found: str
) -> None:
    for name in ("pyarrow", "pandas", "torch", "av", "fastapi", "openvino"):
        pytest.importorskip(name)
    done = run_snippet(HAS, tmp_path, *extras)
    assert done.stdout.split() == found.split(), done.stderr
    versions = "from importlib.metadata import version\nprint(version('numpy'))\nversion('pandas')"
    done = run_snippet(versions, tmp_path, *extras)
    assert done.stdout.strip()
    assert "No package metadata was found for pandas" in done.stderr
    missing = run_snippet("import pandas", tmp_path, *extras)
    assert "No module named 'pandas'" in missing.stderr


def test_the_extras_of_a_line() -> None:
    assert extras_for("ovml-deploy tag photos --out tags.csv") == {"cpu"}
    assert extras_for("ovml-deploy tag photos --out tags.parquet") == {"cpu", "archives"}
    assert extras_for("ovml-deploy index photos --out a --on ray") == {"cpu", "archives", "ray"}
    assert extras_for("python -m export.onnx --ckpt qks.pt") == {"cpu", "export"}
    assert extras_for("curl -s http://127.0.0.1:8000/healthz") is None


def test_a_command_without_its_extra_names_it(tmp_path: Path) -> None:
    done = run("ovml-deploy index photos --out archive", tmp_path, frozenset({"cpu"}))
    assert done.returncode == 1
    assert "pip install 'ovml-deploy[archives]'" in done.stderr

"""``tag --out``: which files are written without pyarrow."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ENDINGS = ("csv", "jsonl", "json", "parquet")
BLOCK = "import sys; sys.modules['pyarrow'] = None"
ABSENT = "import importlib.util; assert importlib.util.find_spec('pyarrow') is None"
USE = """
import sys
from ovml_deploy.cli import main
*arguments, folder = sys.argv[1:]
for ending in ("csv", "jsonl", "json", "parquet"):
    print(ending, main(["tag", *arguments, "--out", f"{folder}/tags.{ending}"]))
"""


@pytest.fixture(params=["blocked", "absent"])
def without_pyarrow(request) -> tuple[str, str]:
    """An interpreter and the code that it runs first."""
    if request.param == "blocked":
        return sys.executable, BLOCK
    python = os.environ.get("OVML_RUNTIME_PYTHON")
    if not python:
        pytest.skip("OVML_RUNTIME_PYTHON names no environment without pyarrow ('make test' does)")
    return python, ABSENT


def test_only_parquet_needs_pyarrow(
    without_pyarrow, tiny_bundle, tiny_tagger, pictures, tmp_path: Path
) -> None:
    python, guard = without_pyarrow
    arguments = [*map(str, pictures[:2]), "--engine", str(tiny_bundle), "--device", "cpu"]
    done = subprocess.run(
        [python, "-c", guard + USE, *arguments, str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "OVML_CACHE": str(tmp_path / "cache")},
    )
    assert done.returncode == 0, done.stderr
    codes = [line.split() for line in done.stdout.splitlines() if line.split()[0] in ENDINGS]
    assert codes == [["csv", "0"], ["jsonl", "0"], ["json", "0"], ["parquet", "1"]]
    assert "A .parquet file needs the package 'pyarrow'" in done.stderr
    assert "pip install 'ovml-deploy[archives]'; or end --out in .csv" in done.stderr
    assert "Archives" not in done.stderr
    assert not (tmp_path / "tags.parquet").exists()
    expected = [(str(path), [t.label for t in tiny_tagger.tag(path)]) for path in pictures[:2]]
    assert of_csv(tmp_path / "tags.csv") == of_jsonl(tmp_path / "tags.jsonl") == expected
    assert of_coco(tmp_path / "tags.json") == expected


def of_csv(path: Path) -> list[tuple[str, list[str]]]:
    labels: dict[str, list[str]] = {}
    with open(path, newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            labels.setdefault(row["path"], []).append(row["label"])
    return [*labels.items()]


def of_jsonl(path: Path) -> list[tuple[str, list[str]]]:
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    return [(row["path"], [tag["label"] for tag in row["tags"]]) for row in rows]


def of_coco(path: Path) -> list[tuple[str, list[str]]]:
    value = json.loads(path.read_text("utf-8"))
    names = {category["id"]: category["name"] for category in value["categories"]}
    labels: dict[int, list[str]] = {image["id"]: [] for image in value["images"]}
    for tag in value["annotations"]:
        labels[tag["image_id"]].append(names[tag["category_id"]])
    return [(image["file_name"], labels[image["id"]]) for image in value["images"]]

"""What latency.py measures, on a small model: who takes part, what is counted, what is compared."""

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ovml_deploy.runtime.backends import why_missing

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def module(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return __import__(name)


@pytest.fixture
def report(tiny_bundle: Path, tmp_path: Path, monkeypatch) -> dict[str, Any]:
    path = tmp_path / "latency.json"
    engine = ["--engine", str(tiny_bundle), "--device", "cpu"]
    sizes = ["--batch", "1,3", "--labels", "7,20", "--seconds", "0.05", "--json", str(path)]
    sizes += ["--plot", str(tmp_path / "latency.png")]
    monkeypatch.setattr(sys, "argv", ["latency.py", *engine, *sizes, "--photos", str(tmp_path)])
    module("latency", monkeypatch).main()
    with Image.open(tmp_path / "latency.png") as drawn:
        assert drawn.width > 500
    return json.loads(path.read_text())


def test_the_report(report: dict[str, Any], capsys) -> None:
    assert [part["labels"] for part in report["stages"]] == [7, 20]
    for part in report["stages"]:
        stages = part["seconds"]
        assert [*stages] == ["read", "decode", "preprocess", "encode", "match", "top 5"]
        assert len({len(taken) for taken in stages.values()}) == 1
        assert all(second > 0 for taken in stages.values() for second in taken)
    sizes = [(part["labels"], part["batch"]) for part in report["batches"]]
    assert sizes == [(7, 1), (7, 3), (20, 1), (20, 3)]
    for part in report["batches"]:
        runs = part["runs"]
        assert runs["ovml-deploy"]["times_ours"] == [1, 1, 1]
        assert any(name.startswith("ONNX Runtime") for name in runs)
        turns = {len(run["turns"]) for run in runs.values()}
        assert len(turns) == 1
        assert turns.pop() >= 2
    assert report["environment"]["threads"] >= 1


def test_peers_compute_the_same(tiny_bundle: Path, monkeypatch) -> None:
    from ovml_deploy.runtime.engine import Engine
    from ovml_deploy.runtime.selfcheck import relative_error

    engine = Engine.open(tiny_bundle, "cpu")
    words = module("inputs", monkeypatch).random_vocabulary(engine.bundle, 5)
    size = (2, *engine.bundle.preprocessing.size, 3)
    pixels = np.random.default_rng(1).integers(0, 256, size, dtype=np.uint8)
    expected, _ = engine.match(engine.encode(pixels), words)
    peers = [*module("peers", monkeypatch).exported(engine.bundle)]
    assert peers
    for name, run in peers:
        error = relative_error(run(pixels, words.embeddings), expected)
        assert error < (5e-2 if "bf16" in name else 1e-4), name


@pytest.mark.skipif(why_missing("openvino") is not None, reason="the floor is OpenVINO's")
def test_the_floor_counts_products_and_convolutions(tmp_path: Path, monkeypatch) -> None:
    onnx = pytest.importorskip("onnx", reason="onnx makes the graph")
    helper = onnx.helper
    weights = {
        "kernel": np.zeros((6, 3, 4, 4), np.float32),
        "matrix": np.zeros((6, 10), np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["pixels", "kernel"], ["c"], strides=[4, 4]),
        helper.make_node("Transpose", ["c"], ["t"], perm=[0, 2, 3, 1]),
        helper.make_node("MatMul", ["t", "matrix"], ["features"]),
    ]
    pixels = helper.make_tensor_value_info("pixels", onnx.TensorProto.FLOAT, ["b", 3, 8, 8])
    out = helper.make_tensor_value_info("features", onnx.TensorProto.FLOAT, ["b", 2, 2, 10])
    values = [onnx.numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "g", [pixels], [out], values)
    path = tmp_path / "encoder.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path)
    flops, count = module("floor", monkeypatch).work(path, (5, 3, 8, 8))
    places = 5 * 2 * 2
    assert flops == 2 * places * 6 * (3 * 4 * 4) + 2 * places * 10 * 6
    assert count == 6 * 3 * 4 * 4 + 6 * 10

"""Results of ``verify`` are stored in the user's cache, and ``auto`` follows them."""

import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from bundles import edit_manifest

from ovml_deploy.errors import DeviceError
from ovml_deploy.runtime import verified
from ovml_deploy.runtime.backends import Backend, candidates, create_backend
from ovml_deploy.runtime.bundle import Bundle
from ovml_deploy.runtime.engine import Engine
from ovml_deploy.runtime.plans import GRAPHS, Plan, PlanGraph, bundle_hash, graph_path
from ovml_deploy.runtime.speed import Speed
from ovml_deploy.runtime.verified import (
    GOLDENS,
    IMAGES,
    VERIFIED,
    failed_gate,
    fastest_first,
    record,
    record_speeds,
)
from ovml_deploy.user_folders import cache_folder

WHY = "90.00% of 50 tags are equal"

pytestmark = pytest.mark.usefixtures("own_cache")


def stored(folder: Path) -> Path:
    """The file of a bundle in the cache."""
    return cache_folder() / VERIFIED / f"{Bundle.open(folder).manifest_hash}.json"


def entries(folder: Path) -> list[dict]:
    return json.loads(stored(folder).read_text())["entries"]


def files(folder: Path) -> dict[str, bytes]:
    """All that a folder holds, by path in it."""
    found = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def fail(folder: Path, *pairs: tuple[str, str]) -> None:
    """Record that backends failed."""
    bundle = Bundle.open(folder)
    for device, precision in pairs:
        record(bundle, create_backend(device, precision), IMAGES, {"images": 10}, [WHY])


def test_nothing_is_known_of_a_bundle_that_was_not_verified(tiny_bundle: Path) -> None:
    assert not stored(tiny_bundle).exists()
    assert failed_gate(Bundle.open(tiny_bundle), create_backend("cpu")) is None


def test_the_last_run_of_each_part_counts(bundle_copy: Path) -> None:
    before = files(bundle_copy)
    bundle, backend = Bundle.open(bundle_copy), create_backend("cpu")
    assert record(bundle, backend, IMAGES, {"images": 10}, [WHY]) == stored(bundle_copy)
    record(bundle, backend, GOLDENS, {"stages": []}, [])
    reason = failed_gate(Bundle.open(bundle_copy), backend)
    assert reason is not None
    assert reason.startswith(f"{backend.description} failed 'ovml-deploy verify' on {bundle.path}")
    assert WHY in reason
    assert "Choose another --device or --precision" in reason
    record(bundle, backend, IMAGES, {"images": 20}, [])
    assert failed_gate(bundle, backend) is None
    (entry,) = entries(bundle_copy)
    assert (entry["device"], entry["precision"]) == ("cpu", "fp32")
    assert entry["images"].items() >= {"images": 20, "passed": True, "failed": []}.items()
    assert entry["goldens"]["stages"] == []
    assert files(bundle_copy) == before
    record(bundle, backend, GOLDENS, {"stages": []}, ["features has an error"])
    assert "features has an error (on 20" in str(failed_gate(bundle, backend))


@pytest.mark.parametrize(
    ("what", "value"),
    [("cpu_name", "another CPU"), ("_engine_version", "0.0.1"), ("_gpu_name", None)],
)
def test_figures_are_of_a_machine_and_a_version(bundle_copy, monkeypatch, what, value) -> None:
    fail(bundle_copy, ("cpu", "fp32"))
    bundle, backend = Bundle.open(bundle_copy), create_backend("cpu")
    monkeypatch.setattr(verified, what, lambda *_: value)
    relevant = value is not None  # a GPU's name says nothing of the CPU
    assert (failed_gate(bundle, backend) is None) == relevant
    record(bundle, backend, IMAGES, {}, [])
    assert len(entries(bundle_copy)) == 1 + relevant


@pytest.mark.parametrize("name", ["encoder.onnx", "matcher.onnx", "tokenizer.json"])
def test_figures_are_of_the_exported_files(bundle_copy: Path, name: str) -> None:
    """Another bundle with the same golden outputs changes nothing for this one."""
    fail(bundle_copy, ("cpu", "fp32"))
    edit_manifest(bundle_copy, lambda m: m["files"][name].update(sha256="0" * 64))
    assert failed_gate(Bundle.open(bundle_copy), create_backend("cpu")) is None


def test_copies_of_a_bundle_share_their_figures(bundle_copy: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(bundle_copy, tmp_path / "another"))
    fail(bundle_copy, ("cpu", "fp32"))
    assert WHY in str(failed_gate(Bundle.open(copy), create_backend("cpu")))


def write_plan(folder: Path, sha256: str) -> Path:
    """A plan of a bundle whose engines have this hash."""
    path = folder / "x.plan"
    graphs = {
        name: PlanGraph(graph_path(path, name).name, sha256, 1, {}, {}, {}, "fp16", {}, {})
        for name in GRAPHS
    }
    Plan(path, bundle_hash(Bundle.open(folder)), "rtx", "1.7", ("sm89",), graphs).write()
    return path


def test_figures_of_a_plan_are_of_its_content(bundle_copy: Path) -> None:
    """Plans have the same name wherever they lie, and keep it when they are built again."""
    path = write_plan(bundle_copy, "a" * 64)
    bundle = Bundle.open(bundle_copy)
    backend = cast(Backend, SimpleNamespace(device=str(path), precision="fp16", description="plan"))
    record(bundle, backend, IMAGES, {}, [WHY])
    assert WHY in str(failed_gate(bundle, backend))
    assert entries(bundle_copy)[0]["device"] == "x.plan"
    write_plan(bundle_copy, "b" * 64)
    assert failed_gate(bundle, backend) is None


@pytest.mark.parametrize("kind", ["link to a file", "link to nothing", "file"])
def test_a_bundle_neither_directs_writes_nor_is_believed(
    bundle_copy: Path, tmp_path: Path, kind: str
) -> None:
    """A bundle from elsewhere may ship a verified.json of earlier releases, or a link of that name."""
    fail(bundle_copy, ("cpu", "fp32"))
    shipped = bundle_copy / "verified.json"
    outside = tmp_path / "outside"
    if kind == "file":
        shutil.move(stored(bundle_copy), shipped)
    else:
        shipped.symlink_to(outside)
        stored(bundle_copy).unlink()
    if kind == "link to a file":
        outside.write_text("mine")
    bundle, backend = Bundle.open(bundle_copy), create_backend("cpu")
    before = files(bundle_copy)
    assert failed_gate(bundle, backend) is None
    record(bundle, backend, IMAGES, {}, [])
    assert files(bundle_copy) == before
    assert outside.exists() == (kind == "link to a file")
    assert entries(bundle_copy)[0]["images"]["passed"]


RECORD = """
import sys
from ovml_deploy.runtime import verified
from ovml_deploy.runtime.bundle import Bundle
from ovml_deploy.runtime.speed import Speed

verified._engine_version = lambda device: "1"
bundle = Bundle.open(sys.argv[1])
for i in range(10):
    verified.record_speeds(bundle, [Speed(f"cpu {sys.argv[2]} {i}", "fp32", "a device", {8: 1.0})])
"""


def test_several_processes_lose_no_entry(bundle_copy: Path) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", RECORD, str(bundle_copy), str(number)],
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(4)
    ]
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert (process.returncode, errors) == (0, "")
    assert {entry["device"] for entry in entries(bundle_copy)} == {
        f"cpu {number} {i}" for number in range(4) for i in range(10)
    }


@pytest.mark.parametrize(
    "change",
    [
        lambda value: "",
        lambda value: "{",
        lambda value: "[" * 100_000,
        lambda value: "[]",
        lambda value: json.dumps({**value, "version": 2}),
        lambda value: json.dumps({**value, "entries": None}),
        lambda value: json.dumps({**value, "entries": [1, None, {}]}),
        lambda value: json.dumps({**value, "entries": [{**value["entries"][0], "images": 5}]}),
        lambda value: json.dumps({**value, "entries": [{**value["entries"][0], "images": {}}]}),
    ],
)
def test_a_file_of_another_making_says_nothing_and_is_replaced(bundle_copy: Path, change) -> None:
    fail(bundle_copy, ("cpu", "fp32"))
    path = stored(bundle_copy)
    path.write_text(change(json.loads(path.read_text())))
    bundle, backend = Bundle.open(bundle_copy), create_backend("cpu")
    assert failed_gate(bundle, backend) is None
    fail(bundle_copy, ("cpu", "fp32"))
    assert WHY in str(failed_gate(bundle, backend))


def test_it_is_written_whole_or_not_at_all(bundle_copy: Path, monkeypatch) -> None:
    fail(bundle_copy, ("cpu", "fp32"))
    before = files(cache_folder())

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    bundle, backend = Bundle.open(bundle_copy), create_backend("cpu")
    with pytest.raises(OSError, match="No space left"):
        record(bundle, backend, IMAGES, {}, [])
    assert files(cache_folder()) == before


def working(folder: Path) -> list[tuple[str, str]]:
    """What runs the bundle here, in the order of ``auto``."""
    found = []
    for device, precision in candidates():
        try:
            Engine.open(folder, device, precision)
        except DeviceError:
            continue
        found.append((device, precision))
    return found


def test_auto_passes_over_what_failed(bundle_copy: Path, monkeypatch) -> None:
    monkeypatch.delenv("OVML_DEVICE")
    first, *others = working(bundle_copy)
    chosen = Engine.open(bundle_copy).backend
    assert (chosen.device, chosen.precision) == first
    fail(bundle_copy, first)
    if others:
        engine = Engine.open(bundle_copy)
        assert (engine.backend.device, engine.backend.precision) == others[0]
        assert WHY in engine.refused[-1]
    fail(bundle_copy, *others)
    with pytest.raises(DeviceError, match=f"(?s)No device here runs .*{WHY}"):
        Engine.open(bundle_copy)


@pytest.mark.parametrize("named_by", ["caller", "environment"])
def test_what_is_named_is_used_with_a_warning(bundle_copy, caplog, monkeypatch, named_by) -> None:
    fail(bundle_copy, ("cpu", "fp32"))
    monkeypatch.setenv("OVML_DEVICE", "cpu")
    with caplog.at_level(logging.WARNING):
        engine = Engine.open(bundle_copy, "cpu" if named_by == "caller" else "auto")
    assert engine.backend.device == "cpu"
    (message,) = [entry.getMessage() for entry in caplog.records if WHY in entry.getMessage()]
    assert message.startswith("used because it is named, although ONNX Runtime")


PAIRS = [("openvino", "bf16"), ("openvino", "fp32"), ("cpu", "fp32")]


def took(pair: tuple[str, str], milliseconds: float | None) -> Speed:
    if milliseconds is None:
        return Speed(*pair, "a device", refused="it does not start")
    return Speed(*pair, "a device", {1: 1.0, 8: milliseconds})


@pytest.fixture
def known_openvino(monkeypatch) -> None:
    """Its version, whether it is installed or not."""
    monkeypatch.setattr(verified, "_engine_version", lambda device: f"{device} 1")


@pytest.mark.parametrize(
    ("times", "order"),
    [((3, 2, 1), (2, 1, 0)), ((None, 2, 3), (1, 2, 0)), ((2, 2, 2), (0, 1, 2))],
)
def test_the_fastest_comes_first_and_the_refused_last(
    bundle_copy: Path, known_openvino: None, times, order
) -> None:
    bundle = Bundle.open(bundle_copy)
    record_speeds(bundle, [took(*pair) for pair in zip(PAIRS, times, strict=True)])
    assert fastest_first(bundle, iter(PAIRS)) == [PAIRS[place] for place in order]
    record(bundle, create_backend("cpu"), IMAGES, {}, [])
    assert fastest_first(bundle, PAIRS) == [PAIRS[place] for place in order]


def test_what_passes_again_was_not_timed(bundle_copy: Path, known_openvino: None) -> None:
    bundle, backend = Bundle.open(bundle_copy), create_backend("cpu")
    record(bundle, backend, IMAGES, {}, [WHY])
    times = zip(PAIRS, (2, 1, None), strict=True)
    record_speeds(bundle, [took(*pair) for pair in times])
    record(bundle, backend, IMAGES, {}, [WHY])
    assert fastest_first(bundle, PAIRS) == [PAIRS[1], PAIRS[0], PAIRS[2]]
    record(bundle, backend, IMAGES, {}, [])
    assert fastest_first(bundle, PAIRS) == PAIRS


def test_speeds_of_another_machine_or_run_say_nothing(
    bundle_copy: Path, known_openvino: None, monkeypatch
) -> None:
    bundle = Bundle.open(bundle_copy)
    lazy = iter(PAIRS)
    assert fastest_first(bundle, lazy) is lazy
    record_speeds(bundle, [took(pair, ms) for pair, ms in zip(PAIRS[1:], (2, 1), strict=True)])
    assert fastest_first(bundle, PAIRS[1:]) == PAIRS[:0:-1]
    assert fastest_first(bundle, PAIRS) == PAIRS  # one that was not there then
    with monkeypatch.context() as patch:
        patch.setattr(verified, "available_cpus", lambda: 1000)
        assert fastest_first(bundle, PAIRS[1:]) == PAIRS[1:]
    with monkeypatch.context() as patch:
        patch.setattr(verified, "cpu_name", lambda: "another CPU")
        assert fastest_first(bundle, PAIRS[1:]) == PAIRS[1:]
    path = stored(bundle_copy)
    path.write_text(path.read_text().replace('"run": "2', '"run": "3', 1))
    assert fastest_first(bundle, PAIRS[1:]) == PAIRS[1:]  # of two runs


@pytest.mark.parametrize("speed", [None, 1, {}, {"run": [], "threads": 1}])
def test_speeds_of_another_making_say_nothing(bundle_copy: Path, known_openvino, speed) -> None:
    bundle = Bundle.open(bundle_copy)
    record_speeds(bundle, [took(pair, 1) for pair in PAIRS])
    value = json.loads(stored(bundle_copy).read_text())
    value["entries"][1]["speed"] = value["entries"][2]["speed"] = speed
    stored(bundle_copy).write_text(json.dumps(value))
    assert fastest_first(bundle, PAIRS) == PAIRS
    record(bundle, create_backend("cpu"), IMAGES, {}, [])
    assert entries(bundle_copy)[2]["images"]["passed"]


def test_auto_takes_the_fastest(bundle_copy: Path, monkeypatch) -> None:
    monkeypatch.delenv("OVML_DEVICE")
    pairs = [*candidates()]
    able = working(bundle_copy)
    if len(able) < 2:
        pytest.skip("only one device runs the bundle here")
    bundle = Bundle.open(bundle_copy)
    for fastest in able:
        record_speeds(bundle, [took(pair, 1 if pair == fastest else 2) for pair in pairs])
        engine = Engine.open(bundle_copy)
        assert (engine.backend.device, engine.backend.precision) == fastest
        assert engine.refused == []

"""What ``verify`` found is kept beside the manifest, and ``auto`` goes by it."""

import json
import logging
import os
from pathlib import Path

import pytest

from ovml_deploy.errors import DeviceError
from ovml_deploy.runtime import verified
from ovml_deploy.runtime.backends import candidates, create_backend
from ovml_deploy.runtime.bundle import Bundle
from ovml_deploy.runtime.engine import Engine
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

WHY = "90.00% of 50 tags are equal"


def entries(folder: Path) -> list[dict]:
    return json.loads((folder / VERIFIED).read_text())["entries"]


def fail(folder: Path, *pairs: tuple[str, str]) -> None:
    """Record that backends failed."""
    bundle = Bundle.open(folder)
    for device, precision in pairs:
        record(bundle, create_backend(device, precision), IMAGES, {"images": 10}, [WHY])


def test_nothing_is_known_of_a_bundle_that_was_not_verified(tiny_bundle: Path) -> None:
    assert not (tiny_bundle / VERIFIED).exists()
    assert failed_gate(Bundle.open(tiny_bundle), create_backend("cpu")) is None


def test_the_last_run_of_each_part_counts(bundle_copy: Path) -> None:
    manifest = (bundle_copy / "bundle.json").read_bytes()
    bundle, backend = Bundle.open(bundle_copy), create_backend("cpu")
    assert record(bundle, backend, IMAGES, {"images": 10}, [WHY]) == bundle.path / VERIFIED
    record(bundle, backend, GOLDENS, {"stages": []}, [])
    reason = failed_gate(Bundle.open(bundle_copy), backend)
    assert reason is not None
    assert reason.startswith(f"{backend.description} failed 'ovml-deploy verify' on {bundle.path}")
    assert WHY in reason
    assert "Choose another --device or --precision" in reason
    record(bundle, backend, IMAGES, {"images": 20}, [])
    assert failed_gate(bundle, backend) is None
    (entry,) = entries(bundle_copy)
    assert (entry["device"], entry["precision"], entry["model"]) == (
        "cpu",
        "fp32",
        bundle.model_hash,
    )
    assert entry["images"].items() >= {"images": 20, "passed": True, "failed": []}.items()
    assert entry["goldens"]["stages"] == []
    assert (bundle_copy / "bundle.json").read_bytes() == manifest
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


def test_figures_are_of_an_encoder(bundle_copy: Path) -> None:
    fail(bundle_copy, ("cpu", "fp32"))
    manifest = json.loads((bundle_copy / "bundle.json").read_text())
    manifest["files"]["encoder.onnx"]["sha256"] = "0" * 64
    (bundle_copy / "bundle.json").write_text(json.dumps(manifest))
    assert failed_gate(Bundle.open(bundle_copy), create_backend("cpu")) is None


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
    path = bundle_copy / VERIFIED
    path.write_text(change(json.loads(path.read_text())))
    bundle, backend = Bundle.open(bundle_copy), create_backend("cpu")
    assert failed_gate(bundle, backend) is None
    fail(bundle_copy, ("cpu", "fp32"))
    assert WHY in str(failed_gate(bundle, backend))


def test_it_is_written_whole_or_not_at_all(bundle_copy: Path, monkeypatch) -> None:
    fail(bundle_copy, ("cpu", "fp32"))
    before = (bundle_copy / VERIFIED).read_bytes()
    names = sorted(bundle_copy.iterdir())

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    bundle, backend = Bundle.open(bundle_copy), create_backend("cpu")
    with pytest.raises(OSError, match="No space left"):
        record(bundle, backend, IMAGES, {}, [])
    assert (bundle_copy / VERIFIED).read_bytes() == before
    assert sorted(bundle_copy.iterdir()) == names


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
    with pytest.raises(DeviceError, match=f"No device here runs .*{WHY}"):
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
    path = bundle_copy / VERIFIED
    path.write_text(path.read_text().replace('"run": "2', '"run": "3', 1))
    assert fastest_first(bundle, PAIRS[1:]) == PAIRS[1:]  # of two runs


@pytest.mark.parametrize("speed", [None, 1, {}, {"run": [], "threads": 1}])
def test_speeds_of_another_making_say_nothing(bundle_copy: Path, known_openvino, speed) -> None:
    bundle = Bundle.open(bundle_copy)
    record_speeds(bundle, [took(pair, 1) for pair in PAIRS])
    value = json.loads((bundle_copy / VERIFIED).read_text())
    value["entries"][1]["speed"] = value["entries"][2]["speed"] = speed
    (bundle_copy / VERIFIED).write_text(json.dumps(value))
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

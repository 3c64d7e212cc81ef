"""A precision is tried in a process of its own, once."""

import sys
import time
from pathlib import Path

import pytest
from openvino_here import require_openvino

from ovml_deploy import assets
from ovml_deploy.errors import DeviceError
from ovml_deploy.runtime.backends import openvino, probe
from ovml_deploy.runtime.bundle import Bundle

DIES = "import os, signal; os.kill(os.getpid(), signal.{})"


@pytest.fixture
def bundle() -> Bundle:
    return Bundle.open(assets.MINI)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.setenv("OVML_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "probes"


@pytest.fixture
def child(monkeypatch):
    """A function that sets what the child runs instead of an engine; it returns the list of runs."""
    runs: list[list[str]] = []
    run = probe.subprocess.run

    def set_child(code: str) -> list[list[str]]:
        def instead(command: list[str], **options):
            runs.append(command)
            return run([sys.executable, "-c", code], **options)

        monkeypatch.setattr(probe.subprocess, "run", instead)
        return runs

    return set_child


def refusal(bundle: Bundle, version: str = "1") -> str:
    with pytest.raises(DeviceError) as caught:
        probe.require_survival(bundle, "openvino", "bf16", version)
    return str(caught.value)


@pytest.mark.parametrize("name", ["SIGFPE", "SIGSEGV", "SIGILL"])
def test_a_child_that_dies_is_told_and_remembered(bundle, cache, child, name: str) -> None:
    runs = child(DIES.format(name))
    told = refusal(bundle)
    assert f"a trial in a process of its own was ended by {name}" in told
    assert "Device 'openvino' in bf16 cannot run" in told
    assert "Choose --precision fp32, or another --device." in told
    assert runs == [[sys.executable, "-m", probe.__name__, str(bundle.path), "bf16"]]
    assert refusal(bundle) == told
    assert len(runs) == 1
    refusal(bundle, version="2")  # another engine may do better
    assert len(runs) == 2
    assert len([*cache.iterdir()]) == 2


def test_a_child_that_lives_is_remembered(bundle, cache, child) -> None:
    runs = child("")
    for _ in range(2):
        probe.require_survival(bundle, "openvino", "bf16", "1")
    assert len(runs) == 1


def test_what_a_failing_child_said_is_told(bundle, cache, child) -> None:
    child("raise SystemExit('the kernel is absent')")
    assert "failed: the kernel is absent" in refusal(bundle)


def test_a_child_that_was_killed_is_tried_again(bundle, cache, child) -> None:
    """Somebody did it, or a lack of memory: not the model."""
    runs = child(DIES.format("SIGKILL"))
    assert "was ended by SIGKILL" in refusal(bundle)
    child("")
    probe.require_survival(bundle, "openvino", "bf16", "1")
    assert len(runs) == 2


def test_a_child_that_hangs_is_ended(bundle, cache, child, monkeypatch) -> None:
    monkeypatch.setattr(probe, "_LONGEST", 1)
    child("import time; time.sleep(60)")
    start = time.monotonic()
    assert "took longer than 1 s" in refusal(bundle)
    assert time.monotonic() - start < 20


@pytest.mark.parametrize("spoilt", ["no JSON", "[]", '{"death": 1'])
def test_a_spoilt_memory_is_made_anew(bundle, cache, child, spoilt: str) -> None:
    runs = child(DIES.format("SIGFPE"))
    told = refusal(bundle)
    (memory,) = cache.iterdir()
    memory.write_text(spoilt)
    assert refusal(bundle) == told
    assert refusal(bundle) == told
    assert len(runs) == 2


def test_a_cache_that_cannot_be_written_costs_time_only(bundle, tmp_path, child, monkeypatch):
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("OVML_CACHE", str(blocked / "cache"))
    runs = child("")
    for _ in range(2):
        probe.require_survival(bundle, "openvino", "bf16", "1")
    assert len(runs) == 2


def test_a_trial_runs_nothing_of_the_current_folder(
    bundle, cache, tmp_path: Path, monkeypatch
) -> None:
    """Photographs may lie beside anything."""
    (tmp_path / "numpy.py").write_text("raise SystemExit('taken in')")
    monkeypatch.chdir(tmp_path)
    assert "taken in" not in probe._try(bundle, "fp32")


def test_the_embedded_model_survives_every_precision_of_this_cpu(bundle, cache) -> None:
    """Its bfloat16 died of SIGFPE on Intel AMX: a kernel for weights stored as int8."""
    require_openvino()
    able = openvino.native_precisions()
    if not able:
        pytest.skip("this CPU has no precision below float32")
    for precision in able:
        openvino.OpenVINO(precision).load(bundle, "encoder.onnx")
    assert len([*cache.iterdir()]) == len(able)

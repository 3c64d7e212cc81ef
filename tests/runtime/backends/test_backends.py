"""Which device runs: the one that was named or none, and the best that works where none was."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from openvino_here import require_openvino

from ovml_deploy import assets
from ovml_deploy.errors import DeviceError
from ovml_deploy.runtime.backends import (
    DEVICES,
    available_devices,
    candidates,
    create_backend,
    openvino,
    ort,
    precisions_of,
    why_missing,
)
from ovml_deploy.runtime.bundle import ENCODER, Bundle
from ovml_deploy.runtime.engine import Engine

ROOT = Path(__file__).resolve().parents[3]

TAG = """
from ovml_deploy.runtime.tagger import Tagger
from ovml_deploy.runtime.backends import DEVICES, candidates, why_missing
from ovml_deploy import assets
from ovml_deploy.errors import OvmlError
told = {"missing": {name: why_missing(name) for name in DEVICES}, "candidates": [*candidates()]}
try:
    tagger = Tagger.load(assets.MINI, DEVICE, precision="fp32")
    told["device"] = tagger.engine.backend.device
    told["tags"] = [tag.label for tag in tagger.tag(assets.sample_photographs()[0], threshold=0)]
except OvmlError as error:
    told["error"] = f"{type(error).__name__}: {error}"
print(json.dumps(told))
"""


def tag_without(*packages: str, device: str = "auto", path: Path | None = None) -> dict:
    """Tag in a process that lacks packages, or has those in ``path`` instead."""
    code = f"import json, sys\nDEVICE = {device!r}\n"
    code += f"for name in {packages}: sys.modules[name] = None\n"
    env = {name: value for name, value in os.environ.items() if name != "OVML_DEVICE"}
    env["PYTHONPATH"] = os.pathsep.join(map(str, filter(None, (path, ROOT))))
    done = subprocess.run([sys.executable, "-c", code + TAG], env=env, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    found: dict = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def usual() -> list[str]:
    """The tags of the first photograph."""
    tags: list[str] = tag_without(device="cpu")["tags"]
    assert tags
    return tags


def test_without_onnxruntime_openvino_tags(usual: list[str]) -> None:
    require_openvino()
    found = tag_without("onnxruntime")
    assert found["device"] == "openvino"
    assert found["tags"] == usual
    assert found["candidates"][-1] == ["openvino", "fp32"]
    assert found["missing"]["openvino"] is None
    for device, extra in (("cpu", "cpu"), ("cuda", "cuda"), ("tensorrt", "cuda")):
        told = f"ONNX Runtime is not installed: pip install 'ovml-deploy[{extra}]'"
        assert found["missing"][device] == told


def test_without_openvino_onnxruntime_tags(usual: list[str]) -> None:
    found = tag_without("openvino")
    assert found["device"] in ("cpu", "cuda")
    assert found["tags"] == usual
    assert "openvino" not in dict(found["candidates"])


def test_without_both_nothing_runs_and_the_extra_is_named() -> None:
    found = tag_without("onnxruntime", "openvino")
    assert found["candidates"] == []
    assert found["error"].startswith("DeviceError: No device here runs ")
    assert "pip install 'ovml-deploy[cpu]'" in found["error"]


@pytest.mark.parametrize(("package", "device"), [("openvino", "openvino"), ("onnxruntime", "cpu")])
def test_a_named_device_that_is_absent_fails(package: str, device: str) -> None:
    found = tag_without(package, device=device)
    assert "device" not in found
    assert found["error"].startswith(f"DeviceError: The device {device!r} cannot be used: ")
    assert f"pip install 'ovml-deploy[{device}]'" in found["error"]


@pytest.mark.parametrize(
    ("package", "text", "device", "reason"),
    [
        ("onnxruntime", "", "cpu", "has no attribute 'get_available_providers'"),
        ("onnxruntime", "raise ImportError('libfoo.so')", "cpu", "does not load (libfoo.so)"),
        ("openvino", "raise ImportError('libfoo.so')", "openvino", "does not load (libfoo.so)"),
    ],
)
def test_a_broken_package_is_passed_over(
    tmp_path: Path, usual, package: str, text: str, device: str, reason: str
) -> None:
    """An empty one is what stays where onnxruntime and onnxruntime-gpu were, and one was removed."""
    if package == "onnxruntime":
        require_openvino()
    (tmp_path / package).mkdir()
    (tmp_path / package / "__init__.py").write_text(text)
    found = tag_without(path=tmp_path)
    assert found["device"] != device
    assert found["tags"] == usual
    assert reason in found["missing"][device]
    assert f"'ovml-deploy[{device}]'" in found["missing"][device]


@pytest.mark.parametrize("device", ["gpu", "CPU", "", "cpu,cuda"])
def test_an_unknown_device(device: str) -> None:
    with pytest.raises(DeviceError, match=rf"Unknown device '{device}'. There are: auto, cuda, "):
        create_backend(device)


@pytest.mark.parametrize("device", ["cuda", "tensorrt"])
def test_a_gpu_that_is_absent_fails_and_is_no_candidate(device: str) -> None:
    reason = why_missing(device)
    if reason is None:
        pytest.skip(f"this machine has {device}")
    with pytest.raises(DeviceError) as caught:
        Engine.open(assets.MINI, device)
    assert str(caught.value) == f"The device {device!r} cannot be used: {reason}."
    assert device not in available_devices()
    assert device not in dict(candidates())


def test_a_precision_that_a_device_lacks() -> None:
    with pytest.raises(
        DeviceError, match=r"'cpu' does not run this bundle \(fp32\) in 'bf16' here"
    ):
        create_backend("cpu", "bf16")
    with pytest.raises(DeviceError, match="only in int8"):
        create_backend("cpu", "fp32", graph="int8")
    absent = {"bf16", "fp16"} - set(openvino.native_precisions())
    for precision in absent:
        with pytest.raises(DeviceError, match=f"in '{precision}' here, only in "):
            create_backend("openvino", precision)
        with pytest.raises(DeviceError, match=f"This CPU does not compute in {precision}"):
            openvino.OpenVINO(precision)
    assert precisions_of("openvino")[-1] == "fp32"
    assert precisions_of("openvino", "int8") == ["int8"]  # it is in the graph


def test_the_order_of_auto(monkeypatch) -> None:
    """With everything there: a GPU, then OpenVINO, then the plain CPU."""
    monkeypatch.setattr(ort, "missing", lambda device: None)
    monkeypatch.setattr(openvino, "native_precisions", lambda: ["bf16"])
    usual = [("cuda", "fp32"), ("openvino", "bf16"), ("openvino", "fp32"), ("cpu", "fp32")]
    assert [*candidates()] == usual
    assert [*candidates("fp32")] == [pair for pair in usual if pair[1] == "fp32"]
    assert [*candidates("bf16")] == [("openvino", "bf16")]
    assert {device for device, _ in usual} == set(DEVICES) - {"tensorrt"}  # slow to start


def test_the_environment_names_a_device_unless_a_caller_does(monkeypatch) -> None:
    require_openvino()
    monkeypatch.setenv("OVML_DEVICE", "openvino")
    assert Engine.open(assets.MINI, precision="fp32").backend.device == "openvino"
    assert Engine.open(assets.MINI, "cpu").backend.device == "cpu"
    monkeypatch.setenv("OVML_DEVICE", "")
    assert Engine.open(assets.MINI, precision="fp32").backend.device in ("cuda", "openvino")
    monkeypatch.setenv("OVML_DEVICE", "abacus")  # nothing falls back from a wrong one, either
    with pytest.raises(DeviceError, match="Unknown device 'abacus'"):
        Engine.open(assets.MINI)


@pytest.mark.filterwarnings("ignore:Specified provider")
@pytest.mark.parametrize("device", ["cuda", "tensorrt"])
def test_a_silent_fallback_to_the_cpu_is_refused(monkeypatch, device: str) -> None:
    """ONNX Runtime gives a session on the CPU, with a warning, where a provider does not start."""
    if why_missing(device) is None:
        pytest.skip(f"this machine has {device}")
    monkeypatch.setattr(ort, "missing", lambda device: None)
    monkeypatch.setattr(ort.tensorrt_module, "load", lambda flavour: None)  # it is not installed
    backend = ort.OnnxRuntime(device)
    with pytest.raises(DeviceError, match=ort.PROVIDERS[device].name) as caught:
        backend.load(Bundle.open(assets.MINI), ENCODER)
    assert "not start" in str(caught.value) or "cannot load" in str(caught.value)
    with pytest.raises(DeviceError, match=ort.PROVIDERS[device].name):
        Engine.open(assets.MINI, device)


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_auto_passes_over_a_gpu_that_does_not_start(monkeypatch, capsys) -> None:
    if why_missing("cuda") is None:
        pytest.skip("this machine has cuda")
    require_openvino()
    monkeypatch.delenv("OVML_DEVICE")
    monkeypatch.setattr(ort, "missing", lambda device: None)
    engine = Engine.open(assets.MINI, precision="fp32")
    assert engine.backend.device == "openvino"
    (reason,) = engine.refused
    assert "ONNX Runtime could not start CUDAExecutionProvider" in reason
    assert ".so" in reason  # the library that it lacks
    assert capsys.readouterr().out == ""  # which is for results


def test_every_node_runs_where_it_should() -> None:
    bundle = Bundle.open(assets.MINI)
    placed = create_backend("cpu").load(bundle, ENCODER).placement()
    assert placed.keys() == {"CPUExecutionProvider"}
    placed = create_backend("openvino", "fp32").load(bundle, ENCODER).placement()
    assert all(name.startswith("OpenVINO ") for name in placed)
    assert max(placed, key=placed.__getitem__) == "OpenVINO f32"


def test_int8_weights_become_float32_constants_of_the_same_value() -> None:
    require_openvino()
    path = Bundle.open(assets.MINI).file(ENCODER)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3), dtype=np.uint8)
    core = openvino._core()
    stored, expanded = core.read_model(path), core.read_model(path)
    assert openvino.expand_int8_weights(expanded) == 4
    assert openvino.expand_int8_weights(expanded) == 0
    exact = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    first, second = (
        core.compile_model(model, "CPU", exact)([pixels]) for model in (stored, expanded)
    )
    for output in first:
        assert first[output] == pytest.approx(second[output.any_name], rel=1e-5, abs=1e-5)

"""What the doctor finds on this machine, and what it says of others."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from openvino_here import require_openvino

from ovml_deploy import assets
from ovml_deploy.files import sha256_file
from ovml_deploy.runtime import doctor
from ovml_deploy.runtime.backends import DEVICES, available_devices
from ovml_deploy.runtime.bundle import ENCODER, Bundle
from ovml_deploy.runtime.doctor import Report, Trial, examine
from ovml_deploy.runtime.gpus import Driver, Gpu
from ovml_deploy.runtime.plans import GRAPHS, Plan, PlanGraph, Tensor, bundle_hash, graph_path
from ovml_deploy.runtime.precision import TOLERANCE
from ovml_deploy.runtime.verdict import Advice, judge

L4 = Driver((12, 4), (Gpu("NVIDIA L4", (8, 9), 24 << 30),))


@pytest.fixture(scope="module")
def report() -> Report:
    return examine(assets.MINI)


@pytest.fixture
def altered(report: Report) -> Callable[..., Report]:
    """A function that changes the report, its machine and its versions."""
    require_openvino()  # or its failure is a fault of every report
    base = replace(
        report,
        versions=dict.fromkeys(report.versions, "1.0") | {"onnxruntime-gpu": None},
        machine=replace(report.machine, cpus=2, threads=2, quota=None, features=["AVX2"]),
        untried={"cuda": "the ONNX Runtime has no CUDA", "tensorrt": "absent"},
        trials=tuple(trial for trial in report.trials if trial.device in ("cpu", "openvino")),
        plans={},
    )

    def alter(
        machine: dict[str, Any] | None = None,
        versions: dict[str, str | None] | None = None,
        **changes: Any,
    ) -> Report:
        return replace(
            base,
            machine=replace(base.machine, **(machine or {})),
            versions={**base.versions, **(versions or {})},
            **changes,
        )

    return alter


def test_every_device_is_tried_or_told_why_not(report: Report) -> None:
    tried = {trial.device for trial in report.trials}
    assert tried | report.untried.keys() == set(DEVICES)
    assert tried == set(available_devices()) - {"tensorrt"}
    assert report.precision == "fp32"
    for trial in report.trials:
        if trial.refused is None:
            assert trial.errors is not None
            assert trial.errors.keys() == {"features", "logits"}
            assert 0 < max(trial.errors.values()) <= TOLERANCE[trial.precision]
            assert trial.description
            assert trial.seconds > 0


def test_nodes_are_counted_where_they_run(report: Report) -> None:
    (trial,) = [trial for trial in report.trials if trial.device == "cpu"]
    assert trial.placement is not None
    assert trial.placement.keys() == {"encoder", "matcher", "text_encoder"}
    assert all(nodes.keys() == {"CPUExecutionProvider"} for nodes in trial.placement.values())
    require_openvino()
    (exact,) = [t for t in report.trials if (t.device, t.precision) == ("openvino", "fp32")]
    assert exact.placement is not None
    assert all(nodes["OpenVINO f32"] > 0 for nodes in exact.placement.values())


def test_a_precision_that_is_refused_is_no_fault(report: Report) -> None:
    """As OpenVINO's bfloat16 on some processors, whatever else works here."""
    require_openvino()
    advice = judge(report)
    assert not any(line.wrong for line in advice)
    assert advice[-1] == Advice(f"All is well: {assets.MINI} runs on {report.auto.description}.")


def test_the_report_is_plain_data(report: Report) -> None:
    assert json.loads(json.dumps(asdict(report)))["bundle"] == str(assets.MINI)


def test_the_environments_choice_is_told(monkeypatch) -> None:
    monkeypatch.setattr(doctor, "DEVICES", ("cpu",))
    monkeypatch.setenv("OVML_DEVICE", "abacus")
    report = examine(assets.MINI)
    assert report.machine.ovml_device == "abacus"
    (advice,) = judge(report)
    assert advice.wrong
    assert "Unknown device 'abacus'" in advice.text


def test_a_bundle_that_is_none(tmp_path: Path) -> None:
    report = examine(tmp_path)
    assert report.trials == ()
    (advice,) = judge(report)
    assert advice.wrong
    assert "not a bundle" in advice.text


def test_a_damaged_bundle_fails_everywhere(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(doctor, "DEVICES", ("cpu",))
    folder = Path(shutil.copytree(assets.MINI, tmp_path / "bundle"))
    with (folder / ENCODER).open("ab") as file:
        file.write(b"x")
    report = examine(folder)
    assert all(trial.broken for trial in report.trials)
    (advice,) = judge(report)  # once, although both cpu and auto met it
    assert advice.wrong
    assert "encoder.onnx was changed after export" in advice.text


def test_a_defect_of_an_engine_is_reported_not_raised(monkeypatch) -> None:
    def broken(*_: object) -> None:
        raise ImportError("libfoo.so.13: cannot open shared object file")

    monkeypatch.setattr(doctor.Engine, "open", broken)
    trial = doctor._try(Bundle.open(assets.MINI), "cpu", "fp32")
    assert trial.refused == "ImportError: libfoo.so.13: cannot open shared object file"


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    """A plan of a copy of the embedded model, for a GPU that is not here."""
    bundle = Bundle.open(shutil.copytree(assets.MINI, tmp_path / "bundle"))
    path, graphs = bundle.path / "mini.plan", {}
    for name in GRAPHS:
        file = graph_path(path, name)
        file.write_bytes(b"a plan")
        graphs[name] = PlanGraph(
            file.name,
            sha256_file(file),
            6,
            {"pixels": Tensor("uint8", ("batch", 128, 128, 3))},
            {"features": Tensor("float32", ("batch", 1, 384))},
            {"batch": (1, 8, 32)},
            "fp16" if name == ENCODER else "fp32",
            {"fp16": 22},
            {"gemm": 22},
        )
    plan = Plan(path, bundle_hash(bundle), "rtx", "1.0", ("sm20",), graphs)
    plan.write()
    return plan


def test_a_plan_that_cannot_be_read_hides_nothing(plan: Plan) -> None:
    plan.path.with_suffix(".json").write_text("{")
    report = examine(plan.path.parent)
    assert report.plans == {str(plan.path): "cannot be read"}
    assert report.auto.fault is None
    assert report.trials[-1].broken
    assert any(str(plan.path.with_suffix(".json")) in advice.text for advice in judge(report))


def test_plans_are_shown_without_a_gpu(plan: Plan, monkeypatch) -> None:
    monkeypatch.setattr(doctor, "DEVICES", ("cpu",))
    report = examine(plan.path.parent)
    assert report.plans == {str(plan.path): plan.summary()}
    trial = report.trials[-1]
    assert (trial.device, trial.precision) == (str(plan.path), "fp16")
    assert trial.refused
    assert not trial.broken
    if report.machine.no_gpu is not None:  # it may be for another machine
        assert not any(str(plan.path) in advice.text for advice in judge(report))
    replace(plan, bundle_hash="0" * 16).write()
    report = examine(plan.path.parent)
    assert report.trials[-1].broken
    advice = judge(report)
    assert any("was built from another bundle" in line.text for line in advice)
    assert advice[-1].text.startswith("All is well")


def test_packages(altered) -> None:
    advice = judge(altered(versions={"tokenizers": None, "onnxruntime-gpu": "1.31"}))
    first, second, last = advice
    assert first == Advice("tokenizers is not installed: pip install ovml-deploy", wrong=True)
    assert second.wrong
    assert "pip uninstall onnxruntime onnxruntime-gpu, then pip install" in second.text
    assert last == Advice(f"{assets.MINI} runs on {altered().auto.description}.")


def test_a_cache_that_cannot_be_written(altered) -> None:
    first, _ = judge(altered({"cache": "/locked", "cache_writable": False}))
    assert first.wrong
    assert first.text.startswith("/locked cannot be written")
    assert "OVML_CACHE" in first.text


def test_a_gpu_that_nothing_uses(altered) -> None:
    gpu = {"driver": L4, "no_gpu": None}
    first, last = judge(altered(gpu))
    assert first == Advice(
        "An NVIDIA GPU (NVIDIA L4) is here, and nothing uses it: the ONNX Runtime has no CUDA."
    )
    assert last.text.startswith("All is well")
    runs = (Trial("cuda", "fp32", "ONNX Runtime on GPU"),)
    assert len(judge(altered(gpu, untried={}, trials=runs))) == 1
    plan = (Trial("/b/x.plan", "fp16", "TensorRT"),)
    assert len(judge(altered(gpu, trials=plan, plans={"/b/x.plan": "x.plan"}))) == 1


def test_a_gpu_that_no_plan_is_for(altered) -> None:
    trials = (Trial("/b/x.plan", "fp16", refused="/b/x.plan was built for another device"),)
    advice = judge(altered({"driver": L4, "no_gpu": None}, trials=trials, plans={"/b/x.plan": ""}))
    told = "No plan beside the bundle runs here: /b/x.plan was built for another device"
    assert Advice(told) in advice


def test_a_driver_that_does_not_start(altered) -> None:
    fault = "the NVIDIA driver does not start (CUDA error 803)"
    first, _ = judge(altered({"driver": Driver((13, 0), (), 803), "no_gpu": fault}))
    assert first.wrong
    assert first.text.startswith(fault)
    none = {"driver": Driver((13, 0), (), 100), "no_gpu": "the NVIDIA driver finds no GPU"}
    assert len(judge(altered(none))) == 1  # a container without one


def test_a_device_that_is_here_and_fails(altered) -> None:
    trials = (
        Trial("cuda", "fp32", refused="CUDAExecutionProvider could not start"),
        Trial("openvino", "bf16", refused="died"),
        Trial("openvino", "fp32", "OpenVINO"),
    )
    first, _ = judge(altered(trials=trials, untried={}))
    assert first == Advice(
        "Device cuda does not work: CUDAExecutionProvider could not start", wrong=True
    )


@pytest.mark.parametrize(
    ("device", "package"),
    [("cpu", "onnxruntime"), ("cpu", "onnxruntime-gpu"), ("openvino", "openvino")],
)
def test_a_package_that_is_here_and_does_not_load(altered, device: str, package: str) -> None:
    none = dict.fromkeys(("onnxruntime", "onnxruntime-gpu", "openvino"))
    untried = {device: "it does not load (libfoo.so)"}
    first, *_ = judge(altered(versions=none | {package: "1.0"}, untried=untried, trials=()))
    told = f"Device {device} does not work: it does not load (libfoo.so)"
    assert first == Advice(told, wrong=True)
    assert not any(line.wrong for line in judge(altered(versions=none, untried=untried, trials=())))


def test_a_cpu_that_cannot_run_bf16_is_in_order(altered) -> None:
    trials = (Trial("cpu", "bf16", refused="no"), Trial("openvino", "bf16", "OpenVINO"))
    assert len(judge(altered(trials=trials, precision="bf16"))) == 1


@pytest.mark.parametrize(
    ("limit", "cause"),
    [
        ({"threads": 2, "quota": 1.5}, "Only 2 of 8 CPUs may be used (cgroup quota 1.5), so"),
        ({"threads": 3, "allowed": 3}, "Only 3 of 8 CPUs may be used (affinity mask), so"),
        ({"threads": 3, "allowed": 3, "quota": 6.0}, "3 of 8 CPUs may be used (affinity mask)"),
    ],
)
def test_cpus_that_may_not_be_used(altered, limit: dict, cause: str) -> None:
    first, last = judge(altered({"cpus": 8, "allowed": 8, **limit}))
    assert cause in first.text
    assert not first.wrong
    assert last.text.startswith("All is well")


@pytest.mark.parametrize("feature", ["AMX-BF16", "AVX512-BF16", "BF16"])
def test_a_cpu_that_openvino_would_use_better(altered, feature: str) -> None:
    machine = {"features": [feature, "AVX2"]}
    first, _ = judge(altered(machine, {"openvino": None}))
    assert f"multiplies bfloat16 natively ({feature})" in first.text
    assert "pip install 'ovml-deploy[openvino]'" in first.text
    assert len(judge(altered(machine))) == 1
    assert len(judge(altered(versions={"openvino": None}))) == 1
    assert len(judge(altered(machine, {"openvino": None}, precision="int8"))) == 1


def test_the_caches_folder_is_looked_at(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("OVML_CACHE", str(tmp_path / "not" / "there" / "yet"))
    machine = doctor._machine()
    assert machine.cache.endswith("yet")
    assert machine.cache_writable
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
    assert not doctor._machine().cache_writable

"""What a plan's JSON is checked for, before TensorRT or a GPU are asked for anything."""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ovml_deploy.errors import BundleError, DeviceError
from ovml_deploy.files import sha256_file
from ovml_deploy.runtime.bundle import ENCODER, GOLDEN, MATCHER, TEXT_ENCODER, Bundle
from ovml_deploy.runtime.plans import (
    GRAPHS,
    Plan,
    PlanGraph,
    Tensor,
    bundle_hash,
    find_plans,
    graph_path,
)

MINI = Path(__file__).resolve().parents[2] / "ovml_deploy/assets/mini"


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    """The embedded model's manifest, in a folder whose name a shell would split."""
    folder = tmp_path / "my bundle"
    folder.mkdir()
    shutil.copy(MINI / "bundle.json", folder)
    return Bundle.open(folder)


@pytest.fixture
def plan(bundle: Bundle) -> Plan:
    """A plan whose files hold something."""
    path = bundle.path / "qks.plan"
    graphs = {}
    for name in GRAPHS:
        file = graph_path(path, name)
        file.write_bytes(name.encode())
        graphs[name] = PlanGraph(
            file.name,
            sha256_file(file),
            len(name),
            {"features": Tensor("float32", ("batch", 12, 384))},
            {"logits": Tensor("float32", ("batch", "labels"))},
            {"batch": (1, 8, 32)},
            "fp16" if name == ENCODER else "fp32",
            {"fp16": 22, "fp32": 1},
            {"gemm": 23},
        )
    plan = Plan(path, bundle_hash(bundle), "rtx", "1.7.1.116", ("sm86", "sm89"), graphs)
    plan.write()
    return plan


def test_what_is_written_is_read(plan: Plan, bundle: Bundle) -> None:
    assert Plan.read(plan.path) == plan
    assert find_plans(bundle.path) == ([plan], {})  # one: the others are part of it
    assert plan.precision == "fp16"
    for part in ("qks.plan", "rtx TensorRT 1.7.1.116", "sm86, sm89", "fp16", "0.0 MB"):
        assert part in plan.summary()
    names = [plan.file(name).name for name in (ENCODER, MATCHER, TEXT_ENCODER)]
    assert names == ["qks.plan", "qks.matcher.plan", "qks.text_encoder.plan"]
    # what fits says nothing
    plan.check_bundle(bundle)
    plan.check_version("1.7.1.116")
    plan.check_device("NVIDIA L4", (8, 9))


def rebuild(plan: Plan, target: str = "sm86,sm89") -> str:
    """The command, as a shell takes it."""
    return (
        f"python -m export.tensorrt --bundle '{plan.path.parent}' --target {target} --flavour rtx "
        f"--out '{plan.path}'"
    )


def test_a_plan_of_another_bundle(plan: Plan, bundle: Bundle) -> None:
    for name in (*GRAPHS, GOLDEN):
        manifest = json.loads(json.dumps(bundle.manifest))
        manifest["files"][name]["sha256"] = "0" * 64
        with pytest.raises(BundleError, match="from another bundle than") as caught:
            plan.check_bundle(replace(bundle, manifest=manifest))
        assert rebuild(plan) in str(caught.value)
    manifest = json.loads(json.dumps(bundle.manifest))
    manifest["files"]["encoder.onnx.data"] = {"sha256": "0" * 64, "bytes": 1}
    assert bundle_hash(replace(bundle, manifest=manifest)) != bundle_hash(bundle)
    manifest = {**bundle.manifest, "default_vocabulary": "other"}  # words are no part of a plan
    plan.check_bundle(replace(bundle, manifest=manifest))


def test_a_plan_of_another_version(plan: Plan) -> None:
    with pytest.raises(DeviceError, match="another version of TensorRT") as caught:
        plan.check_version("1.8.0.2")
    assert "rtx 1.7.1.116; installed is 1.8.0.2" in str(caught.value)
    assert rebuild(plan) in str(caught.value)


def test_a_plan_for_another_device(plan: Plan) -> None:
    with pytest.raises(DeviceError, match="another device: for sm86, sm89") as caught:
        plan.check_device("NVIDIA GeForce RTX 5090", (12, 0))
    assert "NVIDIA GeForce RTX 5090 is sm120" in str(caught.value)
    assert rebuild(plan, "sm120") in str(caught.value)


@pytest.mark.parametrize("name", GRAPHS)
def test_a_changed_or_missing_file(plan: Plan, name: str) -> None:
    path = graph_path(plan.path, name)
    path.write_bytes(b"another engine")
    with pytest.raises(BundleError, match=re.escape(f"{path} was changed after it was built")) as e:
        plan.file(name)
    assert rebuild(plan) in str(e.value)
    path.unlink()
    with pytest.raises(BundleError, match=re.escape(f"{path} is missing")):
        plan.file(name)


def test_a_plan_without_its_json(plan: Plan) -> None:
    plan.path.with_suffix(".json").unlink()
    with pytest.raises(BundleError, match=r"There is no qks\.json beside .*--target current") as e:
        Plan.read(plan.path)
    assert f"--out '{plan.path}'" in str(e.value)
    assert find_plans(plan.path.parent) == ([], {})


def _set(*keys: str, to: object) -> Callable[[dict[str, Any]], None]:
    def change(value: dict[str, Any]) -> None:
        for key in keys[:-1]:
            value = value[key]
        value[keys[-1]] = to

    return change


@pytest.mark.parametrize(
    "change",
    [
        _set("format", to="ovml-deploy/bundle"),
        _set("version", to=2),
        _set("bundle", to=7),
        _set("tensorrt", to=[]),
        _set("tensorrt", "flavour", to="other"),
        _set("targets", to=[89]),
        _set("targets", to=None),
        _set("graphs", to={}),
        _set("graphs", ENCODER, "file", to="../qks.plan"),
        _set("graphs", ENCODER, "file", to="qks.matcher.plan"),
        _set("graphs", MATCHER, "unknown", to=1),
        _set("graphs", MATCHER, "inputs", to={"features": {"dtype": 1, "shape": []}}),
        _set("graphs", MATCHER, "profile", to={"batch": [1, 8]}),
        _set("graphs", MATCHER, "profile", to={"batch": [0, 8, 32]}),
        _set("graphs", MATCHER, "profile", to={"batch": [1, 64, 32]}),
    ],
)
def test_a_json_that_makes_no_sense(plan: Plan, change: Callable[[dict[str, Any]], None]) -> None:
    source = plan.path.with_suffix(".json")
    value = json.loads(source.read_text())
    change(value)
    source.write_text(json.dumps(value))
    with pytest.raises(BundleError, match="does not describe a plan of this release"):
        Plan.read(plan.path)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"x"', "[" * 100_000])
def test_a_json_that_is_none(plan: Plan, text: str) -> None:
    plan.path.with_suffix(".json").write_text(text)
    with pytest.raises(BundleError, match="does not describe a plan"):
        Plan.read(plan.path)

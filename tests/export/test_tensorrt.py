"""Plans are really built here, for GPUs that this machine does not have."""

import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from export.precision import lower_precision
from export.tensorrt import BATCH, build_plan, main
from export.tensorrt_build import Builder
from export.tensorrt_graph import adapt
from ovml_deploy.commandline import run
from ovml_deploy.errors import ExportError
from ovml_deploy.files import sha256_file
from ovml_deploy.runtime.backends.tensorrt_module import FLAVOURS, choose
from ovml_deploy.runtime.bundle import ENCODER, MATCHER, TEXT_ENCODER, Bundle
from ovml_deploy.runtime.gpus import no_gpu
from ovml_deploy.runtime.plans import Plan, bundle_hash

pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx-cu13 is not installed")

ROOT = Path(__file__).resolve().parents[2]
MINI = ROOT / "ovml_deploy/assets/mini"
RTX = FLAVOURS["rtx"]
needs_no_gpu = pytest.mark.skipif(no_gpu() is None, reason="this machine has an NVIDIA GPU")


@pytest.fixture(scope="module")
def planned(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tiny bundle with its plan. Never change it: take ``copy``."""
    folder = tmp_path_factory.mktemp("planned") / "tiny"
    shutil.copytree(tiny_bundle, folder)
    build_plan(Bundle.open(folder), targets=("sm86", "sm120"), batch=(1, 2, 4), labels=(1, 5, 8))
    return folder


@pytest.fixture
def copy(planned: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(planned, tmp_path / "tiny"))


def refuse(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    code = run(main, "tensorrt", [str(argument) for argument in arguments])
    assert code != 0
    return code, capsys.readouterr().err


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.suffix in (".plan", ".part"))


def test_the_json_says_what_the_engines_are(planned: Path) -> None:
    value = json.loads((planned / "tiny.json").read_text())
    bundle = Bundle.open(planned / "tiny.plan")
    assert value["tensorrt"] == {"flavour": "rtx", "version": Builder(RTX, ["sm86"]).version}
    assert value["targets"] == ["sm86", "sm120"]
    assert value["bundle"] == bundle_hash(bundle)
    files = {name: graph["file"] for name, graph in value["graphs"].items()}
    assert files == {
        ENCODER: "tiny.plan",
        MATCHER: "tiny.matcher.plan",
        TEXT_ENCODER: "tiny.text_encoder.plan",
    }
    assert leftovers(planned) == sorted(files.values())
    for graph in value["graphs"].values():
        path = planned / graph["file"]
        assert (graph["sha256"], graph["bytes"]) == (sha256_file(path), path.stat().st_size)
        assert (graph["precision"], [*graph["products"]]) == ("fp32", ["fp32"])
        # what the engine itself says: its architectures, and no TF32
        assert b"accelerators={sm86 sm120 }" in (engine := path.read_bytes())
        assert b"tf32=0" in engine
        assert b"tf32=1" not in engine
    # 2 blocks of a ViT and 2 layers of a decoder: as many products as the graph has, or less by fusion
    graph = onnx.load(planned / ENCODER).graph
    products = [node for node in graph.node if node.op_type in ("MatMul", "Gemm", "Conv")]
    assert 20 <= value["graphs"][ENCODER]["products"]["fp32"] <= len(products)
    matcher = value["graphs"][MATCHER]
    assert matcher["inputs"]["labels"] == {"dtype": "float32", "shape": ["labels", 32]}
    assert matcher["outputs"]["winners"] == {"dtype": "int64", "shape": ["batch", "labels"]}
    assert matcher["profile"] == {"batch": [1, 2, 4], "labels": [1, 5, 8]}
    length = bundle.text.context_length
    assert value["graphs"][TEXT_ENCODER]["profile"]["length"] == [1, min(16, length), length]


def test_the_embedded_model_through_the_command(tmp_path: Path, capsys) -> None:
    out = tmp_path / "plans" / "mini.plan"
    arguments = ["--bundle", str(MINI), "--target", "SM89,sm120,sm89", "--out", str(out)]
    assert run(main, "tensorrt", arguments) == 0
    plan = Plan.read(out)
    assert (plan.targets, plan.precision) == (("sm89", "sm120"), "fp32")
    assert plan.graphs[ENCODER].profile["batch"] == BATCH
    plan.check_bundle(Bundle.open(MINI))
    printed = capsys.readouterr().out
    assert "mini.text_encoder.plan" in printed
    assert "sm89, sm120" in printed


@pytest.mark.parametrize("name", [ENCODER, TEXT_ENCODER])
def test_graphs_are_adapted_without_changing_a_number(name: str) -> None:
    """The embedded model's: uint8 pixels, and weights stored as int8."""
    original, adapted = onnx.load(MINI / name), onnx.load(MINI / name)
    adapt(adapted)
    casts = {node.input[0] for node in adapted.graph.node if node.op_type == "Cast"}
    stored = {t.name for t in adapted.graph.initializer if t.data_type == TensorProto.INT8}
    assert not casts & stored
    random = np.random.default_rng(0)
    inputs = {"pixels": random.integers(0, 256, (2, 224, 224, 3), dtype=np.uint8)}
    if name == TEXT_ENCODER:
        ids = random.integers(0, 1000, (2, 7), dtype=np.int64)
        inputs = {"token_ids": ids, "attention_mask": np.ones_like(ids)}
    before, after = (
        onnxruntime.InferenceSession(model.SerializeToString()).run(None, inputs)[0]
        for model in (original, adapted)
    )
    assert np.abs(before - after).max() <= 1e-5 * np.abs(before).max()


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_lower_precision_is_read_back_from_the_engine(
    tiny_bundle: Path, tmp_path: Path, precision: str
) -> None:
    model = onnx.load(tiny_bundle / ENCODER)
    lower_precision(model, precision)
    onnx.save(model, tmp_path / "encoder.onnx")
    built = Builder(RTX, ["sm86"]).build(tmp_path / "encoder.onnx", {"batch": (1, 2, 4)})
    # all but the last projection
    assert [*built.products] == [precision, "fp32"]
    assert built.products["fp32"] == 1


def test_quantised_weights_stay_quantised(tmp_path: Path) -> None:
    weight = np.random.default_rng(0).integers(-127, 128, (64, 64), dtype=np.int8)
    constants = {"w8": weight, "s": np.float32(0.05), "zero": np.int8(0)}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "zero"], ["x8"]),
        helper.make_node("DequantizeLinear", ["x8", "s", "zero"], ["xf"]),
        helper.make_node("DequantizeLinear", ["w8", "s", "zero"], ["w"]),
        helper.make_node("MatMul", ["xf", "w"], ["product"]),
        helper.make_node("Relu", ["product"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "quantised",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 64])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", 20)]
    onnx.save(helper.make_model(graph, opset_imports=opsets), tmp_path / "int8.onnx")
    built = Builder(RTX, ["sm89"]).build(tmp_path / "int8.onnx", {"batch": (1, 8, 32)})
    assert built.products == {"int8": 1}


def test_an_engine_of_another_precision_than_the_bundles_is_refused(bundle_copy: Path) -> None:
    """In a folder named "bundle", whose plan cannot be named after it: bundle.json is taken."""
    manifest = bundle_copy / "bundle.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "precision": "fp16"}))
    with pytest.raises(ExportError, match=r"engine\.plan is to compute in fp16, .*: \d+ in fp32"):
        build_plan(Bundle.open(bundle_copy), targets=("sm86",))
    assert leftovers(bundle_copy) == []


def test_what_cannot_be_built_is_named_with_its_target_and_leaves_the_old_plan(copy: Path) -> None:
    before = {name: sha256_file(copy / name) for name in leftovers(copy)}
    with pytest.raises(
        ExportError, match=r"For sm75: .*\. It can be built with --target sm86,sm89"
    ):
        build_plan(Bundle.open(copy), targets=("sm86", "sm75", "sm89"))
    # the last of the three graphs: the other two are built by then
    text_encoder = onnx.load(copy / TEXT_ENCODER)
    text_encoder.graph.node.append(
        helper.make_node("Unheard", ["text_features"], ["y"], domain="x")
    )
    text_encoder.opset_import.append(helper.make_opsetid("x", 1))
    text_encoder.graph.output[0].name = "y"
    onnx.save(text_encoder, copy / TEXT_ENCODER)
    manifest = json.loads((copy / "bundle.json").read_text())
    manifest["files"][TEXT_ENCODER]["sha256"] = sha256_file(copy / TEXT_ENCODER)
    (copy / "bundle.json").write_text(json.dumps(manifest))
    with pytest.raises(ExportError, match=r"cannot build .*text_encoder\.onnx.*sm86.*Unheard"):
        build_plan(Bundle.open(copy), targets=("sm86",))
    assert {name: sha256_file(copy / name) for name in leftovers(copy)} == before
    assert Plan.read(copy / "tiny.plan").targets == ("sm86", "sm120")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--target", "sm90"), r"does not build for sm90 here. Targets: sm75, sm80, sm86, sm89"),
        (("--target", "current,sm86"), "'current' alone"),
        (("--target", ","), "does not build for nothing"),
        (("--target", "sm86", "--flavour", "x"), "Unknown flavour 'x'. There are: auto, rtx"),
        (("--target", "sm86", "--out", "qks.engine"), "ends in .plan"),
        (("--target", "sm86", "--out", "bundle.plan"), "'bundle.json', which a bundle's own file"),
        (("--target", "sm86", "--out", "tokenizer.plan"), "'tokenizer.json', which"),
        (("--target", "sm86", "--batch", "8"), "smallest, the best and the greatest size"),
        (("--target", "sm86", "--batch", "2,4,8"), "smallest is 1, for one may come alone"),
        (("--target", "sm86", "--labels", "9,8,1"), "--labels takes"),
    ],
)
def test_wrong_command_lines(tiny_bundle: Path, capsys, arguments, message: str) -> None:
    code, error = refuse(capsys, "--bundle", tiny_bundle, *arguments)
    assert code == 2
    assert message in error


def test_an_output_that_cannot_be_written_is_refused_before_the_work(
    tiny_bundle: Path, tmp_path: Path, capsys
) -> None:
    (tmp_path / "x.text_encoder.plan").mkdir()
    options = ("--bundle", tiny_bundle, "--target", "sm86", "--out", tmp_path / "x.plan")
    code, error = refuse(capsys, *options)
    assert code == 2
    assert "x.text_encoder.plan' cannot be written" in error


@needs_no_gpu
def test_the_current_gpu_where_there_is_none(tiny_bundle: Path, capsys) -> None:
    code, error = refuse(capsys, "--bundle", tiny_bundle)
    assert code == 1
    assert "no NVIDIA GPU here to build for" in error
    assert "--target sm89" in error


@pytest.mark.parametrize(
    ("flavour", "absent", "extras"),
    [
        ("auto", ["tensorrt_rtx", "tensorrt"], ["tensorrt-rtx", "tensorrt"]),
        ("rtx", ["tensorrt_rtx"], ["tensorrt-rtx"]),
        ("enterprise", ["tensorrt"], ["tensorrt"]),
    ],
)
def test_a_missing_package_is_named(
    monkeypatch, tiny_bundle: Path, capsys, flavour: str, absent: list[str], extras: list[str]
) -> None:
    for module in absent:
        monkeypatch.setitem(sys.modules, module, None)
    options = ("--bundle", tiny_bundle, "--target", "sm86", "--flavour", flavour)
    code, error = refuse(capsys, *options)
    assert code == 1
    for extra in extras:
        assert f"pip install 'ovml-deploy[{extra}]'" in error


def test_enterprise_tensorrt_keeps_its_timings(tiny_bundle: Path, tmp_path: Path, monkeypatch):
    """By its own path through the builder, but with the other flavour's package, which takes it."""
    monkeypatch.setenv("OVML_CACHE", str(tmp_path))
    flavour = replace(choose("rtx"), any_target=False)
    for _ in range(2):
        Builder(flavour, ["sm89"]).build(
            tiny_bundle / MATCHER, {"batch": (1, 2, 4), "labels": (1, 5, 8)}
        )
        (timings,) = (tmp_path / "tensorrt").iterdir()
        assert timings.name.endswith("-sm89.timings")
        assert timings.stat().st_size > 0


def start(stderr: int | None, *arguments: object) -> "subprocess.Popen[bytes]":
    # a job's interrupts may be ignored; to say so in a preexec_fn would fork, which gRPC, that other
    # tests load, does not always survive
    command = ["env", "--default-signal=INT", sys.executable, "-m", "export.tensorrt"]
    return subprocess.Popen(
        [*command, *map(str, arguments)], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=stderr
    )


def wait_for(condition: Callable[[], object], process: "subprocess.Popen[bytes]") -> None:
    end = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, "it ended before it could be stopped"
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_a_stopped_build_leaves_no_plan(tmp_path: Path, sent: signal.Signals, code: int) -> None:
    process = start(None, "--bundle", MINI, "--target", "sm89", "--out", tmp_path / "mini.plan")
    # two of three are there: the text encoder, the largest, is being built
    wait_for(lambda: len([*tmp_path.glob(".mini*.part")]) >= 2, process)
    process.send_signal(sent)
    assert process.wait(60) == code
    assert [*tmp_path.glob("*.plan")] == [*tmp_path.glob("*.json")] == []
    if sent == signal.SIGINT:
        assert leftovers(tmp_path) == []


def test_progress_is_shown_on_a_terminal(tiny_bundle: Path, tmp_path: Path) -> None:
    reader, writer = pty.openpty()
    process = start(
        writer, "--bundle", tiny_bundle, "--target", "sm89", "--out", tmp_path / "tiny.plan"
    )
    os.close(writer)
    shown = b""
    try:
        while some := os.read(reader, 1 << 16):
            shown += some
    except OSError:  # how a terminal ends
        pass
    assert process.wait(60) == 0, shown[-2000:].decode()
    for graph in ("encoder", "text_encoder"):
        assert f"{graph}: ".encode() in shown
    assert b" of " in shown
    assert shown.rstrip(b" ").endswith(b"\r") or shown.endswith(b"\r")  # and wiped away

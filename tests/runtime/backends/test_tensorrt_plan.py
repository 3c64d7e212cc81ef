"""Running a plan: all of it on a GPU, and what needs none here.

The splitting of large inputs does not ask who runs the parts: here ONNX Runtime does.
"""

import json
import shutil
import sys
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from export.tensorrt import build_plan
from export.tensorrt_graph import describe
from ovml_deploy.errors import BundleError, DeviceError, MissingDependencyError, OvmlError
from ovml_deploy.runtime.backends.base import Array, wanted
from ovml_deploy.runtime.backends.tensorrt_module import FLAVOURS, load_cuda
from ovml_deploy.runtime.backends.tensorrt_plan import DeviceArray, InParts, TensorRTPlan
from ovml_deploy.runtime.bundle import ENCODER, MATCHER, TEXT_ENCODER, Bundle
from ovml_deploy.runtime.gpus import no_gpu
from ovml_deploy.runtime.plans import PlanGraph

needs_gpu = pytest.mark.skipif(no_gpu() is not None, reason=f"needs a GPU: {no_gpu()}")
needs_no_gpu = pytest.mark.skipif(no_gpu() is None, reason="this machine has an NVIDIA GPU")
MINI = Path(__file__).resolve().parents[3] / "ovml_deploy/assets/mini"
RANDOM = np.random.default_rng(0)


class Bounded:
    """A graph on ONNX Runtime that takes no more than its profile allows, like an engine."""

    def __init__(self, path: Path, profile: Mapping[str, tuple[int, int, int]]) -> None:
        graph = onnx.load(path).graph
        self.inputs, self.outputs = describe([*graph.input]), describe([*graph.output])
        nothing: dict[str, int] = {}
        self.graph = PlanGraph(
            path.name, "", 0, self.inputs, self.outputs, profile, "fp32", nothing, nothing
        )
        self.session = onnxruntime.InferenceSession(path)
        self.calls = 0
        self.copied: list[str] = []

    def __call__(
        self, inputs: Mapping[str, Array], keep: Collection[str] = (), also: Collection[str] = ()
    ) -> dict[str, Array]:
        assert inputs.keys() == self.inputs.keys()
        for name, value in inputs.items():
            dimension = self.inputs[name].shape[0]
            assert 1 <= value.shape[0] <= self.graph.profile[str(dimension)][2]
        self.calls += 1
        names = wanted(self.outputs, also)
        return dict(zip(names, self.session.run(names, dict(inputs)), strict=True))

    def put(self, array: np.ndarray) -> np.ndarray:
        self.copied.append(str(array.dtype))
        return array

    def placement(self) -> dict[str, int]:
        return {"CPUExecutionProvider": 1}


def require_same(found: Mapping[str, Array], expected: Mapping[str, Array]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].shape == value.shape
        assert np.abs(np.asarray(found[name]) - np.asarray(value)).max() <= 1e-5


@pytest.mark.parametrize("fixture", ["tiny_bundle", "tuned_bundle"])
@pytest.mark.parametrize(("batch", "labels"), [(1, 1), (2, 4), (3, 5), (7, 4), (2, 13), (7, 13)])
def test_what_is_beyond_the_profile_is_split(
    request, fixture: str, batch: int, labels: int
) -> None:
    """Features in threes, labels in fives: matched in parts as at once, to the winning query."""
    bundle = Bundle.open(request.getfixturevalue(fixture))
    bounded = Bounded(bundle.path / MATCHER, {"batch": (1, 1, 3), "labels": (1, 1, 5)})
    graph = InParts(bounded, bounded.graph)
    features = RANDOM.normal(size=(batch, bundle.features_per_image, bundle.embed_dim))
    inputs = {
        "features": features.astype(np.float32),
        "labels": RANDOM.normal(size=(labels, bundle.label_dim)).astype(np.float32),
    }
    expected = dict(zip(bounded.outputs, bounded.session.run(None, inputs), strict=True))
    require_same(graph(inputs, keep=("logits",)), expected)
    assert bounded.calls == -(-batch // 3) * -(-labels // 5)
    # a fixed matrix is copied once, and split where it lies
    fixed = graph.fix({"labels": inputs["labels"]})
    for _ in range(2):
        require_same(fixed({"features": inputs["features"]}), expected)
    assert bounded.copied == ["float32"]


def test_inputs_that_share_a_dimension_are_split_together() -> None:
    """Token ids and their mask, of the embedded model."""
    bounded = Bounded(MINI / TEXT_ENCODER, {"prompts": (1, 1, 4), "length": (1, 1, 16)})
    ids = RANDOM.integers(0, 1000, (9, 6), dtype=np.int64)
    mask = (np.arange(6) < RANDOM.integers(1, 7, (9, 1))).astype(np.int64)
    inputs = {"token_ids": ids, "attention_mask": mask}
    (expected,) = bounded.session.run(None, inputs)
    require_same(InParts(bounded, bounded.graph)(inputs), {"text_features": expected})
    assert bounded.calls == 3


@pytest.mark.parametrize("batch", [2, 7])
def test_where_it_looks_is_split_as_features_are(tiny_bundle: Path, batch: int) -> None:
    """And given only to those who ask."""
    bundle = Bundle.open(tiny_bundle)
    bounded = Bounded(bundle.path / ENCODER, {"batch": (1, 1, 3)})
    graph = InParts(bounded, bounded.graph)
    size = (batch, *bundle.preprocessing.size, 3)
    inputs = {"pixels": RANDOM.integers(0, 256, size, dtype=np.uint8)}
    names = ["features", "attention"]
    expected = dict(zip(names, bounded.session.run(names, inputs), strict=True))
    require_same(graph(inputs, also=("attention",)), expected)
    require_same(graph(inputs), {"features": expected["features"]})


@pytest.fixture(scope="module")
def planned(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny bundle with a small plan for this machine's GPU, or for one that is elsewhere."""
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx-cu13 is not installed")
    folder = tmp_path_factory.mktemp("planned") / "tiny"
    shutil.copytree(tiny_bundle, folder)
    targets = ["current" if no_gpu() is None else "sm89"]
    build_plan(Bundle.open(folder), targets=targets, batch=(1, 2, 4), labels=(1, 5, 8))
    return folder / "tiny.plan"


def changed(planned: Path, folder: Path, **tensorrt: str) -> Path:
    """A copy of the plan whose JSON tells otherwise."""
    copy = Path(shutil.copytree(planned.parent, folder / "copy")) / planned.name
    value = json.loads(copy.with_suffix(".json").read_text())
    value["tensorrt"] |= tensorrt
    copy.with_suffix(".json").write_text(json.dumps(value))
    return copy


@needs_no_gpu
def test_a_failure_of_cuda_is_an_error_of_ours() -> None:
    pytest.importorskip("cuda.bindings", reason="cuda-bindings is not installed")
    cuda = load_cuda(FLAVOURS["rtx"])
    with pytest.raises(DeviceError, match="CUDA failed: cudaError"):
        DeviceArray(cuda, (2, 3), np.dtype(np.float32))


@needs_no_gpu
def test_without_a_gpu_it_says_so(planned: Path) -> None:
    with pytest.raises(
        DeviceError, match=r"tiny\.plan needs an NVIDIA GPU \(sm89\), and no NVIDIA"
    ):
        TensorRTPlan(planned)


def test_another_version_is_met_before_the_gpu(planned: Path, tmp_path: Path) -> None:
    other = changed(planned, tmp_path, version="1.0.0.1")
    with pytest.raises(
        DeviceError, match=r"another version of TensorRT \(rtx 1\.0\.0\.1; installed"
    ):
        TensorRTPlan(other)


@pytest.mark.parametrize(
    ("flavour", "module", "extra"),
    [
        ("rtx", "tensorrt_rtx", "tensorrt-rtx"),
        ("enterprise", "tensorrt", "tensorrt"),
        ("rtx", "cuda.bindings.runtime", "tensorrt-rtx"),
    ],
)
def test_a_missing_package_is_named(
    planned: Path, tmp_path: Path, monkeypatch, flavour: str, module: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    path = changed(planned, tmp_path, flavour=flavour)
    with pytest.raises(MissingDependencyError) as caught:
        TensorRTPlan(path)
    assert f"pip install 'ovml-deploy[{extra}]'" in str(caught.value)


def test_a_package_that_does_not_load(planned: Path, tmp_path: Path, monkeypatch) -> None:
    """One of its libraries is missing, say."""
    package = tmp_path / "site" / "tensorrt_rtx"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise OSError('libtensorrt_rtx.so.1: cannot open')")
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.delitem(sys.modules, "tensorrt_rtx", raising=False)
    with pytest.raises(
        DeviceError, match=r"cannot be loaded \(libtensorrt_rtx\.so\.1: cannot open"
    ):
        TensorRTPlan(planned)


def test_a_plan_without_json(tmp_path: Path) -> None:
    (tmp_path / "x.plan").write_bytes(b"engine")
    with pytest.raises(BundleError, match=r"There is no x\.json"):
        TensorRTPlan(tmp_path / "x.plan")


@pytest.fixture(scope="module")
def backend(planned: Path) -> TensorRTPlan:
    return TensorRTPlan(planned)


def on_cpu(bundle: Bundle, name: str, inputs: dict[str, np.ndarray]) -> dict[str, Any]:
    session = onnxruntime.InferenceSession(bundle.path / name)
    outputs = [output.name for output in session.get_outputs()]
    return dict(zip(outputs, session.run(outputs, inputs), strict=True))


@needs_gpu
def test_the_engines_agree_with_onnx_runtime(backend: TensorRTPlan, planned: Path) -> None:
    """Within the profile and beyond it, with arrays here and there, from several threads."""
    bundle = Bundle.open(planned)
    height, width = bundle.preprocessing.size
    encoder = backend.load(bundle, ENCODER, exact=True)
    matcher = backend.load(bundle, MATCHER, exact=True)
    labels = RANDOM.normal(size=(13, bundle.label_dim)).astype(np.float32)
    fixed = matcher.fix({"labels": labels})
    assert encoder.placement().keys() == {"TensorRT fp32"}

    def check(images: int) -> None:
        random = np.random.default_rng(images)
        pixels = random.integers(0, 256, (images, height, width, 3), dtype=np.uint8)
        features = encoder({"pixels": pixels}, keep=("features",))["features"]
        outputs = on_cpu(bundle, ENCODER, {"pixels": pixels})
        expected = outputs["features"]
        scale = np.abs(expected).max()
        assert np.abs(np.asarray(features) - expected).max() <= 1e-4 * scale
        looked = encoder({"pixels": pixels}, also=("attention",))["attention"]
        assert np.abs(np.asarray(looked) - outputs["attention"]).max() <= 1e-4
        matched = on_cpu(bundle, MATCHER, {"features": expected, "labels": labels})
        for outputs in (fixed({"features": features}), fixed({"features": expected})):
            scale = np.abs(matched["logits"]).max()
            difference = np.abs(np.asarray(outputs["logits"]) - matched["logits"])
            assert difference.max() <= 1e-4 * scale
            assert outputs["winners"].shape == matched["winners"].shape

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(check, [1, 2, 3, 4, 5, 9] * 3))


@needs_gpu
def test_the_whole_engine(planned: Path) -> None:
    from ovml_deploy.runtime.verify import verify

    assert verify(planned, str(planned))


@needs_gpu
@pytest.mark.parametrize("inputs", [{"pixels": np.zeros((1, 8, 8, 3), np.uint8)}])
def test_wrong_inputs_are_errors_of_ours(backend: TensorRTPlan, planned: Path, inputs) -> None:
    encoder = backend.load(Bundle.open(planned), ENCODER)
    with pytest.raises(OvmlError, match="failed to run"):
        encoder(inputs)
    with pytest.raises(OvmlError, match="takes uint8, not float32"):
        encoder({"pixels": np.zeros((1, 8, 8, 3), np.float32)})


@needs_gpu
def test_a_changed_plan_and_another_bundle(planned: Path, tuned_bundle: Path, tmp_path) -> None:
    copy = changed(planned, tmp_path)
    with pytest.raises(BundleError, match="from another bundle"):
        TensorRTPlan(copy).load(Bundle.open(tuned_bundle), ENCODER)
    copy.write_bytes(copy.read_bytes() + b" ")
    with pytest.raises(BundleError, match="was changed after it was built"):
        TensorRTPlan(copy).load(Bundle.open(copy), ENCODER)

"""Every engine of this machine gives PyTorch's answers, at all sizes, whatever was asked before."""

import gc
import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundles import change_arrays
from openvino_here import require_openvino

from ovml_deploy import assets
from ovml_deploy.errors import BundleError, DeviceError, UsageError
from ovml_deploy.runtime.backends import candidates, create_backend, recorded
from ovml_deploy.runtime.backends.ort import OnnxRuntime
from ovml_deploy.runtime.backends.recorded import in_buckets
from ovml_deploy.runtime.bundle import ENCODER, GOLDEN, Bundle, write_manifest
from ovml_deploy.runtime.engine import Engine, open_text_encoder
from ovml_deploy.runtime.gpus import no_gpu
from ovml_deploy.runtime.precision import TOLERANCE
from ovml_deploy.runtime.selfcheck import relative_error
from ovml_deploy.runtime.vocabulary import Vocabulary

BATCHES = (1, 2, 3, 7, 32)
LABEL_COUNTS = (1, 80, 4585, 20000)
EXACT = 1e-5
ATTENTION_TOLERANCE = {"fp32": 1e-4, "fp16": 0.1, "bf16": 0.5}


@pytest.fixture(scope="module", params=[*candidates()], ids="-".join)
def engine(request: pytest.FixtureRequest, tiny_bundle: Path) -> Engine:
    device, precision = request.param
    try:
        return Engine.open(tiny_bundle, device, precision)
    except DeviceError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def model(make_model: Callable[..., Any], tiny_clip: Any) -> Any:
    return make_model(tiny_clip)


@pytest.fixture(scope="module")
def images(tiny_bundle: Path) -> np.ndarray:
    height, width = Bundle.open(tiny_bundle).preprocessing.size
    random = np.random.default_rng(0)
    return random.integers(0, 256, (32, height, width, 3), dtype=np.uint8)


def words(bundle: Bundle, count: int, seed: int = 0) -> Vocabulary:
    """A vocabulary of label embeddings as large as real ones."""
    embeddings = np.random.default_rng(seed).normal(0, 0.3, (count, bundle.label_dim))
    labels = tuple(f"label {i}" for i in range(count))
    return Vocabulary("random", labels, embeddings, bundle.text_hash, bundle.prompt_hash)


@pytest.mark.parametrize("batch", BATCHES)
def test_all_sizes_give_what_pytorch_gives(engine: Engine, model, images, batch: int) -> None:
    import torch

    allowed = EXACT if engine.backend.precision == "fp32" else TOLERANCE[engine.backend.precision]
    features = engine.encode(images[:batch])
    with torch.inference_mode():
        expected = model.encode(torch.from_numpy(images[:batch]))
    assert relative_error(np.asarray(features), expected.numpy()) < allowed
    for count in LABEL_COUNTS:
        vocabulary = words(engine.bundle, count)
        logits, winners = engine.match(features, vocabulary)
        with torch.inference_mode():
            labels = torch.from_numpy(vocabulary.embeddings.copy())
            wanted, _ = model.match(expected, labels)
            exact, winning = model.match(torch.from_numpy(np.asarray(features)), labels)
            reach = model.match(
                expected, torch.from_numpy(words(engine.bundle, 80).embeddings.copy())
            )[0]
        assert relative_error(logits, wanted.numpy(), reach.numpy()) < allowed
        # matching is exact at any precision, and so are the queries that win
        assert relative_error(logits, exact.numpy(), reach.numpy()) < EXACT
        assert (winners == winning.numpy()).mean() > 0.999


def test_a_swapped_vocabulary_is_honoured(engine: Engine, images) -> None:
    features = engine.encode(images[:2])
    one, other = (words(engine.bundle, 80, seed) for seed in (1, 2))
    want = {v: np.asarray(features).astype(np.float64) @ v.embeddings.T for v in (one, other)}
    for vocabulary in (one, other, one, one, other):
        logits, _ = engine.match(features, vocabulary)
        assert relative_error(logits, want[vocabulary].max(axis=1)) < EXACT


def test_answers_are_the_callers_own(engine: Engine, images) -> None:
    """No buffer is used again while somebody may still look at it."""
    pixels = images[:2].copy()
    first = engine.encode(pixels)
    kept = np.array(first)
    pixels[:] = images[2:4]
    second = engine.encode(pixels)
    np.testing.assert_array_equal(np.asarray(first), kept)
    assert relative_error(np.asarray(second), kept) > 1e-3
    vocabulary = words(engine.bundle, 80)
    logits, _ = engine.match(first, vocabulary)
    kept = logits.copy()
    engine.match(second, vocabulary)
    np.testing.assert_array_equal(logits, kept)


def test_many_callers_at_once(engine: Engine, images) -> None:
    vocabularies = [words(engine.bundle, 80, seed) for seed in range(3)]
    alone = [
        engine.match(engine.encode(images[i : i + 1]), vocabularies[i % 3])[0] for i in range(9)
    ]

    def one(call: int) -> float:
        i = call % 9
        logits, _ = engine.match(engine.encode(images[i : i + 1]), vocabularies[i % 3])
        return relative_error(logits, alone[i])

    with ThreadPoolExecutor(4) as pool:
        assert max(pool.map(one, range(72))) < EXACT


@pytest.mark.parametrize("batch", [1, 3])
def test_where_it_looks_is_what_pytorch_gives(engine: Engine, model, images, batch: int) -> None:
    import torch

    looked = engine.look(images[:batch])
    with torch.inference_mode():
        _, expected = model.look(torch.from_numpy(images[:batch]))
    assert looked is not None
    assert (looked.shape, looked.dtype) == ((batch, 3, *engine.bundle.attention_grid), np.float32)
    assert relative_error(looked, expected.numpy()) < ATTENTION_TOLERANCE[engine.backend.precision]
    assert relative_error(looked, np.roll(expected.numpy(), 1, axis=1)) > 0.5  # of its own query
    # nobody else gets it
    assert engine._encoder({"pixels": images[:batch]}).keys() == {"features"}


def test_who_does_not_tell_where_it_looks(
    tuned_bundle: Path, bundle_copy: Path, tmp_path: Path, images
) -> None:
    """Other heads, bundles of an earlier release, and a bundle that promises more than it has."""
    assert Engine.open(tuned_bundle, "cpu").look(images[:1]) is None
    manifest = json.loads((bundle_copy / "bundle.json").read_text())
    del manifest["attention_grid"]
    write_manifest(bundle_copy, manifest)
    assert Engine.open(bundle_copy, "cpu").look(images[:1]) is None
    manifest = json.loads((tuned_bundle / "bundle.json").read_text())
    copy = Path(shutil.copytree(tuned_bundle, tmp_path / "promises"))
    write_manifest(copy, {**manifest, "attention_grid": [4, 4]})
    with pytest.raises(BundleError, match=r"an attention grid, and its encoder\.onnx gives no att"):
        Engine.open(copy, "cpu").look(images[:1])


def test_a_label_matrix_is_prepared_once(tiny_bundle: Path, images, monkeypatch) -> None:
    engine = Engine.open(tiny_bundle)
    matcher, prepared = engine._matcher, []
    monkeypatch.setattr(engine, "_matcher", Counted(matcher, prepared))
    vocabulary = words(engine.bundle, 80)
    features = engine.encode(images[:1])
    for _ in range(3):
        engine.match(features, vocabulary)
    assert prepared == [80]
    assert len(engine._matchers) == 1
    del vocabulary
    gc.collect()
    assert len(engine._matchers) == 0  # nor is it kept for longer than the vocabulary


class Counted:
    """A matcher that notes how many labels were fixed."""

    def __init__(self, graph: Any, prepared: list[int]) -> None:
        self._graph = graph
        self._prepared = prepared

    def fix(self, inputs: dict[str, np.ndarray]) -> Any:
        self._prepared.append(len(inputs["labels"]))
        return self._graph.fix(inputs)


def test_tuned_prompts_and_the_embedded_cnn_on_openvino(tuned_bundle: Path) -> None:
    require_openvino()
    for bundle in (tuned_bundle, assets.MINI):
        engine = Engine.open(bundle, "openvino", "fp32")
        assert all(found.relative_error < EXACT for found in engine.check())


@pytest.mark.parametrize(
    ("count", "parts"),
    [
        (1, [(0, 1, 1)]),
        (3, [(0, 3, 4)]),
        (4, [(0, 4, 4)]),
        (9, [(0, 4, 4), (4, 8, 4), (8, 9, 1)]),
    ],
)
def test_batches_go_to_the_next_recorded_size(count: int, parts) -> None:
    assert [*in_buckets(count, [1, 4])] == parts


def test_recorded_batches_give_the_same_features(tiny_bundle: Path, images) -> None:
    """On the CPU nothing is recorded, but sizes, buffers and parts are the same as on a GPU."""
    bundle, backend = Bundle.open(tiny_bundle), OnnxRuntime("cpu")
    plain = backend.load(bundle, ENCODER)
    encoder = backend.record(plain, bundle, (4, 1, 2))
    assert encoder.placement() == plain.placement()
    seen = []
    for batch in (3, 1, 9, 2, 32):
        features = encoder({"pixels": images[:batch]}, keep=("features",))["features"]
        seen.append((features, plain({"pixels": images[:batch]})["features"]))
    for features, wanted in seen:  # at the end, so that a buffer used again would show
        assert relative_error(np.asarray(features), np.asarray(wanted)) < EXACT
    looked = [graph({"pixels": images[:3]}, also=("attention",)) for graph in (encoder, plain)]
    np.testing.assert_array_equal(*(outputs["attention"] for outputs in looked))
    with pytest.raises(DeviceError, match=r"encoder\.onnx on pixels \[1, 16, 16, 3\]"):
        encoder({"pixels": np.zeros((1, 16, 16, 3), np.uint8)})


def test_a_recorded_encoder_runs_on_one_thread(tiny_bundle: Path, images, monkeypatch) -> None:
    """ONNX Runtime's rule for sessions with a CUDA graph, whoever calls."""
    bundle, backend = Bundle.open(tiny_bundle), OnnxRuntime("cpu")
    seen = set()
    run = recorded._Recording.__call__

    def noted(self: Any, pixels: np.ndarray) -> np.ndarray:
        seen.add(threading.get_ident())
        return run(self, pixels)

    monkeypatch.setattr(recorded._Recording, "__call__", noted)
    encoder = backend.record(backend.load(bundle, ENCODER), bundle, (1, 2))
    with ThreadPoolExecutor(4) as pool:
        found = [*pool.map(lambda i: encoder({"pixels": images[i : i + 2]}), range(12))]
    assert len(seen) == 1
    assert threading.get_ident() not in seen
    assert all(one["features"].shape == found[0]["features"].shape for one in found)


def test_a_text_encoder_that_is_wrong_spoils_no_cache(bundle_copy: Path) -> None:
    change_arrays(bundle_copy, GOLDEN, lambda golden: golden["text_features"].__imul__(1.01))
    engine = Engine.open(bundle_copy, "cpu")  # it tags with the vocabularies of the bundle
    with pytest.raises(DeviceError, match=r"text_features has a relative error of 9\.9e-03"):
        _ = engine.text_encoder
    with pytest.raises(DeviceError, match="text_features has"):
        open_text_encoder(bundle_copy, "cpu")


def test_only_texts_find_their_device_as_images_do(tiny_bundle: Path, monkeypatch, caplog) -> None:
    monkeypatch.delenv("OVML_DEVICE")
    (first, precision), *others = candidates()
    if not others:
        pytest.skip("there is one device only")
    load = create_backend(first, precision).__class__.load

    def refuse(self: Any, bundle: Bundle, name: str, exact: bool = False) -> Any:
        if self.precision == precision and self.device == first:
            raise DeviceError("no memory")
        return load(self, bundle, name, exact)

    monkeypatch.setattr(create_backend(first, precision).__class__, "load", refuse)
    assert len(open_text_encoder(tiny_bundle).vocabulary(["a cat"])) == 1
    assert f"auto passes over {first} in {precision}: no memory" in caplog.text


@pytest.mark.parametrize(("device", "sizes"), [("cpu", (1,)), ("auto", (1,)), ("cuda", (0, 1))])
def test_cuda_graphs_are_refused_elsewhere(tiny_bundle: Path, monkeypatch, device, sizes) -> None:
    monkeypatch.delenv("OVML_DEVICE")
    with pytest.raises(UsageError, match="they need device 'cuda', and sizes of at least 1"):
        Engine.open(tiny_bundle, device, cuda_graphs=sizes)


@pytest.mark.parametrize("sizes", [(), (1, 8)])
def test_cuda_gives_what_pytorch_gave(tiny_bundle: Path, images, sizes) -> None:
    if (reason := no_gpu()) is not None:
        pytest.skip(reason)
    engine = Engine.open(tiny_bundle, "cuda", cuda_graphs=sizes)
    assert all(found.relative_error < EXACT for found in engine.check())
    assert (
        relative_error(
            np.asarray(engine.encode(images)),
            np.asarray(Engine.open(tiny_bundle, "cpu").encode(images)),
        )
        < TOLERANCE["fp32"]
    )


ENGINES_THAT_OVERLAP = """
import gc, signal
from ovml_deploy import assets
from ovml_deploy.runtime.engine import Engine, open_text_encoder
caught = []
signal.signal(signal.SIGTERM, lambda *_: caught.append(1))
one = Engine.open(assets.MINI, "openvino", "fp32")
other = Engine.open(assets.MINI, "openvino", "fp32")
del one
gc.collect()
del other
gc.collect()
signal.raise_signal(signal.SIGTERM)
assert caught == [1]
"""


def test_a_signal_is_survived_after_openvinos_engines_are_gone() -> None:
    require_openvino()
    done = subprocess.run([sys.executable, "-c", ENGINES_THAT_OVERLAP], capture_output=True)
    assert done.returncode == 0, done.stderr.decode()

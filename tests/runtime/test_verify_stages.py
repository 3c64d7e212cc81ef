"""Every stage is compared with PyTorch, and one that fails hides no other."""

import io
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from bundles import Arrays, change_arrays, edit_manifest, rehash
from PIL import Image

from ovml_deploy import assets
from ovml_deploy.errors import BundleError, DeviceError
from ovml_deploy.runtime.backends import DEVICES, available_devices, candidates, create_backend
from ovml_deploy.runtime.bundle import ENCODER, GOLDEN, MATCHER, PICTURES, Bundle
from ovml_deploy.runtime.engine import Engine
from ovml_deploy.runtime.pictures import PIXELS
from ovml_deploy.runtime.plans import GRAPHS, Plan, PlanGraph, graph_path
from ovml_deploy.runtime.precision import TOLERANCE
from ovml_deploy.runtime.verify import (
    EXACT,
    Stage,
    failures,
    present_backends,
    verify,
    verify_engine,
    worst_error,
)

OUTPUTS = [
    *("pixels", "pixels of a JPEG", "features"),
    *("text_features", "label_embeddings", "logits", "tags"),
]


def failing(stages: Sequence[Stage]) -> set[str]:
    return {stage.output for stage in stages if not stage.ok}


@pytest.mark.parametrize(("device", "precision"), [*candidates()])
def test_every_backend_here_agrees_at_every_stage(
    tiny_bundle: Path, device: str, precision: str
) -> None:
    try:
        stages = verify(tiny_bundle, device, precision)
    except DeviceError as error:
        pytest.skip(str(error))
    assert [stage.output for stage in stages] == OUTPUTS
    assert failures(stages) == []
    by_output = {stage.output: stage for stage in stages}
    logits = by_output["logits"]
    assert logits.allowed == (EXACT if precision == "fp32" else TOLERANCE[precision])
    assert by_output["text_features"].relative_error < EXACT, "texts are exact on all of them"
    assert logits.top_equal is not None
    assert logits.cosine is not None
    if precision == "fp32":
        assert (logits.top_equal, by_output["tags"].relative_error) == (1.0, 0.0)
        assert logits.cosine == pytest.approx(1, abs=1e-9)
    else:
        assert EXACT < logits.relative_error < TOLERANCE[precision], "not in lower precision"
        assert logits.cosine > 0.99
    assert 0 < worst_error(stages) <= TOLERANCE[precision]


@pytest.mark.parametrize("output", ["features", "logits", "text_features", "label_embeddings"])
def test_the_stage_that_is_not_pytorchs_is_named(bundle_copy: Path, output: str) -> None:
    change_arrays(bundle_copy, GOLDEN, lambda a: a.update({output: a[output] * np.float32(1.001)}))
    stages = verify(bundle_copy)
    assert [stage.output for stage in stages] == OUTPUTS
    assert failing(stages) == {output}
    (reason,) = failures(stages)
    allowed = "1e-05" if output == "logits" else "1e-04"
    assert reason == f"{output} has a relative error of 1.0e-03, allowed is {allowed}"
    assert worst_error(stages) == pytest.approx(1e-3, rel=0.02)


def test_logits_are_held_to_more_than_loading_asks(bundle_copy: Path) -> None:
    change_arrays(bundle_copy, GOLDEN, lambda a: a.update(logits=a["logits"] * np.float32(1.00005)))
    Engine.open(bundle_copy)
    assert failing(verify(bundle_copy)) == {"logits"}


def test_other_tags_are_named_too(bundle_copy: Path) -> None:
    def turn(golden: Arrays) -> None:
        golden["logits"] = golden["logits"][:, ::-1]

    change_arrays(bundle_copy, GOLDEN, turn)
    stages = {stage.output: stage for stage in verify(bundle_copy)}
    assert failing([*stages.values()]) == {"logits", "tags"}
    assert stages["logits"].top_equal is not None
    assert stages["logits"].top_equal < 0.8
    assert 0.1 < stages["tags"].relative_error <= 1


def brighten(levels: int, suffix: str) -> Callable[[Arrays], None]:
    """Make one pixel of some pictures other than it was."""

    def change(arrays: Arrays) -> None:
        for name in [name for name in arrays if name.startswith(PIXELS) and name.endswith(suffix)]:
            with Image.open(io.BytesIO(arrays[name].tobytes())) as image:
                pixels = np.asarray(image).copy()
            pixels[3, 4, 1] = np.where(pixels[3, 4, 1] < 128, 1, -1) * levels + pixels[3, 4, 1]
            file = io.BytesIO()
            Image.fromarray(pixels).save(file, "PNG")
            arrays[name] = np.frombuffer(file.getvalue(), np.uint8)

    return change


@pytest.mark.parametrize(
    ("levels", "suffix", "wrong"),
    [
        (1, ".png", {"pixels"}),
        (2, ".jpg", set()),
        (50, ".jpg", {"pixels of a JPEG"}),
        (50, "", {"pixels", "pixels of a JPEG"}),
    ],
)
def test_pixels_must_be_open_clips(bundle_copy: Path, levels: int, suffix: str, wrong: set) -> None:
    change_arrays(bundle_copy, PICTURES, brighten(levels, suffix))
    stages = verify(bundle_copy)
    assert failing(stages) == wrong
    if suffix == ".png":
        assert stages[0].max_error == levels
        assert stages[0].relative_error == pytest.approx(levels / 255)


def test_a_preprocessing_of_another_kind_is_found(bundle_copy: Path) -> None:
    edit_manifest(bundle_copy, lambda m: m["preprocessing"].update(interpolation="bilinear"))
    assert failing(verify(bundle_copy)) == {"pixels", "pixels of a JPEG"}


def test_bundles_of_an_earlier_release_have_fewer_stages(bundle_copy: Path) -> None:
    change_arrays(bundle_copy, GOLDEN, lambda a: [a.pop(n) for n in ("words", "label_embeddings")])
    (bundle_copy / PICTURES).unlink()
    edit_manifest(bundle_copy, lambda m: m["files"].pop(PICTURES))
    stages = verify(bundle_copy)
    assert [s.output for s in stages] == ["features", "text_features", "logits", "tags"]
    assert failures(stages) == []


def test_a_stage_that_cannot_be_computed_stops_no_other(bundle_copy: Path) -> None:
    change_arrays(bundle_copy, GOLDEN, lambda a: a.update(pixels=a["pixels"][:, :16]))
    stages = verify(bundle_copy)
    assert failing(stages) == {"features", "logits", "tags"}
    assert "encoder.onnx on inputs" in failures(stages)[0]
    assert [stage.output for stage in stages] == OUTPUTS


@pytest.mark.parametrize(
    ("encode", "reason"),
    [
        (lambda f: f[[0] * len(f)], "two different images have the same features"),
        (lambda f: f * np.nan, "features has a relative error of inf"),
        (lambda f: f[:, :2], "features: shape (4, 2, 32), not (4, 3, 32)"),
    ],
)
def test_a_wrong_encoder_is_described(tiny_bundle: Path, encode, reason: str) -> None:
    bundle, backend = Bundle.open(tiny_bundle), create_backend("cpu")
    encoder, matcher = (backend.load(bundle, name) for name in (ENCODER, MATCHER))

    class Wrong:
        def __call__(self, inputs: Arrays, keep: Sequence[str] = ()) -> Arrays:
            return {"features": encode(encoder(inputs)["features"]).astype(np.float32)}

    stages = verify_engine(Engine(bundle, backend, Wrong(), matcher))  # type: ignore[arg-type]
    assert any(reason in text for text in failures(stages))
    assert failing(stages) == {"features", "logits", "tags"}
    for stage in stages:
        values = [v for v in stage.to_json().values() if isinstance(v, float)]
        assert np.isfinite(values).all(), "JSON knows no infinity"


@pytest.mark.parametrize("change", ["cut", "nothing in it"])
def test_pictures_that_cannot_be_read_are_refused(bundle_copy: Path, change: str) -> None:
    if change == "cut":
        (bundle_copy / PICTURES).write_bytes((bundle_copy / PICTURES).read_bytes()[:500])
        rehash(bundle_copy, PICTURES)
    else:
        change_arrays(bundle_copy, PICTURES, lambda a: [a.pop(n) for n in [*a] if PIXELS in n])
    with pytest.raises(BundleError, match=r"pictures\.safetensors cannot be read"):
        verify(bundle_copy)


def test_what_is_here_and_what_is_not(tiny_bundle: Path, bundle_copy: Path) -> None:
    here, absent = present_backends(Bundle.open(tiny_bundle))
    assert here == [*candidates()]
    assert {device for device, _ in here} | {device for device, _ in absent} == set(DEVICES)
    for device, reason in absent:
        assert reason
        assert device not in available_devices() or device == "tensorrt"
    only, left_out = present_backends(Bundle.open(tiny_bundle), "fp16")
    assert only == [*candidates("fp16")]
    assert ("cpu", "it does not run this bundle in precision fp16 on this machine") in left_out
    path = bundle_copy / "other.plan"
    graphs = {
        name: PlanGraph(graph_path(path, name).name, "", 0, {}, {}, {}, "fp16", {}, {})
        for name in GRAPHS
    }
    Plan(path, "0" * 16, "rtx", "1.0", ("sm89",), graphs).write()
    assert (str(path.resolve()), "auto") not in present_backends(Bundle.open(bundle_copy))[0]
    path.touch()
    bundle = Bundle.open(bundle_copy)
    assert (str(path.resolve()), "auto") in present_backends(bundle)[0]
    assert (str(path.resolve()), "auto") in present_backends(bundle, "fp16")[0]
    assert (str(path.resolve()), "auto") not in present_backends(bundle, "fp32")[0]


@pytest.mark.skipif(not (assets.MINI / "bundle.json").is_file(), reason="no embedded model here")
def test_the_embedded_model_is_pytorchs_stage_by_stage() -> None:
    stages = verify(assets.MINI, "cpu")
    assert failures(stages) == []
    assert {stage.output for stage in stages} == {*OUTPUTS} - {
        "label_embeddings"
    }  # it is older than those

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from bundles import Arrays, change_arrays

from ovml_deploy.errors import BundleError, DeviceError
from ovml_deploy.runtime.backends import create_backend
from ovml_deploy.runtime.bundle import ENCODER, GOLDEN, MATCHER, Bundle
from ovml_deploy.runtime.engine import Engine
from ovml_deploy.runtime.selfcheck import check_golden, relative_error
from ovml_deploy.runtime.tagger import Tagger

OUTPUTS = ["features", "logits"]


def change_golden(folder: Path, change: Callable[[Arrays], object]) -> None:
    change_arrays(folder, GOLDEN, change)


def test_a_good_bundle_agrees(tiny_bundle: Path) -> None:
    found = Engine.open(tiny_bundle, "cpu").check()
    assert [f.output for f in found] == OUTPUTS
    assert all(0 <= f.relative_error < 1e-5 < f.tolerance for f in found)


@pytest.mark.parametrize("output", OUTPUTS)
def test_loading_runs_the_check(bundle_copy: Path, output: str) -> None:
    change_golden(bundle_copy, lambda golden: golden.update({output: golden[output] * 1.001}))
    message = (
        rf"not reproduce PyTorch .*{output} has a relative error of 1\.0e-03, allowed is 1e-04"
    )
    with pytest.raises(DeviceError, match=message):
        Tagger.load(bundle_copy)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda golden: golden.pop("labels"), "lacks labels"),
        (lambda golden: golden.pop("prompts"), "lacks prompts"),
        (lambda golden: golden.update(pixels=golden["pixels"][:1]), "lacks a second image"),
    ],
)
def test_golden_values_that_are_not_whole_are_refused(bundle_copy, change, message: str) -> None:
    change_golden(bundle_copy, change)
    with pytest.raises(BundleError, match=message):
        Tagger.load(bundle_copy)


def test_golden_values_of_another_size_are_refused(bundle_copy: Path) -> None:
    change_golden(bundle_copy, lambda golden: golden.update(pixels=golden["pixels"][:, :16]))
    with pytest.raises(DeviceError, match=r"encoder\.onnx on inputs .*\[1, 16, 32, 3\]"):
        Tagger.load(bundle_copy)


@pytest.mark.parametrize(
    ("encode", "message"),
    [
        (lambda features: features[[0] * len(features)], "gives two different images the same"),
        (lambda features: features * np.nan, "relative error of inf"),
        (lambda features: features * (1 + 2e-4), "relative error of 2.0e-04"),
        (lambda features: features * 0 + 7, "gives two different images the same"),
    ],
)
def test_a_backend_that_gives_other_features_is_refused(tiny_bundle, encode, message) -> None:
    bundle, backend = Bundle.open(tiny_bundle), create_backend("cpu")
    encoder, matcher = (backend.load(bundle, name) for name in (ENCODER, MATCHER))

    def wrong(inputs: Arrays, keep: Sequence[str] = ()) -> Arrays:
        return {"features": encode(encoder(inputs)["features"]).astype(np.float32)}

    check_golden(bundle, backend, encoder, matcher)
    with pytest.raises(DeviceError, match=message):
        check_golden(bundle, backend, wrong, matcher)


def test_relative_error() -> None:
    reference = np.array([1.0, -4.0])
    assert relative_error(np.array([1.0, -3.0]), reference) == 0.25
    assert relative_error(reference, reference) == 0
    assert relative_error(np.zeros(3), reference) == float("inf")
    assert relative_error(np.array([1.0, np.nan]), reference) == float("inf")
    assert relative_error(np.array([np.inf, 1.0]), reference) == float("inf")
    assert relative_error(np.zeros(2), np.zeros(2)) == 0

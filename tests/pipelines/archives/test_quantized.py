import numpy as np
import pytest

from ovml_deploy.errors import UsageError
from ovml_deploy.pipelines.archives.quantized import (
    check_precision,
    pack,
    relative_error,
    top_agreement,
    unpack,
    why_not_stored,
)


def test_every_finite_half_is_widened_to_the_bit() -> None:
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    halves = halves[np.isfinite(halves)][None, None]
    widened = unpack({"features": halves})
    expected = halves.astype(np.float32)
    np.testing.assert_array_equal(widened.view(np.uint32), expected.view(np.uint32))


def test_fp16_rounds_to_nearest() -> None:
    exact = np.random.default_rng(0).normal(size=(5, 3, 8)).astype(np.float32)
    np.testing.assert_array_equal(unpack(pack(exact, "fp16")), exact.astype(np.float16))


def test_int8_is_half_a_step_off_at_most() -> None:
    random = np.random.default_rng(0)
    centre = (100 * random.normal(size=64)).astype(np.float32)
    exact = (centre + random.normal(size=(7, 3, 64))).astype(np.float32)
    exact[0, 0] = centre  # a row of zeros has no scale
    columns = pack(exact, "int8", centre)
    assert columns["features"].dtype == np.int8
    assert columns["scales"].shape == (7, 3)
    off = np.abs(unpack(columns, centre) - exact)
    assert (off <= columns["scales"][..., None] / 2 + 1e-4).all()
    np.testing.assert_array_equal(off[0, 0], 0)


def test_what_cannot_be_stored_is_told() -> None:
    features = np.ones((2, 4), np.float32)
    assert why_not_stored(features, "fp16") is None
    features[1, 2] = 70_000
    assert "int8" in why_not_stored(features, "fp16")
    assert why_not_stored(features, "int8") is None
    features[0, 0] = np.nan
    assert "not finite" in why_not_stored(features, "int8")


def test_loss() -> None:
    exact = np.array([[[3.0, 4.0]], [[0.0, 5.0]]])
    assert relative_error(exact, exact) == 0
    assert relative_error(exact, exact + np.array([[[0.3, 0.4]], [[0.0, 0.0]]])) == pytest.approx(
        0.05
    )
    logits = np.array([[9.0, 8, 7, 6, 5, 4, 3]])
    assert top_agreement(logits, logits) == 1
    assert top_agreement(logits, logits[:, ::-1]) == pytest.approx(3 / 5)


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(UsageError, match=r"fp16 or int8, not in 'fp8'"):
        check_precision("fp8")

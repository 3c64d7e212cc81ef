"""Weights rounded to what a bundle stores."""

import pytest
import torch

from ovml_deploy.models.rounding import round_to_float16_, round_to_int8_


def test_float16_rounding_is_exact_and_done_once() -> None:
    weights = torch.randn(7, 5, generator=torch.Generator().manual_seed(0))
    original = weights.clone()
    assert round_to_float16_(weights) is weights
    assert torch.equal(weights, weights.half().float())
    assert torch.allclose(weights, original, rtol=1e-3)
    assert not torch.equal(weights, original)
    with pytest.raises(ValueError, match="does not fit float16"):
        round_to_float16_(torch.tensor([1e6]))


@pytest.mark.parametrize("size", [1e-12, 1.0, 3e4])
def test_int8_rounding_is_exact_and_done_once(size: float) -> None:
    weights = torch.randn(50, 64, generator=torch.Generator().manual_seed(1)) * size
    weights[3] = 0.0
    original = weights.clone()
    round_to_int8_(weights)
    again = round_to_int8_(weights.clone())
    assert torch.equal(weights, again)
    scale = weights.abs().amax(dim=1, keepdim=True) / 127
    scale[3] = 1.0
    quotient = weights / scale
    assert torch.equal(scale, scale.bfloat16().float())
    assert torch.equal(quotient.to(torch.int8).float() * scale, weights)
    assert (weights - original).abs().max() <= 0.51 * scale.max()


def test_int8_rounding_needs_rows() -> None:
    with pytest.raises(ValueError, match="needs rows"):
        round_to_int8_(torch.zeros(3))

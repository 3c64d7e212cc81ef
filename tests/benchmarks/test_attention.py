"""How much of a query's attention the benchmark counts to a quarter of the picture."""

import importlib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def attention(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("attention")


def test_shares_of_the_right_quarter(attention: ModuleType) -> None:
    """On 7 x 7 places, of which the middle ones lie in two quarters, and the very middle in four."""
    weights = torch.zeros(1, 3, 7, 7)
    weights[0, 0, 0, 6] = 0.25  # all of it top right
    weights[0, 1, 3, 6] = 0.5  # half of it top right, half bottom right
    weights[0, 2, 3, 3] = 0.75
    weights[0, 2, 6, 0] = 0.25  # bottom left
    queries = torch.tensor([[0, 0, 2, 1]])
    shares = attention._in_quarter(weights.flatten(2), queries)
    np.testing.assert_allclose(shares, [[0.0, 1.0, 0.25 + 0.75 / 4, 0.5]], atol=1e-6)

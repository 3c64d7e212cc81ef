"""Images compared with a float32 reference, where an engine fails on them alone."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from ovml_deploy.pipelines.agreement import TagsAndMap
from ovml_deploy.pipelines.fidelity import Comparison, ImageFigures, open_reference
from ovml_deploy.runtime.backends import create_backend
from ovml_deploy.runtime.bundle import ENCODER, MATCHER, Bundle
from ovml_deploy.runtime.engine import Engine


def test_logits_that_are_not_finite_fail_the_gate(tiny_bundle: Path, pictures) -> None:
    """As half precision's may overflow on photographs, and not on the goldens."""
    bundle, backend = Bundle.open(tiny_bundle), create_backend("cpu")
    encoder, matcher = (backend.load(bundle, name) for name in (ENCODER, MATCHER))
    backend.precision = "fp16"

    class Overflowing:
        def __call__(self, inputs, keep: Sequence[str] = ()) -> dict[str, np.ndarray]:
            return {"features": np.asarray(encoder(inputs)["features"]) * np.float32(np.nan)}

    paths = [str(path) for path in pictures]
    comparison = Comparison(open_reference(bundle), paths, threshold=0.1)
    figures = comparison.of(Engine(bundle, backend, Overflowing(), matcher))  # type: ignore[arg-type]
    (reason,) = figures.failures()
    assert "not finite" in reason


@pytest.mark.parametrize(
    ("agreement", "change", "reasons"),
    [
        (0.99, 0.2, 0),
        (0.99, None, 0),
        (0.9899, None, 1),
        (1.0, -0.21, 1),
        (1.0, 0.21, 1),
        (0.5, -3.0, 2),
        (1.0, float("nan"), 1),
    ],
)
def test_the_gate(agreement: float, change: float | None, reasons: int) -> None:
    figures = ImageFigures(10, TagsAndMap(100, agreement, change), None)
    assert len(figures.failures()) == reasons
    assert figures.found.passes == (reasons == 0)

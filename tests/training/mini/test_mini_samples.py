"""The sample photographs that ship."""

import importlib.util
import io

import numpy as np
import pytest
from PIL import Image

from ovml_deploy.errors import MissingDependencyError
from ovml_deploy.training.mini.samples import SAMPLES, SAMPLES_FOLDER, Sample, moderate_jpeg


def test_samples_are_shipped_with_a_licence_each() -> None:
    licences = (SAMPLES_FOLDER / "LICENSES.md").read_text("utf-8")
    assert {path.name for path in SAMPLES_FOLDER.glob("*.jpg")} == {s.name for s in SAMPLES}
    for sample in SAMPLES:
        file = SAMPLES_FOLDER / sample.name
        assert f"`{sample.name}`" in licences
        assert file.stat().st_size <= 150_000
        with Image.open(file) as image:
            image.load()


def test_samples_are_shrunk_to_a_moderate_size() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (900, 1300, 3), dtype=np.uint8)
    image = Image.fromarray(noise).resize((1300, 900)).convert("L").convert("RGB")
    content = moderate_jpeg(image)
    with Image.open(io.BytesIO(content)) as small:
        assert small.format == "JPEG"
        assert small.size == (640, 443)
    assert image.size == (1300, 900)  # the caller's picture is as it was
    flat = moderate_jpeg(Image.new("RGB", (200, 100)))
    with Image.open(io.BytesIO(flat)) as small:
        assert small.size == (200, 100)


def test_a_sample_without_its_package_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"'cat.jpg'.*pip install scikit-image"):
        Sample("cat.jpg", "skimage", "data/chelsea.png").source()

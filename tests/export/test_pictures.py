"""A bundle's pictures: what they show, and that open_clip made their pixels."""

import io
from pathlib import Path

import numpy as np
import pytest
from bundles import edit_manifest, rehash
from PIL import Image

from export.onnx import export_bundle
from export.pictures import example_pictures, open_clips_pixels, write_pictures
from ovml_deploy import assets
from ovml_deploy.runtime.bundle import GOLDEN, PICTURES, Bundle
from ovml_deploy.runtime.images import open_image
from ovml_deploy.runtime.pictures import read_pictures
from ovml_deploy.runtime.verify import failures, verify

SETTINGS = [
    {"size": 224, "resize_mode": "shortest", "interpolation": "bicubic"},
    {"size": (97, 160), "resize_mode": "squash", "interpolation": "bilinear"},
    {"size": [64, 64], "resize_mode": "longest", "interpolation": "bicubic", "fill_color": 114},
]


def test_they_are_what_users_bring() -> None:
    opened = {name: Image.open(io.BytesIO(file)) for name, file in example_pictures()}
    assert {image.mode for image in opened.values()} == {"RGB", "L", "RGBA"}
    assert {image.format for image in opened.values()} == {"PNG", "JPEG"}
    turned = opened["turned.jpg"]
    assert open_image(dict(example_pictures())["turned.jpg"]).size == turned.size[::-1]
    assert min(min(image.size) for image in opened.values()) < 64
    assert max(max(image.size) for image in opened.values()) > 500
    assert [*example_pictures()] == [*example_pictures()]


@pytest.mark.parametrize("settings", SETTINGS)
def test_the_pixels_are_open_clips(bundle_copy: Path, settings: dict) -> None:
    """Read back they are what its transform gives, and what the runtime makes of the files."""
    statistics = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
    write_pictures({**settings, **statistics, "mode": "RGB"}, bundle_copy / PICTURES)
    edit_manifest(bundle_copy, lambda manifest: manifest["preprocessing"].update(settings))
    rehash(bundle_copy, PICTURES)
    bundle = Bundle.open(bundle_copy)
    pictures = read_pictures(bundle)
    assert [picture.name for picture in pictures] == sorted(dict(example_pictures()))
    for picture in pictures:
        expected = open_clips_pixels(dict(example_pictures())[picture.name], settings)
        np.testing.assert_array_equal(picture.pixels, expected)
        np.testing.assert_array_equal(bundle.preprocessing(open_image(picture.file)), expected)
        assert picture.allowed == (0 if picture.name.endswith(".png") else 3)
    assert failures(verify(bundle_copy)[:2]) == []


def test_an_export_writes_and_lists_them(tiny_model, tmp_path: Path) -> None:
    bundle = export_bundle(tiny_model, tmp_path / "bundle")
    assert PICTURES in bundle.manifest["files"]
    assert len(read_pictures(bundle)) == len([*example_pictures()])
    files = bundle.manifest["files"]
    without = Bundle(bundle.path, {**bundle.manifest, "files": {GOLDEN: files[GOLDEN]}})
    assert without.model_hash == bundle.model_hash, "calibrations depend on it"


@pytest.mark.skipif(not (assets.MINI / PICTURES).is_file(), reason="no embedded model here")
def test_the_embedded_models_are_open_clips() -> None:
    bundle = Bundle.open(assets.MINI)
    pictures = read_pictures(bundle)
    assert len(pictures) == len([*example_pictures()])
    assert (assets.MINI / PICTURES).stat().st_size < 200_000
    for picture in pictures:
        expected = open_clips_pixels(picture.file, bundle.preprocessing.to_config())
        levels = np.abs(expected.astype(int) - picture.pixels).max()
        assert levels <= picture.allowed

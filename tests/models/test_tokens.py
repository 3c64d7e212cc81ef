"""Image tokens of every tower: token 0 is the pooled embedding, positions are in its space."""

import pytest
import torch
from backbones import POOLER_VISION, load
from torch import Tensor
from torch.nn import functional

from ovml_deploy.errors import CheckpointError
from ovml_deploy.models.backbone import Backbone
from ovml_deploy.models.tokens import image_tokens

TOWERS = ["tiny_clip", "tiny_resnet", "tiny_siglip", "tiny_cnn", "tiny_average", "tiny_hf"]


def images(backbone: Backbone, batch: int = 3, seed: int = 0) -> Tensor:
    height, width = backbone.preprocessing.size
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(seed))


def timm_backbone(make_backbone, name: str, model: str, **vision) -> Backbone:
    config = {
        "embed_dim": vision.pop("embed_dim"),
        "vision_cfg": {"image_size": 160, "timm_model_name": model, **vision},
        "text_cfg": {"context_length": 8, "width": 32, "heads": 2, "layers": 1},
    }
    return load(make_backbone(name, config))


@pytest.mark.parametrize("name", TOWERS)
@torch.no_grad()
def test_token_zero_projected_is_the_pooled_embedding(request, name: str) -> None:
    backbone = load(request.getfixturevalue(name))
    pixels = images(backbone)
    tokens = backbone.image_tokens(pixels)
    assert tokens.shape[2] == backbone.width
    assert backbone.initial_projection().shape == (backbone.width, backbone.embed_dim)
    pooled = backbone.pooled(pixels)
    assert pooled.shape == (3, backbone.embed_dim)
    torch.testing.assert_close(
        tokens[:, 0] @ backbone.initial_projection(), pooled, rtol=1e-4, atol=1e-5
    )
    # different images, different tokens; and a batch is no more than its images
    assert (tokens[0] - tokens[1]).abs().max() > 1e-2
    alone = backbone.image_tokens(pixels[1:2])
    torch.testing.assert_close(alone, tokens[1:2], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_vit_tokens_are_the_last_block_after_the_final_norm(tiny_clip) -> None:
    backbone = load(tiny_clip)
    visual, pixels = backbone.model.visual, images(backbone)
    caught: list[Tensor] = []
    hook = visual.transformer.resblocks[-1].register_forward_hook(lambda *a: caught.append(a[2]))
    backbone.pooled(pixels)
    hook.remove()
    hidden, norm = caught[0], visual.ln_post
    expected = functional.layer_norm(hidden, (64,), norm.weight, norm.bias, norm.eps)
    assert expected.shape == (3, 17, 64)
    torch.testing.assert_close(backbone.image_tokens(pixels), expected)


@torch.no_grad()
def test_average_pooled_vit_keeps_its_patches_and_drops_its_class_token(tiny_average) -> None:
    backbone = load(tiny_average)
    visual, pixels = backbone.model.visual, images(backbone)
    hidden = visual.transformer(visual._embeds(pixels))
    tokens = backbone.image_tokens(pixels)
    torch.testing.assert_close(tokens[:, 0], visual.ln_post(hidden[:, 1:].mean(dim=1)))
    torch.testing.assert_close(tokens[:, 1:], visual.ln_post(hidden[:, 1:]))


@torch.no_grad()
def test_resnet_positions_are_what_the_pool_gives_when_it_attends_to_one_position(
    tiny_resnet,
) -> None:
    backbone = load(tiny_resnet)
    visual, pixels = backbone.model.visual, images(backbone)
    caught: list[Tensor] = []
    hook = visual.layer4.register_forward_hook(lambda *a: caught.append(a[2]))
    backbone.pooled(pixels)
    hook.remove()
    positions = caught[0].flatten(2).permute(2, 0, 1)  # [4, 3, 256]
    pool = visual.attnpool
    one, _ = functional.multi_head_attention_forward(
        query=positions[1:2],
        key=positions[1:2],
        value=positions[1:2],
        embed_dim_to_check=positions.shape[-1],
        num_heads=pool.num_heads,
        q_proj_weight=pool.q_proj.weight,
        k_proj_weight=pool.k_proj.weight,
        v_proj_weight=pool.v_proj.weight,
        in_proj_weight=None,
        in_proj_bias=torch.cat([pool.q_proj.bias, pool.k_proj.bias, pool.v_proj.bias]),
        bias_k=None,
        bias_v=None,
        add_zero_attn=False,
        dropout_p=0.0,
        out_proj_weight=pool.c_proj.weight,
        out_proj_bias=pool.c_proj.bias,
        use_separate_proj_weight=True,
        training=False,
    )
    tokens = backbone.image_tokens(pixels)
    assert tokens.shape == (3, 5, 32)
    torch.testing.assert_close(tokens[:, 2], one[0], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_cnn_positions_are_the_projected_map(tiny_cnn) -> None:
    backbone = load(tiny_cnn)
    trunk, proj = backbone.model.visual.trunk, backbone.model.visual.head.proj
    pixels = images(backbone)
    feature_map = trunk.forward_features(pixels)
    positions = feature_map.permute(0, 2, 3, 1).flatten(1, 2)
    tokens = backbone.image_tokens(pixels)
    torch.testing.assert_close(tokens[:, 1:], positions @ proj.weight.T, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        tokens[:, 0], positions.mean(dim=1) @ proj.weight.T, rtol=1e-4, atol=1e-5
    )
    assert tokens.shape[1] == 1 + feature_map.shape[2] * feature_map.shape[3] > 2


@torch.no_grad()
def test_siglip_positions_go_through_the_value_path_of_the_pool(tiny_siglip) -> None:
    backbone = load(tiny_siglip)
    trunk, pixels = backbone.model.visual.trunk, images(backbone)
    patches = trunk.forward_features(pixels)[:, 1:]  # this trunk has a class token, not pooled
    pool = trunk.attn_pool
    value = functional.linear(patches, pool.kv.weight[64:], pool.kv.bias[64:])
    x = pool.proj(value)
    expected = trunk.fc_norm(x + pool.mlp(pool.norm(x)))
    tokens = backbone.image_tokens(pixels)
    assert tokens.shape == (3, 101, 64)
    torch.testing.assert_close(tokens[:, 1:], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("model", "vision", "positions"),
    [
        ("test_vit3", {"timm_pool": "map", "timm_proj": "none", "embed_dim": 96}, 100),
        ("test_vit", {"timm_pool": "avg", "timm_proj": "linear", "embed_dim": 32}, 100),
        ("test_vit", {"timm_pool": "token", "timm_proj": "linear", "embed_dim": 32}, 100),
        ("test_vit2", {"timm_pool": "avg", "timm_proj": "linear", "embed_dim": 32}, 100),
        ("test_convnext", {"timm_pool": "", "timm_proj": "linear", "embed_dim": 32}, 25),
        ("test_nfnet", {"timm_pool": "avg", "timm_proj": None, "embed_dim": 32}, 25),
    ],
)
@torch.no_grad()
def test_other_timm_towers(make_backbone, model: str, vision: dict, positions: int) -> None:
    """Class and register tokens, pooled or not, are never positions; nothing is NaN."""
    backbone = timm_backbone(make_backbone, f"{model}-{vision['timm_pool']}", model, **vision)
    pixels = images(backbone, batch=2)
    tokens = backbone.image_tokens(pixels)
    assert tokens.shape == (2, 1 + positions, backbone.embed_dim)
    assert tokens.isfinite().all()
    torch.testing.assert_close(tokens[:, 0], backbone.pooled(pixels), rtol=1e-4, atol=1e-5)
    if vision["timm_pool"] == "avg" and model.startswith("test_vit"):
        # fc_norm sits between mean and projection in timm's average-pooled ViTs: only without it
        # is the pooled embedding the mean of the positions
        trunk = backbone.model.visual.trunk
        if isinstance(trunk.fc_norm, torch.nn.Identity):
            torch.testing.assert_close(
                tokens[:, 1:].mean(dim=1), tokens[:, 0], rtol=1e-4, atol=1e-5
            )


def test_coca_is_refused(make_backbone) -> None:
    config = {
        "embed_dim": 32,
        "vision_cfg": POOLER_VISION,
        "text_cfg": {"context_length": 8, "width": 32, "heads": 2, "layers": 1},
    }
    backbone = load(make_backbone("tiny-pooler", config))
    with pytest.raises(CheckpointError, match=r"attentional pooler.*use a plain CLIP"):
        image_tokens(backbone.model.visual, images(backbone))

"""Image tokens of every kind of open_clip tower."""

import torch
from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional

from ovml_deploy.errors import CheckpointError


def token_width(visual: nn.Module, embed_dim: int) -> int:
    """Return W, the width of the tokens of a tower: a ViT's own, for others the shared space's."""
    if isinstance(visual, VisionTransformer):
        return int(visual.ln_post.weight.shape[0])
    if isinstance(visual, ModifiedResNet | TimmModel):
        return embed_dim
    raise CheckpointError(f"The image tower {type(visual).__name__} is not supported.")


def image_tokens(visual: nn.Module, images: Tensor) -> Tensor:
    """Normalised images ``[B, 3, H, W]`` -> tokens ``[B, N, W]``; token 0 is the whole image."""
    if isinstance(visual, VisionTransformer):
        return _vit_tokens(visual, images)
    if isinstance(visual, ModifiedResNet):
        return _resnet_tokens(visual, images)
    assert isinstance(visual, TimmModel)
    return _timm_tokens(visual, images)


def _vit_tokens(visual: VisionTransformer, images: Tensor) -> Tensor:
    """The last block after the final LayerNorm, class token first (QKS, arXiv 2401.01181)."""
    if visual.attn_pool is not None or visual.pool_type == "none":
        raise CheckpointError(
            "This ViT ends in an attentional pooler (CoCa), or in no pooling, and has no tokens in "
            "its text space; use a plain CLIP model."
        )
    hidden = visual.transformer(visual._embeds(images))
    if visual.pool_type == "tok":
        return visual.ln_post(hidden)
    # CLIPA averages its patches, before or after the LayerNorm; its class token means nothing.
    pooled, _ = visual._pool(hidden)
    return torch.cat([pooled.unsqueeze(1), visual.ln_post(hidden[:, 1:])], dim=1)


def _resnet_tokens(visual: ModifiedResNet, images: Tensor) -> Tensor:
    """The pooled embedding, then each position through the pool's v and c projections.

    Source: DenseCLIP / MaskCLIP's reading of CLIP's attention pool, as in arXiv 2211.12739.
    """
    feature_map = visual.layer4(visual.layer3(visual.layer2(visual.layer1(visual.stem(images)))))
    pool = visual.attnpool
    dense = pool.c_proj(pool.v_proj(feature_map.flatten(2).transpose(1, 2)))
    return torch.cat([pool(feature_map).unsqueeze(1), dense], dim=1)


def _timm_tokens(visual: TimmModel, images: Tensor) -> Tensor:
    """The pooled embedding, then each position sent alone through the tower's own pooling.

    Pooling one position is the identity for an average and the value path for SigLIP's attention
    pool, so positions land in the space of the text features.
    """
    trunk = visual.trunk
    features = trunk.forward_features(images)
    pooled = visual.head(trunk.forward_head(features))
    if features.ndim == 3:
        prefix = getattr(trunk, "num_prefix_tokens", 0)
        alone = features[:, prefix:].flatten(0, 1).unsqueeze(1)  # [B*N, 1, C]
        if prefix and _drops_prefix(trunk):
            alone = functional.pad(alone, (0, 0, prefix, 0))
    elif getattr(trunk, "output_fmt", "NCHW") == "NHWC":
        alone = features.flatten(0, 2)[:, None, None, :]  # [B*h*w, 1, 1, C]
    else:
        alone = features.flatten(2).transpose(1, 2).flatten(0, 1)[:, :, None, None]
    dense = visual.head(trunk.forward_head(alone))
    return torch.cat([pooled.unsqueeze(1), dense.unflatten(0, (images.shape[0], -1))], dim=1)


def _drops_prefix(trunk: nn.Module) -> bool:
    """Whether a timm ViT's pooling leaves out its class and register tokens."""
    attends = getattr(trunk, "attn_pool", None) is not None
    # timm's Eva has no such setting: its attention pool reads every token, its average does not
    includes = getattr(trunk, "pool_include_prefix", attends)
    return trunk.global_pool != "token" and not includes

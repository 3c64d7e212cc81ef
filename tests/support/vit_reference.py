"""OpenAI's ViT written with plain tensor operations from a state dict: no code is shared."""

from collections.abc import Mapping

import torch
from torch import Tensor


def vit_tokens(weights: Mapping[str, Tensor], images: Tensor, heads: int) -> Tensor:
    """Normalised images [B, 3, H, W] -> all tokens after ``ln_post``, in float64."""
    w = {name: value.double() for name, value in weights.items() if name.startswith("visual.")}
    kernel = w["visual.conv1.weight"]
    width, patch = kernel.shape[0], kernel.shape[-1]
    batch, _, height, across = images.shape
    rows, columns = height // patch, across // patch
    patches = images.double().reshape(batch, 3, rows, patch, columns, patch)
    patches = patches.permute(0, 2, 4, 1, 3, 5).reshape(batch, rows * columns, -1)
    x = patches @ kernel.reshape(width, -1).T
    start = w["visual.class_embedding"].expand(batch, 1, width)
    x = torch.cat([start, x], dim=1) + w["visual.positional_embedding"]
    x = _norm(w, "visual.ln_pre", x)
    layer = 0
    while f"visual.transformer.resblocks.{layer}.ln_1.weight" in w:
        at = f"visual.transformer.resblocks.{layer}"
        x = x + _attend(w, f"{at}.attn", _norm(w, f"{at}.ln_1", x), heads)
        hidden = _norm(w, f"{at}.ln_2", x)
        hidden = hidden @ w[f"{at}.mlp.c_fc.weight"].T + w[f"{at}.mlp.c_fc.bias"]
        hidden = hidden / (1 + torch.exp(-1.702 * hidden))  # QuickGELU
        x = x + hidden @ w[f"{at}.mlp.c_proj.weight"].T + w[f"{at}.mlp.c_proj.bias"]
        layer += 1
    assert layer > 0
    return _norm(w, "visual.ln_post", x)


def _norm(w: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    centred = x - x.mean(dim=-1, keepdim=True)
    scaled = centred / (centred.square().mean(dim=-1, keepdim=True) + 1e-5).sqrt()
    return scaled * w[f"{name}.weight"] + w[f"{name}.bias"]


def _attend(w: Mapping[str, Tensor], name: str, x: Tensor, heads: int) -> Tensor:
    batch, length, width = x.shape
    qkv = x @ w[f"{name}.in_proj_weight"].T + w[f"{name}.in_proj_bias"]
    q, k, v = qkv.reshape(batch, length, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
    scores = torch.softmax(q @ k.transpose(-1, -2) / (width // heads) ** 0.5, dim=-1)
    joined = (scores @ v).permute(0, 2, 1, 3).reshape(batch, length, width)
    return joined @ w[f"{name}.out_proj.weight"].T + w[f"{name}.out_proj.bias"]

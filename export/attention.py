"""Attention as engines compute it best: what is exported in place of the modules of training.

The weights and the results are the same, up to rounding.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from open_clip.transformer import ResidualAttentionBlock
from torch import Tensor, nn
from torch.nn import functional as F

from ovml_deploy.models.qks import QKSHead
from ovml_deploy.models.tagging import TaggingModel


@contextmanager
def written_out(model: TaggingModel) -> Iterator[None]:
    """While this lasts, the model computes its attention in the modules below."""
    replaced: list[tuple[nn.Module, str, nn.Module]] = []

    def replace(parent: nn.Module, name: str, new: nn.Module) -> None:
        replaced.append((parent, name, getattr(parent, name)))
        setattr(parent, name, new)

    for block in model.backbone.modules():
        if isinstance(block, ResidualAttentionBlock) and SelfAttention.takes(block):
            replace(block, "attn", SelfAttention(block.attn))
    if isinstance(model.head, QKSHead):
        for layer in model.head.net.encoder.layer:
            cross: Any = layer.crossattention
            replace(cross, "self", CrossAttention(cross.self))
    try:
        yield
    finally:
        for parent, name, old in replaced:
            setattr(parent, name, old)


class SelfAttention(nn.Module):
    """Self-attention of ``nn.MultiheadAttention``, batch first from end to end.

    That one moves the batch inwards and back, which costs engines a twentieth of a ViT's time, and
    none of them recognises what is in between.
    """

    def __init__(self, attention: nn.MultiheadAttention) -> None:
        super().__init__()
        self.heads = attention.num_heads
        self.weights = attention.in_proj_weight.detach().chunk(3)
        self.biases = attention.in_proj_bias.detach().chunk(3)
        self.out = attention.out_proj

    @staticmethod
    def takes(block: ResidualAttentionBlock) -> bool:
        """Whether this may stand in for a block's attention."""
        attention = block.attn
        return (
            isinstance(attention, nn.MultiheadAttention)
            and attention.batch_first
            and attention.in_proj_weight is not None
            and attention.in_proj_bias is not None
            and attention.bias_k is None
            and not attention.add_zero_attn
            and not hasattr(block, "ln_1_kv")  # keys and values from elsewhere
        )

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        need_weights: bool = False,
        attn_mask: Tensor | None = None,
    ) -> tuple[Tensor, None]:
        """Attend of ``[B, N, W]`` to itself: ``key`` and ``value`` are ``query``."""
        q, k, v = (
            F.linear(query, weight, bias).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for weight, bias in zip(self.weights, self.biases, strict=True)
        )
        similarity = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
        if attn_mask is not None:
            if (
                attn_mask.ndim == 3
            ):  # CoCa's text tower: a mask of every text and head, [B * heads, N, N]
                attn_mask = attn_mask.unflatten(0, (-1, self.heads))
            similarity = similarity + attn_mask
        attended = similarity.softmax(dim=-1) @ v
        return self.out(attended.transpose(1, 2).flatten(2)), None


class CrossAttention(nn.Module):
    """Cross-attention of few queries to many tokens, whose keys and values are never made.

    q (x K)^T = (q K^T) x^T, and a (x V) = (a x) V: it is the queries that are projected, M of them
    instead of N tokens. A bias of the keys adds the same to all of a query's similarities, and so
    nothing after the softmax; the values' bias is added whole, for a query's attention sums to 1.
    For 12 queries and 197 tokens that is a quarter of the arithmetic.
    """

    def __init__(self, attention: Any) -> None:
        """Take the place of the attention of ``ovml_deploy.models.qks``."""
        super().__init__()
        self.heads: int = attention.heads
        self.query: nn.Linear = attention.query
        self.key = attention.key.weight.detach().unflatten(0, (self.heads, -1))  # [heads, d, W]
        values = attention.value.weight.detach().unflatten(0, (self.heads, -1))
        self.value = values.transpose(1, 2).contiguous()  # [heads, W, d]
        self.bias = attention.value.bias

    def forward(self, hidden: Tensor, source: Tensor) -> Tensor:
        """``hidden [B, M, W]`` attends to ``source [B, N, W]``: ``[B, M, W]``."""
        return self.look(hidden, source)[0]

    def look(self, hidden: Tensor, source: Tensor) -> tuple[Tensor, Tensor]:
        """Also return where it looks, ``[B, M, N]``: the mean over the heads."""
        query = self.query(hidden).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        query = (query * query.shape[-1] ** -0.5) @ self.key
        attention = (query.flatten(1, 2) @ source.transpose(1, 2)).softmax(dim=-1)
        by_head = (1, (self.heads, -1))
        attended = (attention @ source).unflatten(*by_head) @ self.value
        return attended.transpose(1, 2).flatten(2) + self.bias, attention.unflatten(*by_head).mean(
            1
        )

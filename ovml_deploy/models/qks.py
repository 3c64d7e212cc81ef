"""The QKS head: query tokens that share knowledge by attending to all image tokens.

Source: "Query-Based Knowledge Sharing for Open-Vocabulary Multi-Label Classification",
arXiv 2401.01181, and its official release. Module names follow that release, so its state
dicts load as they are: a BERT-style post-norm stack with cross-attention in every layer.
"""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ovml_deploy.errors import CheckpointError
from ovml_deploy.models.heads import Head

if TYPE_CHECKING:
    from ovml_deploy.models.backbone import Backbone

_LAYER_NORM_EPS = 1e-12
_INIT_STD = 0.02


@dataclass(frozen=True)
class QKSConfig:
    """Sizes of a QKS head. The defaults are the paper's for NUS-WIDE on CLIP ViT-B/16."""

    width: int = 768
    embed_dim: int = 512
    layers: int = 7
    queries: int = 12
    attention_heads: int = 12
    intermediate: int = 3072
    dropout: float = 0.1

    def __post_init__(self) -> None:
        if self.attention_heads < 1 or self.width % self.attention_heads:
            raise ValueError(
                f"width {self.width} is not divisible by attention_heads {self.attention_heads}; "
                "choose a divisor"
            )


class _SelfAttention(nn.Module):
    def __init__(self, config: QKSConfig) -> None:
        super().__init__()
        self.heads = config.attention_heads
        self.query = nn.Linear(config.width, config.width)
        self.key = nn.Linear(config.width, config.width)
        self.value = nn.Linear(config.width, config.width)
        self.dropout = config.dropout

    def forward(self, hidden: Tensor, source: Tensor) -> Tensor:
        return self._attend(self._split(self.query(hidden)), self._split(self.key(source)), source)

    def look(self, hidden: Tensor, source: Tensor) -> tuple[Tensor, Tensor]:
        """Also return how much each of ``hidden`` looks at each of ``source``, ``[B, M, N]``.

        The mean over the heads. It is computed once more, for engines fuse what ``forward`` does,
        and would not if somebody wanted to see the inside of it.
        """
        query, key = self._split(self.query(hidden)), self._split(self.key(source))
        similarity = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
        return self._attend(query, key, source), similarity.softmax(dim=-1).mean(dim=1)

    def _attend(self, query: Tensor, key: Tensor, source: Tensor) -> Tensor:
        attended = F.scaled_dot_product_attention(
            query,
            key,
            self._split(self.value(source)),
            dropout_p=self.dropout if self.training else 0.0,
        )
        return attended.transpose(1, 2).flatten(2)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class _Output(nn.Module):
    """Dense, dropout, residual, LayerNorm: the post-norm end of every BERT sub-layer."""

    def __init__(self, inner: int, config: QKSConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(inner, config.width)
        self.LayerNorm = nn.LayerNorm(config.width, eps=_LAYER_NORM_EPS)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, hidden: Tensor, residual: Tensor) -> Tensor:
        return self.LayerNorm(self.dropout(self.dense(hidden)) + residual)


class _Attention(nn.Module):
    def __init__(self, config: QKSConfig) -> None:
        super().__init__()
        self.self = _SelfAttention(config)
        self.output = _Output(config.width, config)

    def forward(self, hidden: Tensor, source: Tensor) -> Tensor:
        return self.output(self.self(hidden, source), hidden)

    def look(self, hidden: Tensor, source: Tensor) -> tuple[Tensor, Tensor]:
        """Also return where ``hidden`` looks, ``[B, M, N]``."""
        attended, looked = self.self.look(hidden, source)
        return self.output(attended, hidden), looked


class _Intermediate(nn.Module):
    def __init__(self, config: QKSConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.width, config.intermediate)

    def forward(self, hidden: Tensor) -> Tensor:
        return F.gelu(self.dense(hidden))


class _Layer(nn.Module):
    def __init__(self, config: QKSConfig) -> None:
        super().__init__()
        self.attention = _Attention(config)
        self.crossattention = _Attention(config)
        self.intermediate_query = _Intermediate(config)
        self.output_query = _Output(config.intermediate, config)

    def forward(self, queries: Tensor, tokens: Tensor) -> Tensor:
        queries = self.attention(queries, queries)
        queries = self.crossattention(queries, tokens)
        return self.output_query(self.intermediate_query(queries), queries)

    def look(self, queries: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Also return where the queries look, ``[B, M, N]``."""
        queries = self.attention(queries, queries)
        queries, looked = self.crossattention.look(queries, tokens)
        return self.output_query(self.intermediate_query(queries), queries), looked


class _Embeddings(nn.Module):
    def __init__(self, config: QKSConfig) -> None:
        super().__init__()
        self.LayerNorm = nn.LayerNorm(config.width, eps=_LAYER_NORM_EPS)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, queries: Tensor) -> Tensor:
        return self.dropout(self.LayerNorm(queries))


class _Encoder(nn.Module):
    def __init__(self, config: QKSConfig) -> None:
        super().__init__()
        self.layer = nn.ModuleList(_Layer(config) for _ in range(config.layers))

    def forward(self, queries: Tensor, tokens: Tensor) -> Tensor:
        for layer in self.layer:
            queries = layer(queries, tokens)
        return queries

    def look(self, queries: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Also return where the queries look, ``[B, M, N]``: the mean over the layers.

        Each layer adds what it saw to the queries, and any of them may be the one that sees: see
        ``benchmarks/attention.py``.
        """
        looks = []
        for layer in self.layer:
            assert isinstance(layer, _Layer)
            queries, looked = layer.look(queries, tokens)
            looks.append(looked)
        return queries, torch.stack(looks).mean(dim=0)


class _Net(nn.Module):
    def __init__(self, config: QKSConfig) -> None:
        super().__init__()
        self.embeddings = _Embeddings(config)
        self.encoder = _Encoder(config)

    def forward(self, queries: Tensor, tokens: Tensor) -> Tensor:
        return self.encoder(self.embeddings(queries), tokens)

    def look(self, queries: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Also return where the queries look, ``[B, M, N]``."""
        return self.encoder.look(self.embeddings(queries), tokens)


class QKSHead(Head):
    """Image tokens ``[B, N, W]`` -> query features ``[B, M, D]``; a label matches its best query.

    Source: arXiv 2401.01181, section 3 (query tokens, knowledge extraction, prompt pool).
    """

    kind = "qks"
    consumes = "tokens"
    activation = "sigmoid"
    normalises_labels = False
    looks = True

    def __init__(self, config: QKSConfig, projection: Tensor | None = None) -> None:
        """Start from ``projection [W, D]`` (the backbone's own) where it is given."""
        super().__init__()
        self.config = config
        self.query_tokens = nn.Parameter(torch.empty(1, config.queries, config.width))
        self.net = _Net(config)
        self.proj = nn.Parameter(torch.empty(config.width, config.embed_dim))
        self._initialise(projection)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return query features ``[B, M, D]`` (float32, not normalised) of tokens ``[B, N, W]``."""
        return self.net(self._queries(tokens), tokens) @ self.proj

    def look(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return features as ``forward`` does, and where each query looks, ``[B, M, N]``.

        The cross-attention, mean over layers and their heads: a query's sum to 1.
        """
        answers, looked = self.net.look(self._queries(tokens), tokens)
        return answers @ self.proj, looked

    def _queries(self, tokens: Tensor) -> Tensor:
        return self.query_tokens.expand(tokens.shape[0], -1, -1)

    @property
    def features_per_image(self) -> int:
        """One for each query."""
        return self.config.queries

    def match(self, features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits and the winning query's index, both ``[B, K]``.

        ``features`` is ``[B, M, D]``, ``labels`` ``[K, D]``; logit = max over queries of the
        dot product.
        """
        similarities = features @ labels.T
        logits, winners = similarities.max(dim=1)
        return logits, winners

    def check_fits(self, backbone: "Backbone") -> None:
        """Raise CheckpointError where the head was made for a backbone of other sizes."""
        width, dim = self.config.width, self.config.embed_dim
        if (width, dim) != (backbone.width, backbone.embed_dim):
            raise CheckpointError(
                f"The head takes tokens of width {width} into {dim} dimensions, but the backbone "
                f"{backbone.spec.name!r} has {backbone.width} and {backbone.embed_dim}. Name the "
                "backbone it was trained on with --backbone."
            )

    def settings(self) -> dict[str, Any]:
        """Return the head's sizes as plain values, for a checkpoint."""
        return asdict(self.config)

    def _initialise(self, projection: Tensor | None) -> None:
        for module in self.net.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=_INIT_STD)
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.query_tokens, std=_INIT_STD)
        with torch.no_grad():
            if projection is None:
                nn.init.normal_(self.proj, std=self.config.width**-0.5)
            else:
                self.proj.copy_(projection)

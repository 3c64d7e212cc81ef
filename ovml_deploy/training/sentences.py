"""Sentences as images: what the frozen text tower gives for them (arXiv 2211.12739)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ovml_deploy.models.backbone import Backbone

_AT_ONCE = 128


@dataclass(frozen=True)
class SentenceFeatures:
    """Unit-norm features of S sentences: ``whole [S, D]``, and those of all their tokens.

    ``tokens [sum of lengths, D]`` (float16) holds one sentence after the other; sentence i has those
    from ``starts[i]`` to ``starts[i + 1]``.
    """

    whole: Tensor
    tokens: Tensor
    starts: Tensor

    def __len__(self) -> int:
        return len(self.whole)

    def batch(self, chosen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return features ``[B, D]``, token features ``[B, T, D]``, and which are text ``[B, T]``."""
        lengths = self.starts[chosen + 1] - self.starts[chosen]
        steps = torch.arange(int(lengths.max()))
        real = steps < lengths[:, None]
        places = (self.starts[chosen][:, None] + steps).clamp(max=len(self.tokens) - 1)
        return self.whole[chosen], self.tokens[places].float(), real


@torch.no_grad()
def encode_sentences(
    backbone: Backbone, texts: Sequence[str], advance: Callable[[int], None] | None = None
) -> SentenceFeatures:
    """Encode sentences; ``advance`` is told of finished ones. Padding is left out."""
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))  # little padding in a batch
    whole: list[Tensor] = [torch.empty(0)] * len(texts)
    tokens: list[Tensor] = [torch.empty(0)] * len(texts)
    for start in range(0, len(order), _AT_ONCE):
        some = order[start : start + _AT_ONCE]
        rows = backbone.token_ids([texts[i] for i in some])
        features, dense = backbone.text.dense(*backbone.text.trim(backbone.pad(rows)))
        for i, row, feature, local in zip(some, rows, features, dense, strict=True):
            whole[i] = F.normalize(feature, dim=-1).cpu()
            tokens[i] = F.normalize(local[: len(row)], dim=-1).half().cpu()
        if advance:
            advance(len(some))
    lengths = torch.tensor([0, *map(len, tokens)])
    return SentenceFeatures(torch.stack(whole), torch.cat(tokens), lengths.cumsum(0))

"""open_clip's text towers behind one call, at the texts' own length where that is exact."""

from typing import Any

from open_clip.hf_model import HFTextEncoder
from open_clip.transformer import text_global_pool
from torch import Tensor, nn


class TextTower(nn.Module):
    """Token ids ``[P, T]`` -> text features ``[P, D]``, not normalised.

    A causal tower that reads its end-of-text token gives the same feature at any length; a Hugging
    Face tower does with its padding masked out. Any other tower (SigLIP reads its last position)
    is kept at its full context length.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        text = getattr(model, "text", None)
        self.hugging_face = isinstance(text, HFTextEncoder)
        # A plain CLIP carries the parts of its text tower itself; both spell them alike. The lists
        # keep the parts from being registered (and counted, moved and saved) twice.
        self._tower = [text if text is not None else model]
        self._model = [model]
        self.context_length = int(model.context_length)

    @property
    def tower(self) -> Any:
        """The module that holds the parts of the text tower."""
        return self._tower[0]

    @property
    def embed_dim(self) -> int:
        """D, the width of the text features."""
        if self.hugging_face:
            return int(self.tower.output_dim)
        projection = self.tower.text_projection
        if projection is None:
            return int(self.tower.ln_final.weight.shape[0])
        linear = isinstance(projection, nn.Linear)
        return int(projection.out_features if linear else projection.shape[1])

    @property
    def any_length(self) -> bool:
        """Whether token ids may be cut to the longest text of a batch."""
        if self.hugging_face:
            return True
        causal = self.tower.attn_mask is not None
        return causal and self._pool in ("argmax", "eos") and not self._appends_class

    @property
    def pad_id(self) -> int:
        """The id that fills a batch up to one length."""
        if self.hugging_face:
            return int(self.tower.config.pad_token_id)
        return int(getattr(self.tower, "pad_id", 0))

    def encode(self, token_ids: Tensor) -> Tensor:
        """Encode ids ``[P, context_length]`` after cutting columns of padding only."""
        if not self.any_length:
            return self(token_ids)
        used = (token_ids != self.pad_id).any(dim=0).nonzero().max() + 1
        token_ids = token_ids[:, : int(used)]
        mask = (token_ids != self.pad_id).long() if self.hugging_face else None
        return self(token_ids, mask)

    def forward(self, token_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Encode ids ``[P, T]``; a Hugging Face tower also takes its mask ``[P, T]`` (1 = text)."""
        tower = self.tower
        if self.hugging_face:
            hidden = tower.transformer(input_ids=token_ids, attention_mask=attention_mask)
            return tower.proj(tower.pooler(hidden, attention_mask))
        if self._appends_class or not self.any_length:
            return self._model[0].encode_text(token_ids)
        length = token_ids.shape[1]
        x = tower.token_embedding(token_ids) + tower.positional_embedding[:length]
        x = tower.transformer(x, attn_mask=tower.attn_mask[:length, :length])
        x = text_global_pool(
            tower.ln_final(x), token_ids, self._pool, eos_token_id=self._end_of_text
        )
        projection = tower.text_projection
        if projection is None:
            return x
        return projection(x) if isinstance(projection, nn.Linear) else x @ projection

    @property
    def _pool(self) -> str:
        return str(getattr(self.tower, "pool_type", None) or self.tower.text_pool_type)

    @property
    def _end_of_text(self) -> int | None:
        return getattr(self.tower, "eos_id", None) or getattr(self.tower, "text_eos_id", None)

    @property
    def _appends_class(self) -> bool:
        return getattr(self.tower, "cls_emb", None) is not None

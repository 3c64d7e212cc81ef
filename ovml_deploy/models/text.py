"""open_clip's text towers behind one call, at the texts' own length where that is exact."""

from typing import Any

import torch
from open_clip.hf_model import HFTextEncoder
from open_clip.transformer import text_global_pool
from torch import Tensor, nn
from torch.nn import functional as F

from ovml_deploy.errors import CheckpointError


class TextTower(nn.Module):
    """Token ids ``[P, T]`` -> text features ``[P, D]``, not normalised.

    A causal tower that reads its end-of-text token gives the same feature at any length; a Hugging
    Face tower does with its padding masked out. Any other tower (SigLIP reads its last position)
    is kept at its full context length.

    Ids beyond the tower's own table stand for learned tokens: ``rows [R, W]``, which continue it.
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
    def token_embedding(self) -> nn.Embedding:
        """The tower's own table of tokens ``[V, W]``."""
        if self.hugging_face:
            table: nn.Embedding = self.tower.transformer.get_input_embeddings()
            return table
        return self.tower.token_embedding

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
        return self(*self.trim(token_ids))

    def trim(self, token_ids: Tensor) -> tuple[Tensor, Tensor | None]:
        """Cut columns of padding only, where that is exact; return the ids, and a mask if needed."""
        if not self.any_length:
            return token_ids, None
        used = (token_ids != self.pad_id).any(dim=0).nonzero().max() + 1
        token_ids = token_ids[:, : int(used)]
        return token_ids, (token_ids != self.pad_id).long() if self.hugging_face else None

    def forward(
        self, token_ids: Tensor, attention_mask: Tensor | None = None, rows: Tensor | None = None
    ) -> Tensor:
        """Encode ids ``[P, T]``; a Hugging Face tower also takes its mask ``[P, T]`` (1 = text)."""
        if rows is None and not self.hugging_face and not self.any_length:
            return self._model[0].encode_text(token_ids)
        return self._encode(token_ids, attention_mask, rows)[0]

    def dense(
        self, token_ids: Tensor, attention_mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return text features ``[P, D]`` and those of every token ``[P, T, D]``, padding included.

        Each token goes the way that the whole text goes after pooling, as in arXiv 2211.12739.
        """
        features, hidden = self._encode(token_ids, attention_mask, None)
        return features, self._project(hidden)

    def _encode(
        self, token_ids: Tensor, attention_mask: Tensor | None, rows: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return text features ``[P, D]`` and hidden states ``[P, T, W]`` before the projection."""
        tower = self.tower
        if self.hugging_face:
            given = (
                {"input_ids": token_ids}
                if rows is None
                else {"inputs_embeds": self._embed(token_ids, rows)}
            )
            output = tower.transformer(**given, attention_mask=attention_mask)
            return self._project(tower.pooler(output, attention_mask)), output.last_hidden_state
        if self._appends_class or getattr(tower, "use_pad_mask", False):
            raise CheckpointError(
                f"The text tower {type(tower).__name__} appends a class token or masks its padding "
                "(CoCa); prompts cannot be learned for it. Use a CLIP or SigLIP backbone."
            )
        embedded, length = self._embed(token_ids, rows), token_ids.shape[1]
        mask = None if tower.attn_mask is None else tower.attn_mask[:length, :length]
        hidden = tower.transformer(embedded + tower.positional_embedding[:length], attn_mask=mask)
        hidden = tower.ln_final(hidden)
        # by its id, a learned token must not pass for the end of the text
        known = token_ids.masked_fill(token_ids >= self.token_embedding.num_embeddings, 0)
        pooled = text_global_pool(hidden, known, self._pool, eos_token_id=self._end_of_text)
        return self._project(pooled), hidden

    def _embed(self, token_ids: Tensor, rows: Tensor | None) -> Tensor:
        table = self.token_embedding
        if rows is None:
            return table(token_ids)
        learned = token_ids - table.num_embeddings
        return torch.where(
            (learned >= 0).unsqueeze(-1),
            F.embedding(learned.clamp(min=0), rows),
            table(token_ids.clamp(max=table.num_embeddings - 1)),
        )

    def _project(self, hidden: Tensor) -> Tensor:
        if self.hugging_face:
            return self.tower.proj(hidden)
        projection = self.tower.text_projection
        if projection is None:
            return hidden
        return projection(hidden) if isinstance(projection, nn.Linear) else hidden @ projection

    @property
    def _pool(self) -> str:
        return str(getattr(self.tower, "pool_type", None) or self.tower.text_pool_type)

    @property
    def _end_of_text(self) -> int | None:
        return getattr(self.tower, "eos_id", None) or getattr(self.tower, "text_eos_id", None)

    @property
    def _appends_class(self) -> bool:
        return getattr(self.tower, "cls_emb", None) is not None

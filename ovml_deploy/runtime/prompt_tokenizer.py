"""The tokenizer of prompts: texts -> token ids."""

import json
from collections.abc import Sequence
from functools import cached_property

import numpy as np
from tokenizers import Tokenizer

from ovml_deploy.runtime.bundle import TextSettings
from ovml_deploy.runtime.text_cleaning import clean_text


class PromptTokenizer:
    """Texts -> rows of token ids, exactly as the backbone's own tokenizer makes them."""

    def __init__(self, tokenizer: Tokenizer, settings: TextSettings) -> None:
        self._tokenizer = tokenizer
        self._settings = settings
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(settings.context_length)

    def __call__(self, texts: Sequence[str]) -> list[list[int]]:
        """Return one list of ids a text, at the text's own length, ends included."""
        cleaned = [clean_text(text, self._settings.clean) for text in texts]
        return [encoding.ids for encoding in self._tokenizer.encode_batch(cleaned)]

    def pad(self, rows: Sequence[Sequence[int]]) -> np.ndarray:
        """Return int64 ids ``[P, T]``, T as short as the text encoder allows."""
        settings = self._settings
        length = max(map(len, rows)) if settings.any_length else settings.context_length
        ids = np.full((len(rows), length), settings.pad_id, dtype=np.int64)
        for row, values in zip(ids, rows, strict=True):
            row[: len(values)] = values
        return ids

    @cached_property
    def unknown_id(self) -> int | None:
        """The id of the token for what the tokenizer does not know; None where it knows all bytes."""
        model = self._tokenizer.model
        if hasattr(model, "unk_token"):
            token: str | None = model.unk_token
            return None if token is None else self._tokenizer.token_to_id(token)
        unknown: int | None = json.loads(self._tokenizer.to_str())["model"].get("unk_id")
        return unknown

    @cached_property
    def empty_ids(self) -> frozenset[int | None]:
        """The ids that stand for no text: ends, SentencePiece's lone space, and the unknown token."""
        space = self._tokenizer.token_to_id("\u2581")
        return frozenset({*self([""])[0], space, self.unknown_id})

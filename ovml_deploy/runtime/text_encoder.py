"""Labels -> label embeddings: prompts, token ids, the text graph, and the cache."""

from collections.abc import Callable, Sequence

import numpy as np
from tokenizers import Tokenizer

from ovml_deploy.errors import BundleError
from ovml_deploy.runtime.backends import Backend
from ovml_deploy.runtime.bundle import TEXT_ENCODER, TOKENIZER, Bundle, TextSettings
from ovml_deploy.runtime.label_cache import LabelCache
from ovml_deploy.runtime.labels import check_labels
from ovml_deploy.runtime.text_cleaning import clean_text
from ovml_deploy.runtime.vocabulary import Vocabulary
from ovml_deploy.templates import fill

#: Called with (labels encoded so far, labels to encode).
Progress = Callable[[int, int], None]

_PROMPTS_AT_ONCE = 128
_LABELS_AT_ONCE = 256


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


class TextEncoder:
    """Encodes labels through a bundle's prompt pool. Label embeddings are cached on disk."""

    def __init__(self, bundle: Bundle, backend: Backend, cache: LabelCache | None = None) -> None:
        self._bundle = bundle
        self._cache = cache or LabelCache(bundle.text_hash, bundle.prompt_hash)
        self._graph = backend.load(bundle.file(TEXT_ENCODER))
        path = bundle.file(TOKENIZER)
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # tokenizers raises bare Exception
            raise BundleError(f"{path} is not a tokenizer: {error}. Export it again.") from error
        self.tokenizer = PromptTokenizer(tokenizer, bundle.text)

    def vocabulary(
        self, labels: Sequence[str], name: str = "custom", progress: Progress | None = None
    ) -> Vocabulary:
        """Return a vocabulary of ``labels``; only those not in the cache are encoded.

        Raises LabelError for labels that cannot be used.
        """
        labels = check_labels(labels)
        shape = (self._bundle.embed_dim,)
        known = {
            label: row
            for label, row in self._cache.get(labels).items()
            if row.shape == shape and np.isfinite(row).all()  # a damaged row is encoded again
        }
        missing = [label for label in labels if label not in known]
        for start in range(0, len(missing), _LABELS_AT_ONCE):
            some = missing[start : start + _LABELS_AT_ONCE]
            fresh = dict(zip(some, self.embed(some), strict=True))
            self._cache.put(fresh)
            known |= fresh
            if progress:
                progress(start + len(some), len(missing))
        embeddings = np.stack([known[label] for label in labels])
        hashes = self._bundle.text_hash, self._bundle.prompt_hash
        return Vocabulary(name, labels, embeddings, *hashes)

    def embed(self, labels: Sequence[str]) -> np.ndarray:
        """Return label embeddings ``[K, D]``, past the cache: each label's mean over the pool."""
        templates = self._bundle.templates
        features = self.features([fill(t, label) for label in labels for t in templates])
        if self._bundle.normalises_labels:
            features = _unit(features)
        mean = features.reshape(len(labels), len(templates), -1).mean(axis=1)
        return _unit(mean) if self._bundle.normalises_labels else mean

    def features(self, texts: Sequence[str]) -> np.ndarray:
        """Return text features ``[P, D]`` (float32, as the tower gives them) of whole prompts."""
        rows = self.tokenizer(texts)
        # Texts of like length share a batch, so that little padding is computed.
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        features = np.empty((len(rows), self._bundle.embed_dim), dtype=np.float32)
        for start in range(0, len(order), _PROMPTS_AT_ONCE):
            some = order[start : start + _PROMPTS_AT_ONCE]
            batch = [rows[i] for i in some]
            inputs = {"token_ids": self.tokenizer.pad(batch)}
            if self._bundle.text.needs_mask:
                lengths = np.array([len(row) for row in batch])[:, None]
                columns = np.arange(inputs["token_ids"].shape[1])[None, :]
                inputs["attention_mask"] = (columns < lengths).astype(np.int64)
            features[some] = self._graph(inputs)["text_features"]
        return features


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-12)

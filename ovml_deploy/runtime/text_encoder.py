"""Labels -> label embeddings: prompts, token ids, the text graph, and the cache."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from tokenizers import Tokenizer

from ovml_deploy.errors import BundleError
from ovml_deploy.runtime.backends import Backend
from ovml_deploy.runtime.bundle import TEXT_ENCODER, TOKENIZER, Bundle
from ovml_deploy.runtime.iteration import batches
from ovml_deploy.runtime.label_cache import LabelCache
from ovml_deploy.runtime.label_tokens import LabelTokens, cache_key
from ovml_deploy.runtime.labels import LabelSource, places_of, split_groups
from ovml_deploy.runtime.prompt_tokenizer import PromptTokenizer
from ovml_deploy.runtime.prompts import prompts_of
from ovml_deploy.runtime.vocabulary import Vocabulary

#: Called with (labels encoded so far, labels to encode).
Progress = Callable[[int, int], None]

_PROMPTS_AT_ONCE = 128
_LABELS_AT_ONCE = 256  # at most: between steps there is progress, and somebody may stop it
_PROMPTS_A_STEP = 1024
_ROWS_AT_ONCE = 256  # copied in one go, while which no other thread runs Python


class TextEncoder:
    """Encodes labels through a bundle's prompts. Label embeddings are cached on disk."""

    def __init__(self, bundle: Bundle, backend: Backend, cache: LabelCache | None = None) -> None:
        self._bundle = bundle
        self._cache = cache or LabelCache(bundle.text_hash, bundle.prompt_hash)
        # exact: label embeddings are kept on disk for every engine, so they depend on none
        self._graph = backend.load(bundle, TEXT_ENCODER, exact=True)
        path = bundle.file(TOKENIZER)
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # tokenizers raises bare Exception
            raise BundleError(f"{path} is not a tokenizer: {error}. Export it again.") from error
        self.tokenizer = PromptTokenizer(tokenizer, bundle.text)
        self._prompts = prompts_of(bundle, self.tokenizer)
        self._tokens = LabelTokens(self._prompts, self.tokenizer)

    def check(self, labels: LabelSource, keep: bool = True) -> None:
        """Raise LabelError for labels of which :meth:`vocabulary` makes no vocabulary.

        No label is encoded. ``keep``: read and write the cache on disk. Labels that the tokenizer does
        not know are logged as a warning.
        """
        texts, groups = split_groups(labels)
        self._tokens.check(texts, groups, places_of(labels), self._cache if keep else None)

    def vocabulary(
        self,
        labels: LabelSource,
        name: str = "custom",
        progress: Progress | None = None,
        allow_same: bool = False,
    ) -> Vocabulary:
        """Return a vocabulary of ``labels``; only those not in the cache are encoded.

        ``labels`` may be a mapping to groups, which a prompt-tuned model has. Raises LabelError for
        labels that cannot be used, an unknown group, one where the model has none, and labels whose
        prompts have the same token ids; with ``allow_same`` these are logged as a warning.
        """
        texts, groups = split_groups(labels)
        self._tokens.check(texts, groups, places_of(labels), self._cache, allow_same)
        known = self._prompts.known(texts, groups)
        known |= self._cached([label for label in texts if label not in known], groups)
        missing = [label for label in texts if label not in known]
        step = min(_LABELS_AT_ONCE, max(1, _PROMPTS_A_STEP // len(self._bundle.templates)))
        for start in range(0, len(missing), step):
            some = missing[start : start + step]
            fresh = dict(zip(some, self._encode(some, groups), strict=True))
            self._cache.put({cache_key(label, groups): row for label, row in fresh.items()})
            known |= fresh
            if progress:
                progress(start + len(some), len(missing))
        embeddings = np.empty((len(texts), self._bundle.label_dim), dtype=np.float32)
        for start in range(0, len(texts), _ROWS_AT_ONCE):
            part = slice(start, start + _ROWS_AT_ONCE)
            embeddings[part] = [known[label] for label in texts[part]]
        hashes = self._bundle.text_hash, self._bundle.prompt_hash
        return Vocabulary(name, texts, embeddings, *hashes)

    def embed(self, labels: LabelSource) -> np.ndarray:
        """Return label embeddings ``[K, label_dim]``, past the cache. Raises LabelError."""
        texts, groups = split_groups(labels)
        known = self._prompts.known(texts, groups)
        others = [label for label in texts if label not in known]
        known |= dict(zip(others, self._encode(others, groups), strict=True))
        return np.stack([known[label] for label in texts])

    def features(self, texts: Sequence[str]) -> np.ndarray:
        """Return text features ``[P, D]`` (float32, as the tower gives them) of whole prompts."""
        return self._features(self.tokenizer(texts))

    def _cached(self, labels: Sequence[str], groups: Mapping[str, str]) -> dict[str, np.ndarray]:
        label_of = {cache_key(label, groups): label for label in labels}
        shape = (self._bundle.label_dim,)
        rows = {key: row for key, row in self._cache.get([*label_of]).items() if row.shape == shape}
        found: dict[str, np.ndarray] = {}
        for some in batches(rows.items(), _ROWS_AT_ONCE):
            whole: list[bool] = np.isfinite(np.stack([row for _, row in some])).all(axis=1).tolist()
            # a damaged row is encoded again
            found |= {
                label_of[key]: row for (key, row), good in zip(some, whole, strict=True) if good
            }
        return found

    def _encode(self, labels: Sequence[str], groups: Mapping[str, str]) -> np.ndarray:
        if not labels:
            return np.empty((0, self._bundle.label_dim), dtype=np.float32)
        features = self._features(self._prompts.token_ids(labels, groups))
        return self._prompts.merge(features.reshape(len(labels), -1, self._bundle.embed_dim))

    def _features(self, rows: Sequence[Sequence[int]]) -> np.ndarray:
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
            features[some] = np.asarray(self._graph(inputs)["text_features"])
        return features

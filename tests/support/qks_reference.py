"""DESIGN.md section 5 written out in numpy (float64), from the text alone: no code is shared."""

import math
from collections.abc import Mapping

import numpy as np

Weights = Mapping[str, np.ndarray]

_erf = np.vectorize(math.erf)


def qks_features(weights: Weights, tokens: np.ndarray, heads: int) -> np.ndarray:
    """Image tokens [B, N, W] -> query features [B, M, D]."""
    return np.stack([_one_image(weights, image, heads)[0] for image in tokens])


def qks_attention(weights: Weights, tokens: np.ndarray, heads: int) -> np.ndarray:
    """Image tokens [B, N, W] -> where the queries look [B, M, N], mean over layers and heads."""
    return np.stack([_one_image(weights, image, heads)[1] for image in tokens])


def qks_logits(features: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Features [B, M, D], labels [K, D] -> logits and winning queries [B, K]."""
    similarities = np.einsum("bmd,kd->bmk", features, labels.astype(np.float64))
    return similarities.max(axis=1), similarities.argmax(axis=1)


def _one_image(weights: Weights, tokens: np.ndarray, heads: int) -> tuple[np.ndarray, np.ndarray]:
    tokens, looks = tokens.astype(np.float64), []
    queries = _norm(weights, "net.embeddings.LayerNorm", weights["query_tokens"][0])
    layer = 0
    while f"net.encoder.layer.{layer}.attention.self.query.weight" in weights:
        at = f"net.encoder.layer.{layer}"
        for kind, source in (("attention", None), ("crossattention", tokens)):
            context, looked = _attend(
                weights, f"{at}.{kind}.self", queries, queries if source is None else source, heads
            )
            looks += [] if source is None else [looked]
            projected = _dense(weights, f"{at}.{kind}.output.dense", context)
            queries = _norm(weights, f"{at}.{kind}.output.LayerNorm", queries + projected)
        inner = _dense(weights, f"{at}.intermediate_query.dense", queries)
        inner = inner * 0.5 * (1.0 + _erf(inner / math.sqrt(2.0)))
        outer = _dense(weights, f"{at}.output_query.dense", inner)
        queries = _norm(weights, f"{at}.output_query.LayerNorm", queries + outer)
        layer += 1
    assert layer > 0
    return queries @ weights["proj"].astype(np.float64), np.mean(looks, axis=0)


def _dense(weights: Weights, name: str, x: np.ndarray) -> np.ndarray:
    return x @ weights[f"{name}.weight"].astype(np.float64).T + weights[f"{name}.bias"]


def _norm(weights: Weights, name: str, x: np.ndarray) -> np.ndarray:
    x = x.astype(np.float64)
    mean = x.mean(axis=-1, keepdims=True)
    variance = ((x - mean) ** 2).mean(axis=-1, keepdims=True)
    scaled = (x - mean) / np.sqrt(variance + 1e-12)
    return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def _attend(
    weights: Weights, name: str, queries: np.ndarray, source: np.ndarray, heads: int
) -> tuple[np.ndarray, np.ndarray]:
    q, k, v = (
        _dense(weights, f"{name}.{part}", x)
        for part, x in (("query", queries), ("key", source), ("value", source))
    )
    width = q.shape[1] // heads
    outputs, looks = [], []
    for head in range(heads):
        part = slice(head * width, (head + 1) * width)
        scores = q[:, part] @ k[:, part].T / math.sqrt(width)
        scores = np.exp(scores - scores.max(axis=1, keepdims=True))
        looks.append(scores / scores.sum(axis=1, keepdims=True))
        outputs.append(looks[-1] @ v[:, part])
    return np.concatenate(outputs, axis=1), np.mean(looks, axis=0)

"""Parity: the exported graphs against PyTorch fp32, over the sizes that users run."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from safetensors.numpy import save_file
from torch import Tensor

from export.learned import example_words
from export.precision import reference_outputs
from ovml_deploy.errors import ExportError
from ovml_deploy.models.tagging import TaggingModel
from ovml_deploy.runtime.backends import Backend
from ovml_deploy.runtime.bundle import ATTENTION, ENCODER, MATCHER, Bundle
from ovml_deploy.runtime.labels import format_grouped_labels, split_groups
from ovml_deploy.runtime.precision import TOLERANCE as ALLOWED
from ovml_deploy.runtime.selfcheck import relative_error
from ovml_deploy.runtime.text_encoder import TextEncoder

BATCHES: tuple[int, ...] = (1, 2, 3, 7, 32)
LABEL_COUNTS = (1, 2, 80, 4585)
TOLERANCE = 1e-5
#: Of attention, by the precision of the encoder: only eyes see it, and a softmax makes factors of
#: what were differences, so that rounding shows there first.
ATTENTION_TOLERANCE = {"fp32": 1e-4, "fp16": 0.1, "bf16": 0.5}
TOP = 5
PROMPTS = (
    "cat",
    "a photo of a traffic light.",
    "there is a fire engine in the scene.",
    "a close-up photo of the hard to see kingfisher on a branch above the water.",
)

_SEED = 20240101
_TIE = 1e-6  # of the greatest logit: a few steps of float32
_GOLDEN_WORDS = 3


@dataclass(frozen=True)
class Parity:
    """Errors of one output at one size, against PyTorch fp32.

    ``max_error``: greatest absolute error; ``relative_error``: that over the greatest value (of a
    logit: over all labels). ``cosine``: the least of any feature and its reference.
    ``top_agreement``: the share of the first labels that the reference has among its first, too.
    """

    output: str
    size: dict[str, int]
    max_error: float
    relative_error: float
    top_labels_equal: bool | None = None
    cosine: float | None = None
    top_agreement: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return plain values for bundle.json."""
        values = {"output": self.output, **self.size}
        values |= {"max_error": self.max_error, "relative_error": self.relative_error}
        for name in ("top_labels_equal", "cosine", "top_agreement"):
            if (value := getattr(self, name)) is not None:
                values[name] = value
        return values


def example_images(count: int, size: tuple[int, int], seed: int = _SEED) -> np.ndarray:
    """Return uint8 images ``[count, H, W, 3]``: smooth shapes with noise, each one different."""
    height, width = size
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:height, 0:width] / max(height, width)
    images = np.empty((count, height, width, 3), dtype=np.uint8)
    for image in images:
        waves = np.zeros((height, width, 3))
        for _ in range(4):
            direction, phase = random.uniform(-12, 12, 2), random.uniform(0, 6.28, 3)
            wave = direction[0] * rows + direction[1] * columns
            waves += np.sin(wave[..., None] + phase) * random.uniform(10, 40, 3)
        noise = random.normal(0, 12, (height, width, 3))
        image[:] = np.clip(waves + noise + random.uniform(60, 190, 3), 0, 255)
    return images


def example_labels(model: TaggingModel, count: int, seed: int = _SEED) -> np.ndarray:
    """Return ``count`` label embeddings: a few real ones, then others of their spread.

    ``[K, D]``, or more parts of D by head.
    """
    real = _embed(model, example_words(model.head))
    random = np.random.default_rng(seed)
    others = real.mean(axis=0) + random.normal(0, 1, (count, real.shape[1])) * real.std(axis=0)
    labels = np.concatenate([real, others])[:count].astype(np.float32)
    if model.head.normalises_labels:
        parts = labels.reshape(count, model.head.label_parts, -1)
        parts /= np.linalg.norm(parts, axis=2, keepdims=True)
    return labels


@torch.inference_mode()
def measure_parity(model: TaggingModel, bundle: Bundle, backend: Backend) -> list[Parity]:
    """Compare a bundle with PyTorch: features, attention and logits at every size, texts, labels.

    All logits of the head are compared, those of its branches apart. They are judged by the range
    they have over all labels, however few are compared. An encoder of lower precision is run with
    its roundings in the arithmetic of float32, for no CPU runs every precision as it is.
    """
    encode, matcher = _encoder(bundle, backend), backend.load(bundle, MATCHER, exact=True)
    labels = example_labels(model, max(LABEL_COUNTS))
    found: list[Parity] = []
    for batch in BATCHES:
        pixels = example_images(batch, bundle.preprocessing.size, _SEED + batch)
        outputs = encode(pixels)
        features = outputs["features"]
        expected, looked = _reference(model, pixels)
        found.append(_compare_features({"B": batch}, features, expected.numpy()))
        if looked is not None:
            found.append(_compare(ATTENTION, {"B": batch}, outputs[ATTENTION], looked.numpy()))
        reach = _logits(model, expected, labels)
        for count in LABEL_COUNTS:
            matched = matcher({"features": features, "labels": labels[:count]})
            size = {"B": batch, "K": count}
            if matched["winners"].shape != (batch, count):
                raise ExportError(f"The winners have shape {matched['winners'].shape} at {size}.")
            for name, wanted in _logits(model, expected, labels[:count]).items():
                found.append(
                    _compare_logits(name, size, np.asarray(matched[name]), wanted, reach[name])
                )
    return [*found, *_text_parity(model, bundle, backend)]


def require_parity(found: Sequence[Parity], precision: str = "fp32") -> None:
    """Raise ExportError naming the worst output if any misses what the precision allows.

    Only the encoder has a precision: texts and label embeddings are float32 always, and held to it.
    """
    exact = precision == "fp32"
    allowed = {} if exact else {p.output: ALLOWED[precision] for p in found if not _of_text(p)}
    allowed[ATTENTION] = ATTENTION_TOLERANCE[precision]
    wrong = [
        p
        for p in found
        if p.relative_error > allowed.get(p.output, TOLERANCE)
        or (exact and p.top_labels_equal is False)
    ]
    if wrong:
        worst = max(wrong, key=lambda p: p.relative_error / allowed.get(p.output, TOLERANCE))
        raise ExportError(
            f"The exported graphs do not agree with PyTorch: {worst.output} at {worst.size} has a "
            f"relative error of {worst.relative_error:.1e} (allowed "
            f"{allowed.get(worst.output, TOLERANCE):.0e}; top-{TOP} labels equal: "
            f"{worst.top_labels_equal}). Nothing was written."
            f"{'' if exact else ' Export with --precision fp32.'}"
        )


def summarise(found: Sequence[Parity]) -> list[Mapping[str, Any]]:
    """Return the worst figures of each output: what a person reads first."""
    rows: list[Mapping[str, Any]] = []
    for output in dict.fromkeys(p.output for p in found):
        some = [p for p in found if p.output == output]
        worst = max(some, key=lambda p: p.relative_error)
        rows.append({**worst.to_json(), "sizes": len(some)})
    return rows


def write_golden(model: TaggingModel, path: Path, count: int = 4) -> None:
    """Write golden inputs with the features and logits that PyTorch fp32 gives."""
    pixels = example_images(count, model.backbone.preprocessing.size)
    labels = example_labels(model, 32)
    with torch.inference_mode():
        features = model.encode(torch.from_numpy(pixels))
        logits, _ = model.match(features, torch.from_numpy(labels))
        texts = model.backbone.model.encode_text(model.backbone.tokenizer(list(PROMPTS)))
    words = dict(islice(example_words(model.head).items(), _GOLDEN_WORDS))
    arrays = {
        "pixels": pixels,
        "labels": labels,
        "features": features.numpy(),
        "logits": logits.numpy(),
        "prompts": np.frombuffer("\n".join(PROMPTS).encode(), dtype=np.uint8),
        "text_features": texts.numpy(),
        "words": np.frombuffer(format_grouped_labels(words).encode(), dtype=np.uint8),
        "label_embeddings": _embed(model, words),
    }
    save_file({name: np.ascontiguousarray(value) for name, value in arrays.items()}, path)


def _reference(model: TaggingModel, pixels: np.ndarray) -> tuple[Tensor, Tensor | None]:
    """Return features, and attention where the model looks."""
    images = torch.from_numpy(pixels)
    return (model.encode(images), None) if model.attention_grid is None else model.look(images)


def _of_text(parity: Parity) -> bool:
    return parity.output in ("text_features", "label_embeddings")


def _encoder(bundle: Bundle, backend: Backend) -> Callable[[np.ndarray], Mapping[str, np.ndarray]]:
    if bundle.precision != "fp32":
        return reference_outputs(onnx.load(bundle.file(ENCODER)))
    graph = backend.load(bundle, ENCODER)

    def encode(pixels: np.ndarray) -> dict[str, np.ndarray]:
        outputs = graph({"pixels": pixels}, also=(ATTENTION,))
        return {name: np.asarray(value) for name, value in outputs.items()}

    return encode


def _embed(model: TaggingModel, words: Mapping[str, str | None]) -> np.ndarray:
    labels, groups = split_groups(words)
    with torch.inference_mode():
        return model.embed_labels(labels, groups).numpy()


def _logits(model: TaggingModel, features: Tensor, labels: np.ndarray) -> dict[str, np.ndarray]:
    """All that the head gives but the winners."""
    outputs = model.head.outputs(features, torch.from_numpy(labels))
    return {name: value.numpy() for name, value in outputs.items() if name != "winners"}


def _text_parity(model: TaggingModel, bundle: Bundle, backend: Backend) -> list[Parity]:
    """The text graph at the prompts' own length against open_clip at its full length; labels."""
    expected = model.backbone.model.encode_text(model.backbone.tokenizer(list(PROMPTS)))
    encoder, words = TextEncoder(bundle, backend), example_words(model.head)
    labels = encoder.embed(words)
    return [
        _compare("text_features", {"P": len(PROMPTS)}, encoder.features(PROMPTS), expected.numpy()),
        _compare("label_embeddings", {"K": len(words)}, labels, _embed(model, words)),
    ]


def _compare(
    output: str,
    size: dict[str, int],
    value: np.ndarray,
    reference: np.ndarray,
    reach: np.ndarray | None = None,
) -> Parity:
    if value.shape != reference.shape:
        raise ExportError(
            f"{output} has shape {value.shape} at {size}; PyTorch gives {reference.shape}."
        )
    error = float(np.abs(value - reference).max())
    return Parity(output, size, error, relative_error(value, reference, reach))


def _compare_features(size: dict[str, int], value: np.ndarray, reference: np.ndarray) -> Parity:
    compared = _compare("features", size, value, reference)
    lengths = np.linalg.norm(value, axis=-1) * np.linalg.norm(reference, axis=-1)
    cosines = (value * reference).sum(axis=-1) / np.maximum(lengths, 1e-12)
    return replace(compared, cosine=float(cosines.min()))


def _compare_logits(
    output: str,
    size: dict[str, int],
    value: np.ndarray,
    reference: np.ndarray,
    reach: np.ndarray,
) -> Parity:
    compared = _compare(output, size, value, reference, reach)
    top = min(TOP, reference.shape[1])
    ours = np.argsort(-value, axis=1, kind="stable")[:, :top]
    theirs = -np.sort(-reference, axis=1)[:, :top]
    # Two labels as close as rounding may change places; any other order must be the same. (Not as
    # close as the error that was found: within that, every order is allowed by arithmetic.)
    allowed = _TIE * float(np.abs(reach).max())
    equal = bool((np.abs(np.take_along_axis(reference, ours, axis=1) - theirs) <= allowed).all())
    first = np.argsort(-reference, axis=1, kind="stable")[:, :top]
    shared = (ours[:, :, None] == first[:, None, :]).any(axis=2)
    return replace(compared, top_labels_equal=equal, top_agreement=float(shared.mean()))

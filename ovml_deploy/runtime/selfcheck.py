"""Runs a bundle's golden inputs, to see that a backend gives what PyTorch gave."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from ovml_deploy.errors import BundleError, DeviceError
from ovml_deploy.runtime.backends import AUTO, Backend, Graph, create_backend
from ovml_deploy.runtime.bundle import ENCODER, GOLDEN, MATCHER, Bundle
from ovml_deploy.runtime.labels import parse_grouped_labels
from ovml_deploy.runtime.text_encoder import TextEncoder

_GOLDEN_ARRAYS = ("pixels", "labels", "features", "logits", "prompts", "text_features")
_LABEL_ARRAYS = {"words", "label_embeddings"}
_SAME = 1e-6  # relative difference of the features of two images that were not told apart


@dataclass(frozen=True)
class Agreement:
    """How far one output is from PyTorch fp32 on the golden inputs, and how far it may be."""

    output: str
    relative_error: float
    tolerance: float


def relative_error(
    value: np.ndarray, reference: np.ndarray, reach: np.ndarray | None = None
) -> float:
    """Return max |value - reference| / max |reach|; infinite where a value is not finite.

    ``reach``: what the output ranges over (default: ``reference``), for a reference so small, such
    as one logit, that it may lie near zero by chance.
    """
    if value.shape != reference.shape or not np.isfinite(value).all():
        return float("inf")
    scale = max(float(np.abs(reference if reach is None else reach).max()), 1e-12)
    return float(np.abs(value.astype(np.float64) - reference).max() / scale)


def check_golden(
    bundle: Bundle, backend: Backend, encoder: Graph, matcher: Graph, images: int | None = None
) -> list[Agreement]:
    """Run golden images (the first ``images``, or all) through encoder and matcher.

    Raises DeviceError where two different images give the same features, or where features or
    logits miss PyTorch's by more than the backend's tolerance.
    """
    golden = _read_golden(bundle)
    pixels = golden["pixels"][:images]
    features = encoder({"pixels": pixels})["features"]
    logits = matcher({"features": features, "labels": golden["labels"]})["logits"]
    if relative_error(features[0], features[1]) <= _SAME:
        raise DeviceError(
            f"{backend.description} gives two different images the same features; it is not used. "
            "Choose another --device."
        )
    outputs = {"features": features, "logits": logits}
    return [
        _agreement(bundle, backend, name, value, golden[name][: len(pixels)])
        for name, value in outputs.items()
    ]


def verify(engine: str | Path, device: str = AUTO) -> list[Agreement]:
    """Run all golden inputs of a bundle, texts included, on a device.

    Raises BundleError or DeviceError where it does not agree with PyTorch.
    """
    bundle, backend = Bundle.open(engine), create_backend(device)
    encoder, matcher = backend.load(bundle.file(ENCODER)), backend.load(bundle.file(MATCHER))
    found = check_golden(bundle, backend, encoder, matcher)
    golden = _read_golden(bundle)
    prompts = golden["prompts"].tobytes().decode().split("\n")
    text_encoder = TextEncoder(bundle, backend)
    outputs = {"text_features": text_encoder.features(prompts)}
    if golden.keys() >= _LABEL_ARRAYS:  # bundles of an earlier release have none
        words = parse_grouped_labels(golden["words"].tobytes().decode())
        outputs["label_embeddings"] = text_encoder.embed(words)
    return [
        *found,
        *(
            _agreement(bundle, backend, name, value, golden[name])
            for name, value in outputs.items()
        ),
    ]


def _read_golden(bundle: Bundle) -> dict[str, np.ndarray]:
    path = bundle.file(GOLDEN)
    try:
        golden: dict[str, np.ndarray] = load_file(path)
    except (SafetensorError, ValueError, TypeError) as error:
        raise BundleError(f"{path} cannot be read ({error}). Export the bundle again.") from error
    missing = sorted(set(_GOLDEN_ARRAYS) - set(golden))
    if missing or len(golden["pixels"]) < 2:
        raise BundleError(
            f"{path} lacks {', '.join(missing) or 'a second image'}. Export the bundle again."
        )
    return golden


def _agreement(
    bundle: Bundle, backend: Backend, output: str, value: np.ndarray, reference: np.ndarray
) -> Agreement:
    error = relative_error(value, reference)
    if error > backend.tolerance:
        raise DeviceError(
            f"{backend.description} does not reproduce PyTorch on {bundle.path}: {output} has a "
            f"relative error of {error:.1e}, allowed is {backend.tolerance:.0e}. It is not used; "
            "choose another --device."
        )
    return Agreement(output, error, backend.tolerance)

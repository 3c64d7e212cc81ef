"""Runs a bundle's golden inputs, to see that a backend gives what PyTorch gave."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from ovml_deploy.errors import BundleError, DeviceError
from ovml_deploy.runtime.backends import Backend, Graph
from ovml_deploy.runtime.bundle import GOLDEN, Bundle
from ovml_deploy.runtime.precision import TOLERANCE

_GOLDEN_ARRAYS = ("pixels", "labels", "features", "logits", "prompts", "text_features")
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
    """Run the golden images through encoder and matcher: all at once, or the first ``images`` alone.

    One by one is how most callers send theirs, so that warms up what they will meet.

    Raises DeviceError where two different images give the same features, or where features or
    logits miss PyTorch's by more than the backend's precision allows.
    """
    golden = read_golden(bundle)
    pixels = golden["pixels"][:images]
    parts = [pixels] if images is None else np.split(pixels, len(pixels))
    kept = [encoder({"pixels": part}, keep=("features",))["features"] for part in parts]
    outputs = [matcher({"features": part, "labels": golden["labels"]}) for part in kept]
    features = np.concatenate([np.asarray(part) for part in kept])
    logits = np.concatenate([np.asarray(output["logits"]) for output in outputs])
    if not tells_images_apart(features):
        raise DeviceError(
            f"{backend.description} gives two different images the same features; it is not used. "
            "Choose another --device."
        )
    allowed = TOLERANCE[backend.precision]
    return [
        require_agreement(bundle, backend, name, value, golden[name][: len(pixels)], allowed)
        for name, value in (("features", features), ("logits", logits))
    ]


def check_texts(
    bundle: Bundle, backend: Backend, encode: Callable[[Sequence[str]], np.ndarray]
) -> Agreement:
    """Run the golden prompts. Raises DeviceError where their features are not PyTorch's."""
    golden = read_golden(bundle)
    name, prompts = "text_features", golden["prompts"].tobytes().decode().split("\n")
    allowed = TOLERANCE["fp32"]  # in every precision
    return require_agreement(bundle, backend, name, encode(prompts), golden[name], allowed)


def tells_images_apart(features: np.ndarray) -> bool:
    """Whether the features ``[B, M, D]`` of the first two images differ."""
    return relative_error(features[0], features[1]) > _SAME


def read_golden(bundle: Bundle) -> dict[str, np.ndarray]:
    """Return a bundle's golden inputs and outputs. Raises BundleError."""
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


def require_agreement(
    bundle: Bundle,
    backend: Backend,
    output: str,
    value: np.ndarray,
    reference: np.ndarray,
    allowed: float,
) -> Agreement:
    """Return how far an output is from its reference. Raises DeviceError where that is too far."""
    error = relative_error(value, reference)
    if error > allowed:
        raise DeviceError(
            f"{backend.description} does not reproduce PyTorch on {bundle.path}: {output} has a "
            f"relative error of {error:.1e}, allowed is {allowed:.0e}. It is not used; choose another "
            "--device or --precision."
        )
    return Agreement(output, error, allowed)

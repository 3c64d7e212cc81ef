"""Features as they are stored: two bytes or one for each number, and what that loses."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ovml_deploy.errors import UsageError

#: What numbers are stored as.
DTYPES: dict[str, np.dtype[Any]] = {"fp16": np.dtype("<f2"), "int8": np.dtype("i1")}

_MOST_FP16 = 65504.0
_STEPS = 127


@dataclass(frozen=True)
class Loss:
    """What stored features lack of exact ones, on the first ``images`` of an archive.

    ``relative_error``: the mean of ``|stored - exact| / |exact|``. ``top5_agreement``: the share of
    an image's five best tags that stay among the five, with the bundle's own vocabulary; None where
    it has none.
    """

    images: int
    relative_error: float
    top5_agreement: float | None = None


def check_precision(name: str) -> None:
    """Raise UsageError for a precision that features are not stored in."""
    if name not in DTYPES:
        raise UsageError(f"Features are stored in {' or '.join(DTYPES)}, not in {name!r}.")


def why_not_stored(features: np.ndarray, precision: str) -> str | None:
    """Return why an image's features ``[M, D]`` cannot be stored, None where they can."""
    most = float(np.abs(features).max())
    if not np.isfinite(most):
        return "the model gave features that are not finite"
    if precision == "fp16" and most > _MOST_FP16:
        return f"a feature is {most:.3g}, more than fp16 holds; use --precision int8"
    return None


def pack(
    features: np.ndarray, precision: str, centre: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Return the columns that stand for features ``[B, M, D]`` (float32).

    fp16: ``features``, rounded to nearest. int8: what they differ from ``centre`` ``[D]``, in steps of
    ``scales`` ``[B, M]`` (float32), a 127th of the greatest difference of each image's query. (Some
    numbers are large, and the same in all images; the steps need not span them.)
    """
    if precision == "fp16":
        with np.errstate(over="ignore"):  # see why_not_stored
            return {"features": features.astype(DTYPES[precision])}
    apart = features if centre is None else features - centre
    scales = np.abs(apart).max(axis=2).astype(np.float32) / np.float32(_STEPS)
    steps = apart / np.where(scales > 0, scales, 1)[..., None]
    packed = np.clip(np.rint(steps), -_STEPS, _STEPS).astype(DTYPES[precision])
    return {"features": packed, "scales": scales}


def unpack(
    columns: Mapping[str, np.ndarray],
    centre: np.ndarray | None = None,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Return features ``[B, M, D]`` (float32) of what :func:`pack` gave, exactly as stored.

    ``out``: where to, at least ``B`` long: memory that is fresh takes longer to get than to fill.
    """
    stored = columns["features"]
    features = np.empty(stored.shape, np.float32) if out is None else out[: len(stored)]
    if "scales" not in columns:
        _widen(stored, features)
        return features
    np.copyto(features, stored)
    np.multiply(features, columns["scales"][..., None], out=features)
    return features if centre is None else np.add(features, centre, out=features)


def _widen(half: np.ndarray, out: np.ndarray) -> None:
    """Copy finite float16 into float32, to the bit: NumPy's own way takes six times as long.

    Sign and the rest move to where float32 has them; the exponents then differ by 2^112.
    """
    bits = out.view(np.int32)
    np.copyto(bits, half.view(np.int16))
    np.left_shift(bits, 13, out=bits)
    np.bitwise_and(bits, np.int32(-0x70002000), out=bits)  # 0x8fffe000
    np.multiply(out, np.float32(2.0**112), out=out)


def relative_error(exact: np.ndarray, stored: np.ndarray) -> float:
    """Return the mean over images of ``|stored - exact| / |exact|``."""
    lost = np.linalg.norm((stored - exact).reshape(len(exact), -1), axis=1)
    whole = np.linalg.norm(exact.reshape(len(exact), -1), axis=1)
    return float(np.mean(lost / np.where(whole > 0, whole, 1)))


def top_agreement(exact: np.ndarray, stored: np.ndarray, top: int = 5) -> float:
    """Return the mean share of the ``top`` best of exact logits ``[B, K]`` that stored ones keep."""
    top = min(top, exact.shape[1])
    best, kept = (np.argsort(-logits, axis=1, kind="stable")[:, :top] for logits in (exact, stored))
    return float(np.mean([len({*a} & {*b}) / top for a, b in zip(best, kept, strict=True)]))

"""Compares a backend with PyTorch, stage by stage, on what the bundle holds of PyTorch's outputs."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ovml_deploy.errors import DeviceError, ImageError
from ovml_deploy.runtime.backends import (
    AUTO,
    DEVICES,
    candidates,
    create_backend,
    why_missing,
)
from ovml_deploy.runtime.bundle import Bundle
from ovml_deploy.runtime.engine import Engine, named_device
from ovml_deploy.runtime.images import open_image
from ovml_deploy.runtime.labels import parse_grouped_labels
from ovml_deploy.runtime.pictures import Picture, read_pictures
from ovml_deploy.runtime.plans import find_plans
from ovml_deploy.runtime.precision import TOLERANCE, why_not_on_cpu
from ovml_deploy.runtime.selfcheck import read_golden, relative_error, tells_images_apart
from ovml_deploy.runtime.vocabulary import Vocabulary

ALL = "all"

#: Greatest relative error of the logits of a float32 backend.
EXACT = 1e-5
TOP = 5

_PIXELS = ("pixels", "pixels of a JPEG")
_TAGS = "tags"
_LABEL_ARRAYS = {"words", "label_embeddings"}


@dataclass(frozen=True)
class Stage:
    """How far one output is from PyTorch fp32, and how far it may be (``allowed``).

    ``relative_error``: the greatest error over the greatest value; of "tags" the share that is not
    in both sets. ``cosine``: of the worst row. ``top_equal``: the share of the 5 best labels that
    are among PyTorch's 5 best.
    """

    output: str
    relative_error: float
    allowed: float
    max_error: float | None = None
    cosine: float | None = None
    top_equal: float | None = None
    error: str | None = None  #: why it could not be computed

    @property
    def ok(self) -> bool:
        """Whether it is as near as it must be."""
        return self.error is None and self.relative_error <= self.allowed

    def to_json(self) -> dict[str, Any]:
        """Return plain values, without those that this output has not."""
        known = {name: value for name, value in asdict(self).items() if value is not None}
        if not np.isfinite(self.relative_error):
            known["relative_error"] = None
        if self.max_error is not None and not np.isfinite(self.max_error):
            known["max_error"] = None
        return known | {"ok": self.ok}


def verify(engine: str | Path, device: str = AUTO, precision: str = AUTO) -> list[Stage]:
    """Return all stages of a bundle on a device; those that fail say so.

    Raises BundleError or DeviceError where the bundle cannot be loaded there. "auto" stands for the
    device that it chooses.
    """
    bundle, chosen = Bundle.open(engine), chosen_backend(engine, device, precision)
    return verify_engine(Engine.load(bundle, create_backend(*chosen, bundle.precision)))


def verify_engine(engine: Engine) -> list[Stage]:
    """Return all stages of a loaded engine. Raises BundleError for goldens that cannot be read."""
    golden = read_golden(engine.bundle)
    features, logits, tags = _images(engine, golden)
    return [*_pixels(engine.bundle), features, *_texts(engine, golden), logits, tags]


def failures(stages: Sequence[Stage]) -> list[str]:
    """Return in words which stages are further off than they may be."""
    return [
        f"{stage.output}: {stage.error}"
        if stage.error
        else f"{stage.output} has a relative error of {stage.relative_error:.1e}, allowed is "
        f"{stage.allowed:.0e}"
        for stage in stages
        if not stage.ok
    ]


def worst_error(stages: Sequence[Stage]) -> float:
    """Return the greatest relative error of the outputs that the model computes."""
    return max(s.relative_error for s in stages if s.output not in (*_PIXELS, _TAGS))


def chosen_backend(engine: str | Path, device: str, precision: str = AUTO) -> tuple[str, str]:
    """Return (device, precision) that a name stands for: those of "auto" are what it chooses."""
    device = named_device(engine, device)
    if device != AUTO:
        return device, precision
    backend = Engine.open(engine, device, precision).backend
    return backend.device, backend.precision


def present_backends(
    bundle: Bundle, precision: str = AUTO
) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Return (device, precision) of all that may run a bundle here, and (device, why not) of others.

    All that ``auto`` would try, and the bundle's plans. TensorRT is among the others, as it builds
    engines for minutes; it is verified where it is named.
    """
    here = [*candidates(precision, bundle.precision)]
    known = {device for device, _ in here}
    absent = [
        (device, why_missing(device) or _why_not_tried(bundle, device, precision))
        for device in DEVICES
        if device not in known
    ]
    plans, unreadable = find_plans(bundle.path)
    some = [plan.path for plan in plans if precision in (AUTO, plan.precision)]
    here += [(str(path), AUTO) for path in (*some, *unreadable)]  # loading those says why not
    return here, absent


def _why_not_tried(bundle: Bundle, device: str, precision: str) -> str:
    if device == "tensorrt":
        return "it builds engines for minutes at its first start; verify it with --device tensorrt"
    if device == "cpu" and (reason := why_not_on_cpu(bundle.precision)) is not None:
        return reason
    return f"it does not run this bundle in precision {precision} on this machine"


def _pixels(bundle: Bundle) -> Iterator[Stage]:
    """PNG must be exact; JPEG has an allowance, so it has a row of its own."""
    pictures = read_pictures(bundle)
    lossless = [picture for picture in pictures if picture.allowed == 0]
    for output, some in (
        (_PIXELS[0], lossless),
        (_PIXELS[1], [picture for picture in pictures if picture.allowed]),
    ):
        if some:
            allowed = max(picture.allowed for picture in some) / 255
            worst = max(_levels(bundle, picture) for picture in some)
            yield Stage(output, worst / 255, allowed, worst)


def _levels(bundle: Bundle, picture: Picture) -> float:
    """By how many levels of 255 our pixels differ from open_clip's."""
    try:
        pixels = bundle.preprocessing(open_image(picture.file))
    except ImageError:
        return float("inf")
    if pixels.shape != picture.pixels.shape:
        return float("inf")
    return float(np.abs(pixels.astype(int) - picture.pixels).max())


def _images(engine: Engine, golden: dict[str, np.ndarray]) -> Iterator[Stage]:
    """Features, logits and tags, through the calls that tagging makes."""
    precision = engine.backend.precision
    allowed = EXACT if precision == "fp32" else TOLERANCE[precision]
    try:
        kept = engine.encode(golden["pixels"])
    except DeviceError as error:
        for output in ("features", "logits", _TAGS):
            yield _failed(output, allowed, error)
        return
    features = np.asarray(kept)
    apart = None if tells_images_apart(features) else "two different images have the same features"
    yield _compare("features", features, golden["features"], TOLERANCE[precision], error=apart)
    try:
        logits, _ = engine.match(kept, golden_vocabulary(engine.bundle, golden))
    except DeviceError as error:
        for output in ("logits", _TAGS):
            yield _failed(output, allowed, error)
        return
    top = _top_equal(logits, golden["logits"])
    yield _compare("logits", logits, golden["logits"], allowed, top_equal=top)
    yield _compare_tags(logits, golden["logits"], allowed)


def golden_vocabulary(bundle: Bundle, golden: Mapping[str, np.ndarray]) -> Vocabulary:
    """Return the golden label embeddings as a vocabulary of labels without names."""
    labels = tuple(f"label {index}" for index in range(len(golden["labels"])))
    return Vocabulary("golden", labels, golden["labels"], bundle.text_hash, bundle.prompt_hash)


def _texts(engine: Engine, golden: dict[str, np.ndarray]) -> Iterator[Stage]:
    prompts = golden["prompts"].tobytes().decode().split("\n")
    outputs = {"text_features": lambda: engine.text_encoder.features(prompts)}
    if golden.keys() >= _LABEL_ARRAYS:  # bundles of an earlier release have none
        words = parse_grouped_labels(golden["words"].tobytes().decode())
        outputs["label_embeddings"] = lambda: engine.text_encoder.embed(words)
    for output, compute in outputs.items():
        try:
            yield _compare(output, compute(), golden[output], TOLERANCE["fp32"])
        except DeviceError as error:
            yield _failed(output, TOLERANCE["fp32"], error)


def _failed(output: str, allowed: float, error: DeviceError) -> Stage:
    return Stage(output, float("inf"), allowed, error=str(error))


def _compare(
    output: str,
    value: np.ndarray,
    reference: np.ndarray,
    allowed: float,
    top_equal: float | None = None,
    error: str | None = None,
) -> Stage:
    relative = relative_error(value, reference)
    if value.shape != reference.shape:
        return Stage(output, relative, allowed, error=f"shape {value.shape}, not {reference.shape}")
    greatest = float(np.abs(value.astype(np.float64) - reference).max())
    return Stage(output, relative, allowed, greatest, _cosine(value, reference), top_equal, error)


def _cosine(value: np.ndarray, reference: np.ndarray) -> float | None:
    """Of the worst row; None where a value is not finite."""
    a, b = (array.reshape(-1, array.shape[-1]).astype(np.float64) for array in (value, reference))
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    worst = float(((a * b).sum(axis=1) / np.maximum(lengths, 1e-30)).min())
    return worst if np.isfinite(worst) else None


def _top_equal(value: np.ndarray, reference: np.ndarray) -> float | None:
    if value.shape != reference.shape:
        return None
    count = min(TOP, reference.shape[1])
    ours, theirs = (np.argsort(-x, axis=1, kind="stable")[:, :count] for x in (value, reference))
    shared = [len({*a} & {*b}) for a, b in zip(ours.tolist(), theirs.tolist(), strict=True)]
    return sum(shared) / (count * len(shared))


def _compare_tags(value: np.ndarray, reference: np.ndarray, allowed: float) -> Stage:
    """Compare tag sets: the labels whose logit reaches the median of PyTorch's, half of all.

    The golden labels are of no vocabulary, so that they have no threshold, and the median is where
    most labels are near to theirs. Those that are nearer to it than the logits' allowed error may
    be on either side; no other may change.
    """
    if relative_error(value, reference) == float("inf"):
        return Stage(_TAGS, 1.0, 0.0)
    threshold = np.median(reference)
    ours, theirs = value >= threshold, reference >= threshold
    doubtful = np.abs(reference - threshold) <= allowed * np.abs(reference).max()
    either = int((ours | theirs).sum())
    return Stage(_TAGS, int((ours ^ theirs).sum()) / either, int(doubtful.sum()) / either)

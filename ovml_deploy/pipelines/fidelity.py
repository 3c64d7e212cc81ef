"""Verifies backends on a bundle: their stages, and their tags and mAP on images of one's own."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ovml_deploy.errors import DataError, DeviceError, UsageError
from ovml_deploy.pipelines.agreement import (
    MAX_MAP_CHANGE,
    MIN_TAG_AGREEMENT,
    TagsAndMap,
    compare_scores,
    map_change,
    mean_average_precision,
    tag_threshold,
)
from ovml_deploy.pipelines.calibrate import check_size
from ovml_deploy.pipelines.labelled_images import Labelled, targets_for
from ovml_deploy.pipelines.logits import collect_logits
from ovml_deploy.runtime.backends import AUTO, Backend, create_backend, why_missing
from ovml_deploy.runtime.bundle import Bundle
from ovml_deploy.runtime.engine import Engine
from ovml_deploy.runtime.results import scores_of
from ovml_deploy.runtime.tagger import Tagger, VocabularySource
from ovml_deploy.runtime.verified import GOLDENS, IMAGES, record
from ovml_deploy.runtime.verify import Stage, failures, verify_engine, worst_error

#: Called with (items, how many, what is done with them); passes the items on.
Progress = Callable[[Iterable[Any], int, str], Iterator[Any]]


@dataclass(frozen=True)
class ImageFigures:
    """How a backend's tags and mAP (percent) agree with the reference's; without labels no mAP."""

    images: int
    found: TagsAndMap
    map: float | None
    error: str | None = None  #: why they could not be compared

    def failures(self) -> list[str]:
        """Return in words which part of the gate it fails."""
        if self.error is not None:
            return [self.error]
        found, change = self.found, self.found.map_change
        failed = []
        if found.tag_agreement < MIN_TAG_AGREEMENT:
            failed.append(
                f"{100 * found.tag_agreement:.2f}% of {found.tags:,} tags are equal, at least "
                f"{100 * MIN_TAG_AGREEMENT:.0f}% must be"
            )
        if change is not None and not abs(change) <= MAX_MAP_CHANGE:
            failed.append(f"mAP changes by {change:+.2f} points, allowed are {MAX_MAP_CHANGE}")
        return failed


class Comparison:
    """Images and what a float32 reference gives for them, to compare other backends with."""

    def __init__(
        self,
        reference: Engine,
        paths: Sequence[str],
        labelled: Labelled | None = None,
        vocabulary: VocabularySource | None = None,
        threshold: float | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Run the reference on the images.

        ``labelled``: what is known of them, if anything is. ``vocabulary``: default the bundle's.
        ``threshold``: of a tag; default its calibration's, else 0.5. Raises VocabularyError,
        DataError.
        """
        self.vocabulary = Tagger.of(reference, vocabulary).vocabulary
        check_size(len(paths), len(self.vocabulary))
        self.threshold = tag_threshold(self.vocabulary, threshold)
        self._paths = paths
        self._progress = progress or (lambda items, total, what: iter(items))
        self.stages = verify_engine(reference)
        if wrong := failures(self.stages):
            raise DeviceError(
                f"{reference.backend.description} is what others are compared with, and is itself not "
                f"near to PyTorch on {reference.bundle.path}: {'; '.join(wrong)}. Export the bundle again."
            )
        self._reference = reference
        targets = None
        if labelled is not None:
            targets, _ = targets_for(labelled, self.vocabulary.labels)
        self._logits, kept, self.failed = self._run(reference)
        scores = self._scores(self._logits)
        compare_scores(scores, scores, self.threshold)  # there must be tags
        self._targets = None if targets is None else targets[kept]
        if self._targets is not None and not (self._targets == 1).any():
            raise DataError(
                "No image of --data has one of the vocabulary's labels, so there is no mAP."
            )

    @property
    def description(self) -> str:
        """What others are compared with, and how far that is from PyTorch."""
        return (
            f"{self._reference.backend.description}, which agrees with PyTorch fp32 to "
            f"{worst_error(self.stages):.1e}"
        )

    def of(self, engine: Engine) -> ImageFigures:
        """Run an engine on the images. One whose logits are not finite agrees in no tag."""
        same = _identity(engine.backend, engine.bundle)
        if same == _identity(self._reference.backend, self._reference.bundle):
            logits = self._logits
        else:
            try:
                logits, _, _ = self._run(engine)
            except DataError as error:
                return ImageFigures(len(self._logits), TagsAndMap(0, 0.0), None, str(error))
        before, after = self._scores(self._logits), self._scores(logits)
        found = compare_scores(before, after, self.threshold)
        if self._targets is None:
            return ImageFigures(len(logits), found, None)
        change = map_change(self._logits, logits, self._targets)
        found = TagsAndMap(found.tags, found.tag_agreement, change)
        return ImageFigures(len(logits), found, 100 * mean_average_precision(logits, self._targets))

    def _scores(self, logits: np.ndarray) -> np.ndarray:
        activation = self._reference.bundle.activation
        return scores_of(logits, activation, self.vocabulary.calibration)

    def _run(self, engine: Engine) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
        tagger, total = Tagger(engine), len(self._paths)
        encoded = self._progress(tagger.encode_many(self._paths), total, engine.backend.device)
        return collect_logits(tagger, self.vocabulary, encoded, total)


@dataclass(frozen=True)
class Report:
    """What was found of one backend on a bundle; ``images`` is None where none were compared."""

    bundle: Bundle
    backend: Backend
    stages: Sequence[Stage]
    images: ImageFigures | None

    def failures(self) -> list[str]:
        """Return in words why it is not to be used, if so."""
        return [*failures(self.stages), *(self.images.failures() if self.images else ())]

    def record(self, comparison: Comparison | None) -> Path:
        """Store it in the user's cache and return the file. Raises OSError."""
        stages = {"stages": [stage.to_json() for stage in self.stages]}
        path = record(self.bundle, self.backend, GOLDENS, stages, failures(self.stages))
        if self.images is not None and comparison is not None:
            figures = images_to_json(self.images, comparison)
            path = record(self.bundle, self.backend, IMAGES, figures, self.images.failures())
        return path


def images_to_json(figures: ImageFigures, comparison: Comparison) -> dict[str, Any]:
    """Return plain values, and what was compared with what."""
    return {
        "images": figures.images,
        "vocabulary": comparison.vocabulary.id,
        "threshold": comparison.threshold,
        "tags": figures.found.tags,
        "tags_equal": figures.found.tag_agreement,
        "map": figures.map,
        "map_change": figures.found.map_change,
        "reference": comparison.description,
    }


def verify_backend(
    bundle: Bundle, device: str, precision: str = AUTO, comparison: Comparison | None = None
) -> Report:
    """Verify one device on a bundle. Raises BundleError or DeviceError where it cannot be loaded.

    Where a stage cannot be computed, or gives no finite number, no images are compared.
    """
    engine = Engine.load(bundle, create_backend(device, precision, bundle.precision))
    stages = verify_engine(engine)
    usable = all(s.error is None and np.isfinite(s.relative_error) for s in stages)
    images = comparison.of(engine) if comparison is not None and usable else None
    return Report(bundle, engine.backend, stages, images)


def open_reference(bundle: Bundle, reference: str | Path | None = None) -> Engine:
    """Open the float32 bundle that others are compared with, on the CPU.

    ``reference``: that bundle, where this one is of lower precision. Raises UsageError where it is
    not the same model in float32.
    """
    chosen = bundle if reference is None else Bundle.open(reference)
    if chosen.precision != "fp32":
        raise UsageError(
            f"{chosen.path} is itself in {chosen.precision}, so its tags cannot be compared with those "
            "of float32. Name the float32 bundle it was made from with --reference."
        )
    if chosen.model_hash != bundle.model_hash:
        raise UsageError(
            f"--reference {chosen.path} holds another model than {bundle.path} (hash "
            f"{chosen.model_hash}, not {bundle.model_hash})."
        )
    device = "openvino" if why_missing("cpu") and not why_missing("openvino") else "cpu"
    return Engine.load(chosen, create_backend(device, "fp32", chosen.precision))


def _identity(backend: Backend, bundle: Bundle) -> tuple[str, str, Path]:
    return backend.device, backend.precision, bundle.path

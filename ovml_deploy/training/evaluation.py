"""Evaluates a bundle on a data set by the open-vocabulary protocol (DESIGN section 5); no torch.

The figures are of the logits: a label's average precision compares the images by its logit, and
the k best labels of an image are those of its greatest logits. No calibration enters.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np

from ovml_deploy.errors import DataError
from ovml_deploy.pipelines.logits import collect_logits
from ovml_deploy.runtime.tagger import Tagger
from ovml_deploy.runtime.text_encoder import Progress
from ovml_deploy.training.bootstrap import (
    DEFAULT_RESAMPLES,
    Interval,
    bootstrap_evaluation,
    check_resamples,
)
from ovml_deploy.training.data import Dataset, Split
from ovml_deploy.training.metrics import DEFAULT_TOP_K, split_columns

#: Passes items on while it shows how many of them are done: (items, their number, what they are).
Track = Callable[[Iterable[Any], int, str], Iterator[Any]]


@dataclass(frozen=True)
class Part:
    """One set of labels: how many, the images with a positive among them, and the metrics."""

    labels: int
    images: int
    metrics: Mapping[str, Interval]


@dataclass(frozen=True)
class Report:
    """What an evaluation found. ``parts``: "seen", "zsl", "gzsl", or "all" without unseen labels.

    ``images``: those that were evaluated; ``failed``: why others could not be, one line each.
    """

    parts: Mapping[str, Part]
    images: int
    failed: tuple[str, ...]


def evaluate_bundle(
    tagger: Tagger,
    dataset: Dataset,
    split: Split,
    ks: Sequence[int] = DEFAULT_TOP_K,
    resamples: int = DEFAULT_RESAMPLES,
    batch_size: int = 8,
    track: Track | None = None,
    progress: Progress | None = None,
) -> Report:
    """Tag the images of ``dataset`` with the labels of ``split`` and measure, with intervals.

    Images that cannot be read are left out and listed. ``track`` and ``progress`` show how far it
    is. Raises DataError where nothing is left to measure, LabelError for labels that cannot be used,
    UsageError for more resamples than memory holds.
    """
    show = track or _pass_on
    check_resamples(len(dataset.records), resamples)
    targets = dataset.targets(split.labels)
    if not (targets == 1).any():
        raise DataError(f"No image of {str(dataset.source)!r} has one of the labels.")
    # a data set's labels are as they are: those that the model cannot tell apart are warned of
    vocabulary = tagger.make_vocabulary(split.labels, progress, allow_same=True)
    paths = [record.path for record in dataset.records]
    with closing(tagger.encode_many(paths, batch_size)) as images:
        encoded = show(images, len(paths), "tagging")
        scores, kept, failed = collect_logits(tagger, vocabulary, encoded, len(paths))
    columns = split_columns(len(split.seen), len(split.labels))
    targets = targets[kept]
    parts = {
        name if split.unseen else "all": _measure(scores[:, part], targets[:, part], ks, resamples)
        for name, part in show(columns.items(), len(columns), "intervals")
    }
    return Report(parts, len(kept), failed)


def _measure(scores: np.ndarray, targets: np.ndarray, ks: Sequence[int], resamples: int) -> Part:
    return Part(
        labels=scores.shape[1],
        images=int((targets == 1).any(axis=1).sum()),
        metrics=bootstrap_evaluation(scores, targets, ks, resamples),
    )


def _pass_on(items: Iterable[Any], total: int, what: str) -> Iterator[Any]:
    return iter(items)

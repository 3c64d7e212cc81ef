"""What a trainer reads: cached features of chosen images, with their targets and labels."""

import hashlib
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from ovml_deploy.errors import DataError
from ovml_deploy.training.data import POSITIVE, Split
from ovml_deploy.training.features import FeatureCache


@dataclass(frozen=True)
class Examples:
    """Some images of a cache: their positions ``[n]`` and targets int8 ``[n, K]``, seen first."""

    cache: FeatureCache
    images: np.ndarray
    targets: np.ndarray

    @classmethod
    def readable(cls, cache: FeatureCache, targets: np.ndarray) -> "Examples":
        """Take the images that could be read, of targets ``[N, K]`` of all of them."""
        return cls(cache, cache.readable, targets[cache.readable])

    def split(self, fraction: float, seed: int) -> tuple["Examples", "Examples | None"]:
        """Take ``fraction`` (at least one image if it is not 0) away for validation, at random."""
        count = len(self.images)
        taken = min(max(1, round(fraction * count)), count - 1) if fraction > 0 else 0
        if taken == 0:
            return self, None
        order = np.random.default_rng([seed, count]).permutation(count)
        return self._select(np.sort(order[taken:])), self._select(np.sort(order[:taken]))

    def fingerprint(self) -> str:
        """Return a hash of which images and targets these are."""
        digest = hashlib.sha256(self.cache.key.encode())
        digest.update(np.ascontiguousarray(self.images).data)
        digest.update(np.ascontiguousarray(self.targets).data)
        return digest.hexdigest()

    def _select(self, rows: np.ndarray) -> "Examples":
        return Examples(self.cache, self.images[rows], self.targets[rows])


@dataclass(frozen=True)
class TrainingData:
    """Examples, labels and their embeddings float32 ``[K, D]``, seen labels first.

    Raises DataError where nothing can be learnt or measured.
    """

    train: Examples
    val: Examples | None
    split: Split
    embeddings: Tensor

    def __post_init__(self) -> None:
        if not (self.train.targets[:, : len(self.split.seen)] == POSITIVE).any():
            raise DataError(
                f"None of the {len(self.train.images)} readable training images has a positive "
                f"label among the {len(self.split.seen)} to train on."
            )
        if self.val is not None and not (self.val.targets == POSITIVE).any():
            raise DataError(
                f"None of the {len(self.val.images)} readable validation images has a positive "
                "label. Give more --val data, a larger --val-fraction, or --val-fraction 0."
            )

    def fingerprint(self) -> str:
        """Return a hash of images, targets, labels and embeddings."""
        digest = hashlib.sha256(repr(self.split).encode())
        digest.update(self.embeddings.cpu().contiguous().numpy().data)
        for examples in (self.train, self.val):
            digest.update(examples.fingerprint().encode() if examples else b"none")
        return digest.hexdigest()

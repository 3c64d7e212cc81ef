"""The tuned labels of a prompt-tuned bundle: tokens that only they have are in their embeddings."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from ovml_deploy.errors import BundleError, LabelError
from ovml_deploy.runtime.bundle import TUNED, Bundle
from ovml_deploy.runtime.labels import format_grouped_labels, parse_grouped_labels


@dataclass(frozen=True, eq=False)
class TunedLabels:
    """Tuned labels, the group of each, and their embeddings ``[K, 2 * D]`` (float32)."""

    group_of: Mapping[str, str | None]
    embeddings: np.ndarray

    def save(self, path: Path) -> None:
        """Write a ``.safetensors`` file; the same labels and numbers give the same bytes."""
        text = np.frombuffer(format_grouped_labels(self.group_of).encode(), dtype=np.uint8)
        save_file({"embeddings": self.embeddings, "labels": text}, path)

    @classmethod
    def read(cls, bundle: Bundle) -> "TunedLabels":
        """Read those of a bundle. Raises BundleError for a file that was changed or does not fit."""
        path = bundle.file(TUNED)
        try:
            arrays = load_file(path)
            group_of = parse_grouped_labels(arrays["labels"].tobytes().decode())
            embeddings = arrays["embeddings"]
        except (SafetensorError, KeyError, ValueError, TypeError, LabelError) as error:
            raise BundleError(
                f"{path} holds no tuned labels ({error}). Export the bundle again."
            ) from error
        shape = (len(group_of), bundle.label_dim)
        if embeddings.shape != shape or embeddings.dtype != np.float32:
            raise BundleError(
                f"{path} must hold embeddings {list(shape)} of float32; these are "
                f"{list(embeddings.shape)} of {embeddings.dtype}. Export the bundle again."
            )
        if not np.isfinite(embeddings).all():
            raise BundleError(
                f"{path} holds embeddings that are not finite. Export the bundle again."
            )
        return cls(group_of, embeddings)

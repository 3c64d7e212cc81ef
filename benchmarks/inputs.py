"""What benchmarks feed to models: photographs, and words that nobody chose."""

from pathlib import Path

import numpy as np

from ovml_deploy import assets
from ovml_deploy.runtime.bundle import Bundle
from ovml_deploy.runtime.vocabulary import Vocabulary

_PHOTOGRAPHS = 200


def photographs(folder: str | Path, some: int = _PHOTOGRAPHS) -> list[Path]:
    """Return at least ``some`` of a folder's JPEG files if it has them, else the samples."""
    paths = sorted(Path(folder).glob("*.jpg")) or assets.sample_photographs()
    return paths[:: max(1, len(paths) // some)]


def random_vocabulary(bundle: Bundle, labels: int) -> Vocabulary:
    """Return so many labels with random embeddings: speed does not depend on what they are."""
    embeddings = np.random.default_rng(0).normal(size=(labels, bundle.label_dim))
    names = tuple(f"label {index}" for index in range(labels))
    return Vocabulary("random", names, embeddings, bundle.text_hash, bundle.prompt_hash)

"""The logits of many images for one vocabulary, to calibrate or to evaluate with."""

from collections.abc import Iterable

import numpy as np

from ovml_deploy.errors import DataError, ImageError
from ovml_deploy.runtime.iteration import batches
from ovml_deploy.runtime.tagger import Tagger
from ovml_deploy.runtime.vocabulary import Vocabulary

_IMAGES_AT_ONCE = 8


def collect_logits(
    tagger: Tagger,
    vocabulary: Vocabulary,
    encoded: Iterable[tuple[str, np.ndarray | ImageError]],
    images: int,
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Match what :meth:`Tagger.encode_many` gives of ``images`` images, as it comes.

    Returns logits float32 ``[N, K]`` of those that could be read, their positions ``[N]``, and what
    was wrong with the others. Raises DataError where none is left, or a logit is not finite.
    """
    logits = np.empty((images, len(vocabulary)), dtype=np.float32)
    kept: list[int] = []
    failed: list[str] = []
    for batch in batches(enumerate(encoded), _IMAGES_AT_ONCE):
        good = [(n, found) for n, (_, found) in batch if not isinstance(found, ImageError)]
        failed += [str(found) for _, (_, found) in batch if isinstance(found, ImageError)]
        if good:
            rows = slice(len(kept), len(kept) + len(good))
            logits[rows] = tagger.match(np.stack([found for _, found in good]), vocabulary)
            kept += [n for n, _ in good]
    if not kept:
        raise DataError(f"None of the {images} images can be read. The first: {failed[0]}")
    if not np.isfinite(logits[: len(kept)]).all():
        raise DataError(
            "Some logits are not finite: the model gave nan or infinity. Check the bundle: "
            f"ovml-deploy verify --engine {tagger.bundle.path}"
        )
    return logits[: len(kept)], np.array(kept, dtype=np.intp), tuple(failed)

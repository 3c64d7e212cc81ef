"""The columns that come out are the tags that the Tagger selects, image by image."""

import numpy as np
import pytest

from ovml_deploy.pipelines.archives.selection import Selection
from ovml_deploy.runtime.calibration import Calibration
from ovml_deploy.runtime.results import Tag, select_tags
from ovml_deploy.runtime.vocabulary import Vocabulary

IMAGES, LABELS = 9, 37


def vocabulary(calibrated: bool) -> Vocabulary:
    offsets = np.random.default_rng(2).normal(size=LABELS)
    return Vocabulary(
        "few",
        tuple(f"label {i}" for i in range(LABELS)),
        np.zeros((LABELS, 2), np.float32),
        "text",
        "prompts",
        Calibration(1.7, offsets, threshold=0.4) if calibrated else None,
    )


@pytest.mark.parametrize("tile", [LABELS, 10, 1])
@pytest.mark.parametrize("top_k", [1, 5, 100, None])
@pytest.mark.parametrize("threshold", [None, 0.3])
@pytest.mark.parametrize("kind", ["sigmoid", "softmax", "calibrated"])
def test_selects_as_select_tags(tile, top_k, threshold, kind) -> None:
    random = np.random.default_rng(5)
    logits = random.normal(size=(IMAGES, LABELS)).astype(np.float32)
    logits[:4] = np.round(logits[:4] * 2) / 2  # many of them equal
    logits[4] = 0.25
    winners = random.integers(0, 12, (IMAGES, LABELS))
    words = vocabulary(kind == "calibrated")
    activation = "softmax" if kind == "softmax" else "sigmoid"
    selection = Selection(IMAGES, min(top_k or LABELS, LABELS), kind == "softmax")
    ranks = logits if words.calibration is None else words.calibration.logits(logits)
    for first in range(0, LABELS, tile):
        part = slice(first, first + tile)
        selection.add(first, logits[:, part], winners[:, part], ranks[:, part])
    default = words.calibration.threshold if words.calibration else None
    found = selection.result(default if threshold is None else threshold)

    ends = np.cumsum(found.counts)
    for image in range(IMAGES):
        wanted = select_tags(logits[image], winners[image], words, activation, top_k, threshold)
        at = range(ends[image] - found.counts[image], ends[image])
        mine = tuple(
            Tag(words.labels[found.labels[i]], found.scores[i], found.logits[i], found.queries[i])
            for i in at
        )
        if kind == "softmax" and tile < LABELS:  # the sum is taken in another order
            assert [t.score for t in mine] == pytest.approx([t.score for t in wanted], rel=1e-12)
            mine = tuple(
                Tag(t.label, w.score, t.logit, t.query) for t, w in zip(mine, wanted, strict=True)
            )
        assert mine == wanted

    some = np.array([3, 3, 0, 8])
    taken = found.take(some)
    assert taken.counts.tolist() == found.counts[some].tolist()
    pieces = [found.labels[ends[i] - found.counts[i] : ends[i]] for i in some]
    assert taken.labels.tolist() == np.concatenate(pieces).tolist()

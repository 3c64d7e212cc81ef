"""What is promised of the embedded model's tags, on photographs that nothing was fitted to."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from ovml_deploy import assets
from ovml_deploy.runtime.bundle import Bundle
from ovml_deploy.runtime.results import TagResult
from ovml_deploy.runtime.tagger import Tagger
from ovml_deploy.runtime.vocabulary import load_named
from ovml_deploy.training.data.text_files import read_lines
from ovml_deploy.training.mini.taxonomy import TRUE, Taxonomy
from ovml_deploy.training.mini.towers import imagenet_offsets
from ovml_deploy.training.mini.words import VOCABULARY_FILE, split_words
from ovml_deploy.training.scenes import read_pictures, split_pictures
from ovml_deploy.training.wordnet import DATA_FILE, NounIndex, WordNet

PHOTOS = Path(__file__).parents[4] / "shared" / "photos"


def test_the_default_vocabulary_is_the_committed_list_and_calibrated() -> None:
    bundle = Bundle.open(assets.MINI)
    vocabulary = load_named(bundle, str(bundle.default_vocabulary))
    assert list(vocabulary.labels) == read_lines(VOCABULARY_FILE)
    assert vocabulary.calibration is not None
    assert vocabulary.calibration.threshold >= 0.5


def test_the_bundle_is_at_most_40_megabytes() -> None:
    assert sum(f.stat().st_size for f in assets.MINI.rglob("*") if f.is_file()) <= 40e6


@pytest.mark.skipif(not PHOTOS.is_dir(), reason="../shared/photos is not here")
@pytest.mark.skipif(not DATA_FILE.is_file(), reason="apt-get install wordnet-base")
def test_default_tags_are_few_and_true() -> None:
    """At least 70% of them are right by WordNet, at two or more a photograph."""
    taxonomy = Taxonomy(WordNet.load(), imagenet_offsets())
    test = split_pictures(read_pictures(PHOTOS)).test
    tagger = Tagger.load(assets.MINI)
    results = [*tagger.tag_many(photo.path for photo in test)]
    words = split_words(taxonomy, [], NounIndex.load()).all_names.lookup(tagger.vocabulary.labels)
    truth = words.true_of(taxonomy.shown([[photo.offset] for photo in test])).numpy() == TRUE
    right, given = _count(results, words.texts, truth)
    assert right / given >= 0.7
    assert given / len(test) >= 2


def _count(
    results: Sequence[TagResult], texts: Sequence[str], truth: np.ndarray
) -> tuple[int, int]:
    column = {text: index for index, text in enumerate(texts)}
    hits = [
        bool(row[column[tag.label]])
        for result, row in zip(results, truth, strict=True)
        for tag in result
    ]
    return sum(hits), len(hits)

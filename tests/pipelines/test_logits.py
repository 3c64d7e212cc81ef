"""Logits collected as images come."""

import numpy as np
import pytest

from ovml_deploy.errors import DataError
from ovml_deploy.pipelines.logits import collect_logits


def test_logits_are_collected_past_bad_images(tiny_tagger, pictures, tmp_path) -> None:
    absent = tmp_path / "absent.jpg"
    paths = [absent, *pictures[:2], absent, pictures[2]]
    vocabulary = tiny_tagger.make_vocabulary("others")
    logits, kept, failed = collect_logits(
        tiny_tagger, vocabulary, tiny_tagger.encode_many(paths), len(paths)
    )
    assert kept.tolist() == [1, 2, 4]
    assert failed == (f"{absent}: there is no such file.",) * 2
    expected = tiny_tagger.match(tiny_tagger.encode(pictures[:3]), vocabulary)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
    assert logits.dtype == np.float32


def test_nothing_is_collected_of_bad_images_alone(tiny_tagger, tmp_path) -> None:
    absent = [tmp_path / "absent.jpg"] * 2
    vocabulary = tiny_tagger.make_vocabulary("others")
    with pytest.raises(DataError, match=r"None of the 2 images can be read\. The first: .*absent"):
        collect_logits(tiny_tagger, vocabulary, tiny_tagger.encode_many(absent), 2)


def test_logits_that_are_not_finite_are_an_error(tiny_tagger) -> None:
    shape = (tiny_tagger.bundle.features_per_image, tiny_tagger.bundle.embed_dim)
    encoded = [("a", np.zeros(shape, np.float32)), ("b", np.full(shape, np.nan, np.float32))]
    with pytest.raises(DataError, match=r"not finite.*ovml-deploy verify --engine"):
        collect_logits(tiny_tagger, tiny_tagger.vocabulary, encoded, 2)

"""The embedded model with a few of its calibrated words."""

from dataclasses import replace

import pytest

pytest.importorskip("av", reason="the extra 'video' (av) is not installed")

from ovml_deploy import assets
from ovml_deploy.runtime.tagger import Tagger

#: What the embedded model sees in some of the sample photographs, in its own words.
SEEN = {"cat": "cat", "coffee": "beverage", "temple": "building", "rocket": "missile"}


@pytest.fixture(scope="session")
def embedded() -> Tagger:
    """Never swap its vocabulary: it is shared."""
    if not (assets.MINI / "bundle.json").exists():
        pytest.skip("the embedded model is not built")
    tagger = Tagger.load(assets.MINI)
    whole, words = tagger.vocabulary, tuple(SEEN.values())
    places = [whole.labels.index(word) for word in words]
    assert whole.calibration is not None
    offsets = whole.calibration.offsets[places]
    tagger.use_vocabulary(
        replace(
            whole,
            name="seen",
            labels=words,
            embeddings=whole.embeddings[places],
            calibration=replace(whole.calibration, offsets=offsets),
        )
    )
    return tagger

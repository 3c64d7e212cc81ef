"""Encoding pictures and scenes with a backbone."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from ovml_deploy.models.backbone import Backbone
from ovml_deploy.training.mini.features import Encoded, PictureReader
from ovml_deploy.training.mini.taxonomy import Taxonomy
from ovml_deploy.training.scenes import Picture, Scene, singles

DOG, TABBY, ORANGE = "n00000006", "n00000004", "n00000009"


@pytest.fixture
def reader(tiny_clip: Any, taxonomy: Taxonomy) -> PictureReader:
    return PictureReader(Backbone.load(tiny_clip), taxonomy)


def test_scenes_are_encoded_in_order_across_batches(
    reader: PictureReader, draw_pictures: Callable[..., list[Picture]]
) -> None:
    photos = draw_pictures("photos", 35, (DOG, TABBY))
    encoded = reader.scenes(singles(photos))
    assert encoded.tokens.dtype == torch.float16
    assert encoded.tokens.shape == (35, 17, 64)
    assert torch.equal(encoded.shown, reader.taxonomy.shown([[photo.offset] for photo in photos]))
    for number in (0, 31, 32, 34):
        alone = reader.scenes(singles(photos[number : number + 1]))
        distances = (encoded.tokens - alone.tokens).float().abs().amax(dim=(1, 2))
        assert distances.argmin() == number
        assert distances[number] < 0.01


def test_scenes_keep_all_that_they_show(
    reader: PictureReader, draw_pictures: Callable[..., list[Picture]]
) -> None:
    contents = [(DOG, ORANGE), (TABBY,), ()]
    images = [photo.open() for photo in draw_pictures("photos", 3, (DOG,))]
    encoded = reader.scenes(map(Scene, images, contents))
    assert torch.equal(encoded.shown, reader.taxonomy.shown(contents))


def test_any_encoder_sees_the_normalised_pictures(
    reader: PictureReader, draw_pictures: Callable[..., list[Picture]]
) -> None:
    images = [photo.open() for photo in draw_pictures("photos", 2, (DOG,))]
    seen = reader.encode(images, lambda batch: batch)
    assert seen.shape == (2, 3, reader.size, reader.size)
    pixels = torch.tensor(reader.backbone.preprocessing(images[1]))
    assert torch.equal(seen[1:], reader.backbone.normalise(pixels[None]))


def test_encoded_pictures_are_joined() -> None:
    first = Encoded(torch.zeros(2, 3, 4), torch.zeros(2, 5, dtype=torch.bool))
    second = Encoded(torch.ones(1, 3, 4), torch.ones(1, 5, dtype=torch.bool))
    both = first.plus(second)
    assert both.tokens[:, 0, 0].tolist() == [0, 0, 1]
    assert both.shown[:, 0].tolist() == [False, False, True]

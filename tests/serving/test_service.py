"""What all fronts of the server share."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest

from ovml_deploy.errors import OverloadedError, UsageError
from ovml_deploy.runtime.engine import Engine
from ovml_deploy.runtime.images import open_image
from ovml_deploy.runtime.vocabulary import Vocabulary
from ovml_deploy.serving.errors import StoppingError
from ovml_deploy.serving.service import Choice, Service
from ovml_deploy.serving.settings import Settings

_Found = TypeVar("_Found")


def with_service(engine: Engine, work: Callable[[Service], Awaitable[_Found]]) -> _Found:
    async def run() -> _Found:
        service = Service(engine, Settings())
        try:
            return await work(service)
        finally:
            await asyncio.to_thread(service.close)

    return asyncio.run(run())


def test_look_gives_the_engine_s_attention(engine: Engine, pictures: list[Path]) -> None:
    images = [path.read_bytes() for path in pictures[:2]]
    found = with_service(engine, lambda service: service.look([*images, b"none"]))
    for item, path in zip(found, pictures, strict=False):
        if item is found[-1]:
            break
        expected = engine.look(engine.bundle.preprocessing(open_image(path))[None])
        np.testing.assert_allclose(item.attention, expected[0], rtol=1e-4, atol=1e-6)
    assert found[0].attention.shape[1:] == engine.bundle.attention_grid
    assert found[-1].attention is None
    assert "not an image" in str(found[-1].error)


def test_a_model_that_does_not_tell_where_it_looked_says_so(tuned_bundle: Path) -> None:
    engine = Engine.open(tuned_bundle, "cpu")
    with pytest.raises(UsageError, match="does not tell where"):
        with_service(engine, lambda service: service.look([b""]))


def test_an_answer_of_too_many_tags_is_refused_before_any_work(engine: Engine) -> None:
    bundle = engine.bundle
    labels = tuple(f"label {index}" for index in range(10_000))
    embeddings = np.ones((len(labels), bundle.label_dim), dtype=np.float32)
    choice = Choice(Vocabulary("many", labels, embeddings, bundle.text_hash, bundle.prompt_hash))
    features = np.zeros((21, bundle.features_per_image, bundle.embed_dim), dtype=np.float32)
    size = (21, *bundle.preprocessing.size, 3)
    for work in (
        lambda service: service.tag([b""] * 21, choice, None),
        lambda service: service.tag_pixels(np.zeros(size, dtype=np.uint8), choice, 9_999),
        lambda service: service.match(features, choice, None),
    ):
        with pytest.raises(UsageError, match=r"21 images of .* tags are too much"):
            with_service(engine, work)
    tags = with_service(engine, lambda service: service.match(features[:20], choice, None))
    assert [len(some) for some in tags] == [10_000] * 20


def test_what_came_before_the_end_is_finished(engine: Engine, pictures: list[Path]) -> None:
    image = pictures[0].read_bytes()

    async def work(service: Service) -> int:
        service.stopping = True
        with pytest.raises(StoppingError, match="The server stops"):
            service.check_room()
        choice = await service.choose(labels=["cat", "never seen before"])
        return len((await service.tag([image], choice))[0].tags)

    assert with_service(engine, work) == 2


def test_bytes_of_bodies_are_counted_for_all_fronts(engine: Engine) -> None:
    async def work(service: Service) -> None:
        most = service.settings.max_bytes_inside
        service.take_bytes(most)
        with pytest.raises(OverloadedError, match="Too many bytes"):
            service.take_bytes(1)
        service.drop_bytes(1 + most)
        service.take_bytes(most)

    with_service(engine, work)

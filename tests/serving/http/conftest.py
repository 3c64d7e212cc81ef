"""A server of the tiny bundle, and an engine that can be held up."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from in_process import Held, Served, served

from ovml_deploy.runtime.engine import Engine
from ovml_deploy.runtime.tagger import Tagger


@pytest.fixture(scope="module")
def server(engine: Engine) -> Iterator[Served]:
    with served(engine) as server:
        yield server


@pytest.fixture
def held(engine: Engine) -> Iterator[Held]:
    held = Held(engine)
    yield held
    held.open.set()


@pytest.fixture(scope="session")
def tagger(engine: Engine) -> Tagger:
    return Tagger.of(engine)


@pytest.fixture(scope="session")
def images(pictures: list[Path]) -> list[bytes]:
    return [path.read_bytes() for path in pictures]

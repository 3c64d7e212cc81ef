"""Pictures as they are sent, and what the Tagger says of them."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from in_process import Held

from ovml_deploy.runtime.engine import Engine
from ovml_deploy.runtime.tagger import Tagger


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

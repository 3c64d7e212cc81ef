"""An engine for the server's tests, ways to hold it up, and pictures as they are sent."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from in_process import Held, Served, served
from stores import Gate

from ovml_deploy.runtime.engine import Engine
from ovml_deploy.runtime.tagger import Tagger


@pytest.fixture(scope="session")
def engine(tiny_bundle: Path) -> Engine:
    return Engine.open(tiny_bundle, "cpu")


@pytest.fixture
def gate(engine: Engine) -> Iterator[Any]:
    gate = Gate(engine)
    yield gate
    gate.open.set()


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

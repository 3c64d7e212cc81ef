"""An engine for the server's tests, and one that can be held up."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from stores import Gate

from ovml_deploy.runtime.engine import Engine


@pytest.fixture(scope="session")
def engine(tiny_bundle: Path) -> Engine:
    return Engine.open(tiny_bundle, "cpu")


@pytest.fixture
def gate(engine: Engine) -> Iterator[Any]:
    gate = Gate(engine)
    yield gate
    gate.open.set()

"""A Ray of this machine alone."""

from collections.abc import Iterator
from typing import Any

import pytest
from local_ray import local_ray

pytest.importorskip("pyarrow", reason="the extra 'archives' (pyarrow) is not installed")
pytest.importorskip("ray.data", reason="ray[data] is not installed")


@pytest.fixture
def started_ray() -> Iterator[Any]:
    import ray

    with local_ray(2, {}):
        yield ray

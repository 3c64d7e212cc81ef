"""A server in a thread of the test's own process, so that a test can look into it."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import uvicorn
from http_client import Client

from ovml_deploy.runtime.engine import Engine
from ovml_deploy.serving.server import Address, http_config
from ovml_deploy.serving.service import Service
from ovml_deploy.serving.settings import Settings

_SOON = 60.0  # seconds after which something hangs


@dataclass(frozen=True)
class Served(Client):
    """A server that listens, and what it is made of."""

    service: Service
    server: uvicorn.Server

    def metric(self, name: str, **labels: str) -> float:
        """Return what it counted; 0 where it did not yet."""
        return self.service.metrics.registry.get_sample_value(name, labels) or 0.0


@contextmanager
def served(
    engine: Engine | Any,
    settings: Settings | None = None,
    local: bool = True,
    died: Callable[[], None] | None = None,
) -> Iterator[Served]:
    """Yield a server on a free port, as ``ovml-deploy serve`` makes one."""
    listener = Address(port=0).bind()
    started = threading.Event()
    made: list[tuple[Service, uvicorn.Server]] = []

    async def serve() -> None:
        service = Service(engine, settings or Settings(), died)
        server = uvicorn.Server(http_config(service, local))
        made.append((service, server))
        serving = asyncio.ensure_future(server.serve([listener]))
        while not server.started:
            await asyncio.sleep(0.001)
        started.set()
        await serving
        await asyncio.to_thread(service.close, False)

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        assert started.wait(_SOON)
        service, server = made[0]
        yield Served(f"http://127.0.0.1:{listener.getsockname()[1]}", service, server)
    finally:
        if isinstance(engine, Held):
            engine.open.set()
        if made:
            made[0][1].should_exit = True
        thread.join()
        listener.close()


class Held:
    """A real engine whose encoder waits until it is let go; ``error`` is then raised instead."""

    def __init__(self, engine: Engine) -> None:
        self.open = threading.Event()
        self.batches: list[int] = []
        self.error: BaseException | None = None
        self._engine = engine

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def encode(self, pixels: np.ndarray) -> Any:
        self.batches.append(len(pixels))
        assert self.open.wait(_SOON)
        if self.error is not None:
            raise self.error
        return self._engine.encode(pixels)


def until(happened: Callable[[], Any]) -> None:
    """Wait for something that will happen soon."""
    end = time.monotonic() + _SOON
    while not happened():
        assert time.monotonic() < end, "this never happened"
        time.sleep(0.005)

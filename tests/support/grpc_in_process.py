"""A gRPC server in a thread of the test's own process, and calls without any client library's help."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc

from ovml_deploy.serving.kserve import messages
from ovml_deploy.serving.kserve.grpc import GrpcServer, start
from ovml_deploy.serving.service import Service
from ovml_deploy.serving.settings import Settings

_SOON = 60.0  # seconds after which something hangs


@dataclass(frozen=True)
class GrpcServed:
    """A server that listens, and what it is made of."""

    service: Service
    server: GrpcServer
    loop: asyncio.AbstractEventLoop
    channel: grpc.Channel

    def call(self, name: str) -> grpc.UnaryUnaryMultiCallable:
        """Return a method that takes and gives bytes."""
        return self.channel.unary_unary(f"/{messages.SERVICE}/{name}")

    def silent(self, name: str, headers: tuple[tuple[str, str], ...] = ()) -> Any:
        """Make a call that never sends its message; return what comes of it."""
        method = self.channel.stream_unary(f"/{messages.SERVICE}/{name}")
        never = threading.Event()

        def nothing() -> Iterator[bytes]:
            never.wait(_SOON)
            yield from ()

        try:
            return method(nothing(), metadata=headers, timeout=_SOON)
        finally:
            never.set()

    def stop(self, grace: float) -> Any:
        """Begin to stop; the future that is returned says when it is done."""
        return asyncio.run_coroutine_threadsafe(self.server.stop(grace), self.loop)

    def metric(self, name: str, **labels: str) -> float:
        """Return what it counted; 0 where it did not yet."""
        return self.service.metrics.registry.get_sample_value(name, labels) or 0.0


@contextmanager
def grpc_served(engine: Any, settings: Settings | None = None) -> Iterator[GrpcServed]:
    """Yield a server on a free port."""
    started = threading.Event()
    made: list[tuple[Service, GrpcServer]] = []
    loop = asyncio.new_event_loop()
    end = asyncio.Event()

    async def serve() -> None:
        service = Service(engine, settings or Settings())
        made.append((service, await start(service, "127.0.0.1", 0)))
        started.set()
        await end.wait()
        await made[0][1].stop(None)
        await asyncio.to_thread(service.close, False)

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    try:
        assert started.wait(_SOON)
        service, server = made[0]
        with grpc.insecure_channel(server.address) as channel:
            yield GrpcServed(service, server, loop, channel)
    finally:
        loop.call_soon_threadsafe(end.set)
        thread.join()
        loop.close()

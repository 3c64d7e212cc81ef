"""A server from its start to its end: the engine warm, ports open, drained on SIGTERM."""

import asyncio
import gc
import logging
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING

import numpy as np
import uvicorn

from ovml_deploy.errors import UsageError
from ovml_deploy.runtime.engine import Engine
from ovml_deploy.runtime.labels import LabelSource
from ovml_deploy.serving.http.app import create_app
from ovml_deploy.serving.http.protocol import Protocol
from ovml_deploy.serving.service import Service
from ovml_deploy.serving.settings import Settings, is_loopback

if TYPE_CHECKING:
    from ovml_deploy.serving.kserve.grpc import GrpcServer

logger = logging.getLogger(__name__)

ENGINE_DIED = 70  # EX_SOFTWARE of sysexits.h

_LAST_PORT = 65535
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@dataclass(frozen=True)
class Address:
    """Where a server listens; port 0 takes a free one."""

    host: str = "127.0.0.1"
    port: int = 8000

    def bind(self) -> socket.socket:
        """Open the port. Raises UsageError where it cannot be had."""
        if not 0 <= self.port <= _LAST_PORT:  # some systems would take the remainder
            raise UsageError(f"There is no port {self.port}. Name one up to {_LAST_PORT}.")
        try:
            family, _, _, _, address = socket.getaddrinfo(
                self.host, self.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
            listener = socket.socket(family, socket.SOCK_STREAM)
            try:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.bind(address)
            except BaseException:
                listener.close()
                raise
        except (OSError, OverflowError) as error:
            raise UsageError(
                f"{self.host}:{self.port} cannot be listened on ({error}). Name another --port."
            ) from error
        return listener


def warm(engine: Engine, max_batch: int) -> None:
    """Run the largest batch once, for engines prepare themselves for each size when they meet it."""
    if max_batch > 1:
        engine.encode(np.zeros((max_batch, *engine.bundle.preprocessing.size, 3), dtype=np.uint8))


def serve(
    engine: Engine,
    settings: Settings,
    address: Address,
    labels: tuple[str, LabelSource] | None = None,
    grpc_port: int | None = None,
) -> int:
    """Serve until SIGTERM or SIGINT, and return the exit code: not 0 where the engine died.

    ``labels``: a name and labels to put and activate first; ``grpc_port``: where gRPC is spoken, too.
    """
    listener = address.bind()
    warm(engine, settings.max_batch)
    gc.freeze()  # or each full collection would walk through all that was imported
    run = _Run(engine, settings, listener, is_loopback(address.host) and not settings.api_key)
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            return runner.run(run.until_stopped(labels, grpc_port))
    finally:
        listener.close()


def http_config(service: Service, local: bool) -> uvicorn.Config:
    """Return how HTTP is spoken; ``local``: see ``create_app``."""
    return uvicorn.Config(
        create_app(service, local),
        http=Protocol.limited(service.settings),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=15,
        timeout_graceful_shutdown=int(service.settings.drain),
    )


class _Run:
    def __init__(
        self, engine: Engine, settings: Settings, listener: socket.socket, local: bool
    ) -> None:
        self._engine = engine
        self._settings = settings
        self._listener = listener
        self._local = local

    async def until_stopped(
        self, labels: tuple[str, LabelSource] | None, grpc_port: int | None
    ) -> int:
        loop = asyncio.get_running_loop()
        died = asyncio.Event()

        def engine_died() -> None:
            loop.call_soon_threadsafe(died.set)

        service = Service(self._engine, self._settings, engine_died)
        try:
            if labels is not None:
                await asyncio.to_thread(service.vocabularies.use, *labels)
            grpc = None if grpc_port is None else await self._start_grpc(service, grpc_port)
            server = _Uvicorn(http_config(service, self._local), service, grpc)
            serving = asyncio.create_task(server.serve([self._listener]))
            dying = asyncio.create_task(died.wait())
            up = asyncio.create_task(server.up.wait())
            await asyncio.wait((serving, up), return_when=asyncio.FIRST_COMPLETED)
            if serving.done():
                up.cancel()
                await serving  # raises what went wrong
            where = {"url": _url(self._listener)} | ({"grpc": grpc.address} if grpc else {})
            logger.info("listening", extra=where)
            await asyncio.wait((serving, dying), return_when=asyncio.FIRST_COMPLETED)
            if died.is_set():
                logger.critical("the engine's thread ended: %r", service.batcher.failure)
                server.should_exit = True
            await serving
            dying.cancel()
            return ENGINE_DIED if died.is_set() else 0
        finally:
            await asyncio.to_thread(service.close)

    async def _start_grpc(self, service: Service, port: int) -> "GrpcServer":
        from ovml_deploy.serving.kserve.grpc import start  # takes time, and few ask for it

        return await start(service, self._listener.getsockname()[0], port)


class _Uvicorn(uvicorn.Server):
    """Uvicorn, that says when it is up, and stops taking images as soon as it is told to end."""

    def __init__(self, config: uvicorn.Config, service: Service, grpc: "GrpcServer | None") -> None:
        super().__init__(config)
        self.up = asyncio.Event()
        self._service = service
        self._grpc = grpc

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        taken = "The port cannot be listened on: another process was quicker. Name another --port."
        try:
            await super().startup(sockets)
        except OSError as error:
            raise UsageError(taken) from error
        if sockets and sockets[0].fileno() < 0:  # uvloop does not raise, but closes it
            raise UsageError(taken)
        self.up.set()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As uvicorn does, but without raising the signal again, so that there is a clean end."""
        old = {number: signal.signal(number, self.handle_exit) for number in _SIGNALS}
        try:
            yield
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._service.stopping = True
        start = monotonic()
        ends = [super().shutdown(sockets)]
        if self._grpc is not None:
            ends.append(self._grpc.stop(self._service.settings.drain))
        await asyncio.gather(*ends)
        logger.info("drained", extra={"seconds": round(monotonic() - start, 2)})


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:  # no wheel for this system
        return None
    return uvloop.new_event_loop

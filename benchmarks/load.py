"""Clients that load a server from a process of their own, so that they cost it no Python time.

Each client keeps one connection and sends the same few requests in turn, written out before.
"""

import asyncio
import multiprocessing
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import cast
from urllib.parse import urlsplit

import numpy as np
import orjson

_CONNECTIONS = 400  # of an open loop
_FEW = 3  # answers that no rate is read from


@dataclass(frozen=True)
class Load:
    """What to send for so many ``seconds``.

    Either by ``clients`` that each wait for their answer (a closed loop), or ``rate`` requests a
    second whatever becomes of them (an open loop). ``words``: the labels of each vocabulary, by name,
    where answers shall be checked not to mix them.
    """

    url: str
    images: Sequence[bytes]
    seconds: float
    clients: int = 1
    rate: float = 0.0
    path: str = "/v1/tag"
    words: Mapping[str, frozenset[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Answers:
    """What came back: arrays of one entry a request, in order of sending; seconds, milliseconds."""

    sent: np.ndarray
    seconds: np.ndarray
    status: np.ndarray
    batch: np.ndarray
    queue_ms: np.ndarray
    mixed: int
    lost: int

    @property
    def tagged(self) -> np.ndarray:
        """Which were answered with tags."""
        return self.status == 200

    @property
    def rate(self) -> float:
        """Images tagged a second: the slope of their count while all clients were at work.

        A slope, for whole batches are answered at once, and a count over a time would depend on
        where both end in one.
        """
        ends = np.sort((self.sent + self.seconds)[self.tagged])
        ends = ends[ends <= self.sent.max(initial=0)]
        if len(ends) < _FEW:
            return 0.0
        return float(np.polyfit(ends, np.arange(len(ends)), 1)[0])

    def quantile(self, share: float) -> float:
        """Return milliseconds within which a share of the tagged ones was answered."""
        taken = self.seconds[self.tagged]
        return float(1e3 * np.quantile(taken, share)) if len(taken) else float("nan")


def apply(load: Load) -> Answers:
    """Load a server, and return when the last answer is there."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_process, args=(there, load), daemon=True)
    process.start()
    there.close()
    try:
        return here.recv()
    finally:
        process.join()


def _process(pipe: Connection, load: Load) -> None:
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        pipe.send(runner.run(_apply(load)))


async def _apply(load: Load) -> Answers:
    run = _Run(load)
    if load.rate:
        await run.open_loop()
    else:
        end = time.perf_counter() + load.seconds
        await asyncio.gather(*(run.closed_loop(i, end) for i in range(load.clients)))
    return run.answers()


class _Run:
    def __init__(self, load: Load) -> None:
        self._load = load
        where = urlsplit(load.url)
        self._host, self._port = where.hostname or "localhost", where.port or 80
        self._requests = [
            f"POST {load.path} HTTP/1.1\r\nHost: {where.netloc}\r\nContent-Type: image/jpeg\r\n"
            f"Content-Length: {len(image)}\r\n\r\n".encode()
            + image
            for image in load.images
        ]
        self._rows: list[tuple[float, float, int, bytes]] = []
        self._lost = 0

    async def closed_loop(self, first: int, end: float) -> None:
        connection = await self._connect()
        number = first
        while time.perf_counter() < end:
            connection = await self._ask(connection, number)
            number += self._load.clients

    async def open_loop(self) -> None:
        free: list[_Connection] = []
        slots = asyncio.Semaphore(_CONNECTIONS)
        tasks = set()

        async def one(number: int) -> None:
            connection = free.pop() if free else await self._connect()
            free.append(await self._ask(connection, number))
            slots.release()

        start = time.perf_counter()
        for number in range(round(self._load.seconds * self._load.rate)):
            wait = start + number / self._load.rate - time.perf_counter()
            if wait > 0:
                await asyncio.sleep(wait)
            await slots.acquire()
            task = asyncio.ensure_future(one(number))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        await asyncio.gather(*tasks)

    def answers(self) -> Answers:
        """Read what came, which no client had to wait for."""
        rows = sorted(self._rows, key=lambda row: row[0])
        mixed = 0
        table = np.zeros((len(rows), 5))
        for row, (start, took, status, body) in zip(table, rows, strict=True):
            row[:3] = start, took, status
            if status == 200:
                answer = orjson.loads(body)
                times = answer["results"][0]["times"]
                row[3:] = times["batch"], times["queue_ms"]
                mixed += self._is_mixed(answer)
        sent, seconds, statuses, batch, queue_ms = table.T
        return Answers(sent, seconds, statuses, batch, queue_ms, mixed, self._lost)

    def _is_mixed(self, answer: dict) -> bool:
        if not self._load.words:
            return False
        words = self._load.words.get(answer["vocabulary"]["name"], ())
        tags = answer["results"][0]["tags"]
        return not tags or any(tag["label"] not in words for tag in tags)

    async def _ask(self, connection: "_Connection", number: int) -> "_Connection":
        if connection.closed:  # it was idle for too long
            connection = await self._connect()
        start = time.perf_counter()
        try:
            status, body = await connection.ask(self._requests[number % len(self._requests)])
        except ConnectionError:
            self._lost += 1
            return await self._connect()
        self._rows.append((start, time.perf_counter() - start, status, body))
        return await self._connect() if connection.closed else connection

    async def _connect(self) -> "_Connection":
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(_Connection, self._host, self._port)
        return connection


class _Connection(asyncio.Protocol):
    """The least of HTTP/1.1: one request, one answer with a Content-Length."""

    def __init__(self) -> None:
        self._received = bytearray()
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None
        self._transport: asyncio.Transport

    @property
    def closed(self) -> bool:
        """Whether nothing can be sent any more."""
        return self._transport.is_closing()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, error: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionResetError("the server hung up"))

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answer

    def data_received(self, data: bytes) -> None:
        self._received += data
        head = self._received.find(b"\r\n\r\n")
        if head < 0:
            return
        fields = bytes(self._received[:head]).lower()
        start = fields.index(b"content-length:") + 15
        length = int(fields[start : fields.find(b"\r", start) if b"\r" in fields[start:] else None])
        if len(self._received) < head + 4 + length:
            return
        body = bytes(self._received[head + 4 : head + 4 + length])
        del self._received[: head + 4 + length]
        assert self._answer is not None
        if not self._answer.done():
            self._answer.set_result((int(fields[9:12]), body))

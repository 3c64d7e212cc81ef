"""What a server costs beside its engine, and how it bears swaps and too many clients.

    python benchmarks/server.py [--engine build/qks] [--device auto] [--what speed,swaps,overload]
                                [--photos ../shared/photos] [--seconds 30] [--write]

A real server in a process of its own, clients in another, on the same machine, so that they share
its cores. ``speed``: images tagged a second at 1, 8 and 64 clients against the engine alone
(``Tagger.tag`` one by one, and ``Tagger.tag_many`` in batches as large as the server's, both from the
same encoded images), taking turns of 3 s or ten batches, ``--seconds`` for each, over three starts of
both; the share is the median of the turns' (and their quartiles), for machines drift, and processes
differ.
``swaps``: 64 clients while the active vocabulary changes 1,000 times. ``overload``: ten times as many
requests as it can bear, for ``--overload-seconds``.
"""

import argparse
import atexit
import contextlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from inputs import photographs
from load import Answers, Load, apply
from report import Report, add_write

from ovml_deploy import assets
from ovml_deploy.runtime.bundle import Bundle
from ovml_deploy.runtime.tagger import Tagger

_BATCH = 8
_SWAPS = 1000
_WORDS = {
    "animals": ("cat", "dog", "horse", "bird", "fish", "insect"),
    "things": ("cup", "car", "boat", "chair", "flower", "clock"),
}
_ROUNDS = 2
_TURN = 3.0  # seconds, at least
_BATCHES = 10  # in a turn, at least
_STARTS = 3


class Server:
    """``ovml-deploy serve`` in a process, logging to a file, until it is closed."""

    def __init__(self, *options: str) -> None:
        """Return once it is ready."""
        start = time.perf_counter()
        self._log = tempfile.NamedTemporaryFile("w+")  # noqa: SIM115 - as long as the server
        command = [sys.executable, "-m", "ovml_deploy.cli", "serve", "--port", "0", *options]
        self.process = subprocess.Popen(command, stderr=self._log)
        atexit.register(self.process.kill)  # should this one fail
        self.url = self._started()
        self.ask("GET", "/readyz")
        self.ready_after = time.perf_counter() - start

    def ask(self, method: str, path: str, content: object = None) -> dict:
        """Send a request with a JSON body, and return the answer's."""
        body = None if content is None else json.dumps(content).encode()
        request = urllib.request.Request(
            self.url + path, body, {"content-type": "application/json"}, method=method
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.loads(answer.read() or b"{}")

    def resident(self) -> int:
        """Return bytes of memory."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def cpu_seconds(self) -> float:
        """Return what it used of the processor so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def kill(self) -> None:
        """End it at once, as a power cut does."""
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        """End it by SIGTERM, as a service manager does."""
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(60)
        if code:
            raise SystemExit(f"the server ended with {code}")

    def _started(self) -> str:
        while self.process.poll() is None:
            for line in Path(self._log.name).read_text().splitlines():
                if '"listening"' in line:
                    return json.loads(line)["url"]
            time.sleep(0.01)
        raise SystemExit(f"the server did not start:\n{Path(self._log.name).read_text()}")


class Alone:
    """The engine without a server, in a process of its own."""

    def __init__(self, engine: str, device: str, images: Sequence[bytes]) -> None:
        context = multiprocessing.get_context("spawn")
        self._here, there = context.Pipe()
        arguments = (there, engine, device, images)
        self._process = context.Process(target=_tag_alone, args=arguments, daemon=True)
        self._process.start()
        there.close()
        self.description: str = self._here.recv()  #: of what runs it

    def rate(self, seconds: float, clients: int) -> tuple[float, float]:
        """Return images a second and CPU seconds an image: one by one, or in batches."""
        self._here.send((seconds, clients))
        return self._here.recv()

    def close(self) -> None:
        """End it."""
        self._here.close()
        self._process.join()


def measure_speed(
    report: Report, engine: str, device: str, images: Sequence[bytes], seconds: float
) -> None:
    options = ["--engine", engine, "--device", device]
    if Bundle.open(engine).default_vocabulary is None:
        options += ["--labels", ",".join(_WORDS["animals"])]
    cells: dict[int, list[_Turn]] = {clients: [] for clients in (1, 8, 64)}
    ready = []
    for _ in range(_STARTS):  # a process is quicker or slower for as long as it lives
        server, alone = Server(*options), Alone(engine, device, images)
        ready.append(server.ready_after)
        for clients, turns in cells.items():
            apply(Load(server.url, images, 2.0, clients))
            batch = min(clients, _BATCH) / alone.rate(2.0, clients)[0]
            turn = max(_TURN, _BATCHES * batch)
            for _ in range(max(1, round(seconds / turn / _STARTS))):
                before = server.cpu_seconds()
                answers = apply(Load(server.url, images, turn, clients))
                cost = (server.cpu_seconds() - before) / len(answers.sent)
                bad = int((~answers.tagged).sum()) + answers.lost
                assert not bad, f"{bad} requests failed"
                turns.append(_Turn(answers, cost, *alone.rate(turn, clients)))
        server.close()
        alone.close()
    rows = [["clients", "server, images/s", "engine alone", "share", "p50 / p95 / p99 ms"]]
    rows[0] += ["images a batch", "queue ms, median", "CPU ms an image, server / alone"]
    rows += [[str(clients), *_speed_row(turns)] for clients, turns in cells.items()]
    report.table(f"{Path(engine).name}, {alone.description}", rows)
    report.say("Ready " + ", ".join(f"{value:.2f}" for value in ready) + " s after the start.")
    for row in rows[1:]:
        report.headline(
            f"server, {row[0]} clients", f"{row[1]} images/s", f"{row[3]} of the engine"
        )


@dataclass(frozen=True)
class _Turn:
    """The server's answers, then the engine alone; ``cost``: CPU seconds an image."""

    answers: Answers
    cost: float
    alone: float
    alone_cost: float


def _speed_row(turns: Sequence[_Turn]) -> list[str]:
    answers = [turn.answers for turn in turns]
    shares = [turn.answers.rate / turn.alone for turn in turns]
    costs = [(turn.cost, turn.alone_cost) for turn in turns]
    return [
        f"{np.mean([a.rate for a in answers]):.1f}",
        f"{np.mean([turn.alone for turn in turns]):.1f}",
        "{:.2f} ({:.2f} to {:.2f})".format(*np.quantile(shares, (0.5, 0.25, 0.75))),
        " / ".join(f"{np.mean([a.quantile(q) for a in answers]):.0f}" for q in _QUANTILES),
        f"{np.mean([a.batch.mean() for a in answers]):.1f}",
        f"{np.mean([np.median(a.queue_ms) for a in answers]):.1f}",
        " / ".join(f"{1e3 * value:.1f}" for value in np.mean(costs, axis=0)),
    ]


def _tag_alone(pipe: Connection, engine: str, device: str, images: Sequence[bytes]) -> None:
    tagger = Tagger.load(engine, device)
    if tagger.bundle.default_vocabulary is None:
        tagger.use_vocabulary(_WORDS["animals"])
    pipe.send(tagger.backend.description)
    with contextlib.suppress(EOFError):
        while True:
            seconds, clients = pipe.recv()
            cpu = time.process_time()
            rate = _alone(tagger, images, seconds, clients)
            pipe.send((rate, (time.process_time() - cpu) / (rate * seconds)))


_QUANTILES = (0.5, 0.95, 0.99)


def measure_swaps(report: Report, engine: str, device: str, images: Sequence[bytes]) -> None:
    with tempfile.TemporaryDirectory() as state:
        server = Server("--engine", engine, "--device", device, "--state", state)
        for name, labels in _WORDS.items():
            server.ask("PUT", f"/v1/vocabularies/{name}?wait=30", {"labels": labels})
        server.ask("POST", "/v1/vocabularies/animals/activate")
        words = {name: frozenset(labels) for name, labels in _WORDS.items()}
        load = Load(server.url, images, 10.0, 64, path="/v1/tag?threshold=0", words=words)
        apply(replace(load, seconds=3.0))
        rows = [["64 clients", "images/s", "p50 ms", "p99 ms", "failed", "mixed", "seen"]]
        quiet, swapped = [], []
        for _ in range(_ROUNDS):
            quiet.append(apply(load))
            with _swapping(server, _SWAPS // _ROUNDS, load.seconds) as done:
                swapped.append(apply(load))
            print(f"{len(done)} swaps", flush=True)
        for title, runs in (("no swaps", quiet), (f"{_SWAPS:,} swaps", swapped)):
            failed = sum(int((~a.tagged).sum()) + a.lost for a in runs)
            rows.append(
                [
                    title,
                    f"{np.mean([a.rate for a in runs]):.1f}",
                    f"{np.mean([a.quantile(0.5) for a in runs]):.0f}",
                    f"{np.mean([a.quantile(0.99) for a in runs]):.0f}",
                    str(failed),
                    str(sum(a.mixed for a in runs)),
                    f"{sum(len(a.sent) for a in runs):,}",
                ]
            )
        ratio = np.mean([a.quantile(0.99) for a in swapped]) / np.mean(
            [a.quantile(0.99) for a in quiet]
        )
        server.close()
    report.table("swaps under load", rows)
    report.say(f"p99 with swaps / without: {ratio:.2f}")
    report.headline(f"server, {_SWAPS:,} swaps", "", f"p99 {ratio:.2f}x that without")


def measure_overload(
    report: Report,
    engine: str,
    device: str,
    images: Sequence[bytes],
    seconds: float,
    clients: int = 64,
) -> None:
    server = Server("--engine", engine, "--device", device)
    before = apply(Load(server.url, images, 10.0, clients))
    memory: list[int] = []
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(0.5):
            memory.append(server.resident())

    thread = threading.Thread(target=watch)
    thread.start()
    over = apply(Load(server.url, images, seconds, rate=10 * before.rate))
    stop.set()
    thread.join()
    time.sleep(1)
    after = apply(Load(server.url, images, 10.0, clients))
    rows = [["", "sent", "tagged/s", "p50 / p99 ms", "429", "503", "other", "lost"]]
    for title, answers in (
        (f"{clients} clients", before),
        (f"10x that rate, {seconds:.0f} s", over),
        (f"{clients} clients again", after),
    ):
        rows.append(_overload_row(title, answers))
    server.close()
    report.table("overload", rows)
    half = memory[len(memory) // 2 :]
    during, later = (a.quantile(0.99) / before.quantile(0.99) for a in (over, after))
    spread = (max(half) - min(half)) / min(half)
    report.say(
        f"p99 of the tagged, over before: {during:.2f}; after / before: {later:.2f}. Memory over the "
        f"last half: {min(half) / 1e6:.0f} to {max(half) / 1e6:.0f} MB ({spread:.1%})."
    )
    report.headline("server, 10x overload", "", f"p99 of the tagged {during:.2f}x")


def _overload_row(title: str, answers: Answers) -> list[str]:
    counts = {status: int((answers.status == status).sum()) for status in (200, 429, 503)}
    other = len(answers.status) - sum(counts.values())
    return [
        title,
        f"{len(answers.sent):,}",
        f"{answers.rate:.1f}",
        f"{answers.quantile(0.5):.0f} / {answers.quantile(0.99):.0f}",
        f"{counts[429]:,}",
        f"{counts[503]:,}",
        str(other),
        str(answers.lost),
    ]


def _alone(tagger: Tagger, images: Sequence[bytes], seconds: float, clients: int) -> float:
    """Return images a second of the engine without a server: one by one, or in batches."""
    start = time.perf_counter()
    end, done = start + seconds, 0

    def endless() -> Iterator[bytes]:
        number = 0
        while time.perf_counter() < end:
            yield images[number % len(images)]
            number += 1

    if clients == 1:
        for image in endless():
            tagger.tag(image)
            done += 1
    else:
        done = sum(1 for _ in tagger.tag_many(endless(), batch_size=_BATCH))
    return done / (time.perf_counter() - start)


@contextlib.contextmanager
def _swapping(server: Server, swaps: int, seconds: float) -> Iterator[list[str]]:
    """Change the active vocabulary so many times, evenly over the time."""
    done: list[str] = []

    def swap() -> None:
        start = time.perf_counter()
        names = [*_WORDS]
        for number in range(swaps):
            time.sleep(max(0.0, start + number * seconds / swaps - time.perf_counter()))
            name = names[(number + 1) % len(names)]
            server.ask("POST", f"/v1/vocabularies/{name}/activate")
            done.append(name)

    thread = threading.Thread(target=swap)
    thread.start()
    yield done
    thread.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engine", default=str(assets.MINI))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--what", default="speed,swaps,overload")
    parser.add_argument("--photos", default="../shared/photos")
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--overload-seconds", type=float, default=60.0)
    add_write(parser)
    given = parser.parse_args()
    images = [path.read_bytes() for path in photographs(given.photos)]
    size = np.mean([len(image) for image in images]) / 1e3
    report = Report(f"Server, {Path(given.engine).name}")
    report.say(f"{len(images)} images of {size:.0f} kB.")
    what = given.what.split(",")
    if "speed" in what:
        measure_speed(report, given.engine, given.device, images, given.seconds)
    if "swaps" in what:
        measure_swaps(report, given.engine, given.device, images)
    if "overload" in what:
        measure_overload(report, given.engine, given.device, images, given.overload_seconds)
    report.write(given.write)


if __name__ == "__main__":
    main()

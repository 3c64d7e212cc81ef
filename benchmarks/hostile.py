"""What becomes of a server that gets hostile inputs, and of the valid images sent among them.

    python benchmarks/hostile.py [--engine build/qks] [--inputs 2000] [--seed 0]

Eight clients send inputs of twenty kinds (``hostile_inputs.py``) to a real server; after every few,
each sends a valid image and compares the tags with what ``Tagger.tag`` gives. It fails where an
answer is a 5xx other than 503, where a connection stays open without an answer, where a valid image
is tagged wrongly or not at all, and where the server is not ready afterwards.
"""

import argparse
import json
import math
import re
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from hostile_inputs import Input, make_inputs
from server import Server
from tables import show

from ovml_deploy import assets
from ovml_deploy.runtime.results import Tag
from ovml_deploy.runtime.tagger import Tagger

_CLIENTS = 8
_EVERY = 5  # a valid image after so many hostile inputs
_PATIENCE = 60.0  # seconds after which a connection counts as stuck
_STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")
_FINE = 503  # the only status above 499 that is meant

Expected = Mapping[bytes, Sequence[Tag]]


@dataclass
class Report:
    """What came back: counts of (kind, answer), and what must not be."""

    answers: Counter[tuple[str, str]] = field(default_factory=Counter)
    tagged: int = 0
    faults: list[str] = field(default_factory=list)
    memory: tuple[int, ...] = ()  #: of the server: before, half way, after; in bytes
    peak: int = 0
    seconds: float = 0.0

    @property
    def inputs(self) -> int:
        """How many were sent."""
        return sum(self.answers.values())


def abuse(url: str, pid: int, expected: Expected, vocabulary: str, count: int, seed: int) -> Report:
    """Send hostile inputs to a server, and valid images among them, and return what came back.

    ``expected``: valid images with their tags in a vocabulary of the bundle, which nobody can change.
    """
    where = urlsplit(url)
    inputs = make_inputs(count, seed, where.netloc, [*expected], [vocabulary, "hostile"])
    run = _Run(url, expected, vocabulary)
    run.check(0)
    memory, start = [_memory(pid, "VmRSS")], time.perf_counter()
    with ThreadPoolExecutor(_CLIENTS) as pool:
        for half in (range(count // 2), range(count // 2, count)):
            for _ in pool.map(lambda number: run.send(inputs[number], number), half):
                pass
            memory.append(_memory(pid, "VmRSS"))
    report = run.report
    report.seconds = time.perf_counter() - start
    report.memory, report.peak = tuple(memory), _memory(pid, "VmHWM")
    run.check(0)
    status, body = _ask(url, "GET", "/readyz", b"")
    if status != 200:
        report.faults.append(f"not ready afterwards: {body!r}")
    return report


class _Run:
    """What eight clients do at once."""

    def __init__(self, url: str, expected: Expected, vocabulary: str) -> None:
        self.report = Report()
        self._url = url
        self._expected = [*expected.items()]
        self._path = f"/v1/tag?vocabulary={quote(vocabulary)}"
        self._lock = threading.Lock()

    def send(self, sent: Input, number: int) -> None:
        where = urlsplit(self._url)
        answers = play((where.hostname or "", where.port or 80), sent)
        with self._lock:
            for answer in answers:
                self.report.answers[sent.kind, answer] += 1
                if answer == "stuck" or (answer.startswith("5") and int(answer) != _FINE):
                    self.report.faults.append(f"{sent.kind}: {answer} to {sent!r:.500}")
        if number % _EVERY == 0:
            self.check(number)

    def check(self, number: int) -> None:
        """Tag a valid image, and compare."""
        image, tags = self._expected[number // _EVERY % len(self._expected)]
        status, body = _ask(self._url, "POST", self._path, image, "image/jpeg")
        while status == 429:
            time.sleep(0.1)
            status, body = _ask(self._url, "POST", self._path, image, "image/jpeg")
        problem = ""
        if status != 200:
            problem = f"a valid image: {status} {body[:200]!r}"
        elif not _same(found := json.loads(body)["results"][0]["tags"], tags):
            problem = f"a valid image: {found} and not {tags}"
        with self._lock:
            self.report.tagged += not problem
            if problem:
                self.report.faults.append(problem)


def _same(found: Sequence[Mapping[str, Any]], tags: Sequence[Tag]) -> bool:
    return [tag["label"] for tag in found] == [tag.label for tag in tags] and all(
        math.isclose(one["score"], other.score, abs_tol=1e-4)
        for one, other in zip(found, tags, strict=True)
    )


def play(address: tuple[str, int], sent: Input) -> list[str]:
    """Send an input; return the statuses of all answers, or how else it ended."""
    try:
        with socket.create_connection(address, _PATIENCE) as line:
            with suppress(OSError):  # the server may have hung up already; its answer is there
                for step in sent.steps:
                    if isinstance(step, float):
                        time.sleep(step)
                    else:
                        line.sendall(step)
            if sent.end == "reset":
                line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            if sent.end in ("reset", "close"):
                return ["hung up"]
            if sent.end == "half":
                with suppress(OSError):
                    line.shutdown(socket.SHUT_WR)
            return _answers(line, until_closed=sent.end == "half")
    except TimeoutError:
        return ["stuck"]
    except ConnectionRefusedError:
        return ["refused"]


def _memory(pid: int, what: str) -> int:
    """Return bytes that a process has: VmRSS now, VmHWM at most."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(what))


def _answers(line: socket.socket, until_closed: bool) -> list[str]:
    received = b""
    with suppress(ConnectionResetError, BrokenPipeError):
        while data := line.recv(1 << 16):
            received += data
            if _STATUS.match(received) and not until_closed:
                break
    found = [match.decode() for match in _STATUS.findall(received)]
    return [status for status in found if status != "100"] or ["closed"]


def _ask(url: str, method: str, path: str, body: bytes, media: str = "") -> tuple[int, bytes]:
    connection = HTTPConnection(urlsplit(url).netloc, timeout=_PATIENCE)
    try:
        connection.request(method, path, body, {"content-type": media} if media else {})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def print_report(report: Report) -> None:
    """Print what came back."""
    answers = sorted({answer for _, answer in report.answers})
    rows = [["input", *answers]]
    for kind in sorted({kind for kind, _ in report.answers}):
        rows.append([kind, *(str(report.answers[kind, answer] or "") for answer in answers)])
    rows.append(
        [
            "all",
            *(str(sum(report.answers[k] for k in report.answers if k[1] == a)) for a in answers),
        ]
    )
    show("answers to hostile inputs", rows)
    before, half, after, peak = (size / 1e6 for size in (*report.memory, report.peak))
    print(
        f"{report.inputs:,} answers in {report.seconds:.0f} s; {report.tagged:,} valid images among "
        f"them tagged right; memory {before:.0f} MB before, {half:.0f} MB half way, {after:.0f} MB after, "
        f"{peak:.0f} MB at most"
    )
    for fault in report.faults[:20]:
        print(f"FAULT {fault}")
    print(f"{len(report.faults)} faults")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engine", default=str(assets.MINI))
    parser.add_argument("--device", default="cpu", help="on which the tags are compared, too")
    parser.add_argument("--inputs", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    tagger = Tagger.load(given.engine, given.device)
    images = [path.read_bytes() for path in assets.sample_photographs()]
    expected = {image: tagger.tag(image) for image in images}
    server = Server("--engine", given.engine, "--device", given.device)
    name = tagger.vocabulary.name
    report = abuse(server.url, server.process.pid, expected, name, given.inputs, given.seed)
    print_report(report)
    if server.process.poll() is not None:
        raise SystemExit(f"the server ended with {server.process.returncode}")
    server.close()
    if report.faults:
        raise SystemExit(1)


if __name__ == "__main__":
    main()

"""Whether vocabularies survive ``kill -9`` of the server at any moment.

    python benchmarks/kill_server.py [--engine build/qks] [--kills 50] [--seed 0]

A client puts, activates and deletes vocabularies of a real server one after another, and remembers
what it asked for and what was acknowledged. At a random moment the server is killed and started
again on the same folder. Then every vocabulary must be whole: of the labels last acknowledged, or of
those asked for when the server died; what was acknowledged as deleted must be gone; and the active
one must be that of the last acknowledged activation, or of one asked for when the server died.
"""

import argparse
import json
import random
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from typing import Any
from urllib.parse import urlsplit

from server import Server
from tables import show

from ovml_deploy import assets

_NAMES = ("a", "b", "c", "d")
_SIZES = (1, 3, 40, 300)  # labels: embedding takes from none to a few of a run's moments
_LONGEST = 1.5  # seconds from a start to its kill
_HOME = "/v1/vocabularies"

Labels = tuple[str, ...]


@dataclass
class Known:
    """What a client knows of the server: per name, the states in which it may be (None: absent)."""

    may_be: dict[str, set[Labels | None]]
    active: set[str | None]
    did: Counter[str]


@dataclass
class Report:
    """What was found after the restarts."""

    kills: int = 0
    did: Counter[str] = field(default_factory=Counter)
    interrupted: int = 0
    faults: list[str] = field(default_factory=list)


class Client:
    """Asks on one connection, until the server is gone."""

    def __init__(self, url: str) -> None:
        self._connection = HTTPConnection(urlsplit(url).netloc, timeout=60)

    def ask(self, method: str, path: str, content: object = None) -> tuple[int, Any]:
        """Return an answer's status and content."""
        body = None if content is None else json.dumps(content)
        self._connection.request(method, path, body, {"content-type": "application/json"})
        answer = self._connection.getresponse()
        return answer.status, json.loads(answer.read() or b"null")

    def close(self) -> None:
        """Hang up."""
        self._connection.close()


def torment(start: Callable[[], Any], kills: int, seed: int) -> Report:
    """Kill servers that ``start`` gives (with ``url`` and ``kill``), all on the same folder."""
    source = random.Random(seed)
    report = Report()
    known: Known | None = None
    for number in range(kills + 1):
        server = start()
        client = Client(server.url)
        try:
            if known is None:
                active = client.ask("GET", "/v1/model")[1]["vocabulary"]
                known = Known({name: {None} for name in _NAMES}, {active}, report.did)
            _verify(client, known, report.faults)
            if number < kills:
                killer = threading.Timer(source.uniform(0, _LONGEST), server.kill)
                killer.start()
                with suppress(OSError, HTTPException):
                    while True:
                        _act(client, known, source, number)
                killer.join()
                states: list[set[Any]] = [*known.may_be.values(), known.active]
                report.interrupted += any(len(possible) > 1 for possible in states)
                report.kills += 1
        finally:
            client.close()
            server.kill()
    return report


def _act(client: Client, known: Known, source: random.Random, number: int) -> None:
    """Ask for one change. Where no answer comes, it may have happened or not."""
    name = source.choice(_NAMES)
    path = f"{_HOME}/{name}"
    what = source.choices(("put", "activate", "delete"), (5, 3, 2))[0]
    if what == "put":
        start, count = time.monotonic_ns(), source.choice(_SIZES)
        labels = tuple(f"thing {number} {start} {index}" for index in range(count))
        wait = source.choice(("", "?wait=0.2", "?wait=30"))
        with _change(known.may_be[name], labels) as settle:
            status, _ = client.ask("PUT", path + wait, {"labels": labels})
            settle(status in (200, 202))
    elif what == "activate":
        with _change(known.active, name) as settle:
            status, _ = client.ask("POST", f"{path}/activate")
            settle(status == 200)
    else:
        with _change(known.may_be[name], None) as settle:
            status, _ = client.ask("DELETE", path)
            settle(status == 204)
    known.did[f"{what}, {status}"] += 1


@contextmanager
def _change(states: set[Any], new: Any) -> Iterator[Callable[[bool], None]]:
    """Hold the new state for possible, too, until it is known whether it came to be."""
    before = {*states}
    states.add(new)

    def settle(happened: bool) -> None:
        states.clear()
        states.update({new} if happened else before)

    yield settle


def _verify(client: Client, known: Known, faults: list[str]) -> None:
    """Compare the server with what may be, and know from then on what is."""
    for name, states in known.may_be.items():
        found: Labels | None = None
        status, entry = client.ask("GET", f"{_HOME}/{name}")
        if status == 200:
            while entry["state"] == "embedding":  # it goes on where it was
                time.sleep(0.02)
                status, entry = client.ask("GET", f"{_HOME}/{name}")
            found = tuple(entry["texts"])
            if entry["state"] != "ready" or entry["labels"] != len(found) or entry["id"] is None:
                faults.append(f"{name} is not whole: {entry}")
        elif status != 404:
            faults.append(f"{name}: {status} {entry}")
        if found not in states:
            faults.append(f"{name} is {_short(found)}; it may be {[*map(_short, states)]}")
        known.may_be[name] = {found}
    _, model = client.ask("GET", "/v1/model")
    if model["vocabulary"] not in known.active:
        faults.append(f"{model['vocabulary']!r} is active; {known.active} may be")
    known.active = {model["vocabulary"]}


def _short(labels: Sequence[str] | None) -> str:
    return "absent" if labels is None else f"{len(labels)} labels from {labels[0]!r}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engine", default=str(assets.MINI))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as state:
        options = ("--engine", given.engine, "--device", given.device, "--state", state)
        report = torment(lambda: Server(*options), given.kills, given.seed)
    rows = [
        ["change, answer", "times"],
        *([key, f"{n:,}"] for key, n in sorted(report.did.items())),
    ]
    show(f"{report.kills} kills", rows)
    print(
        f"{report.interrupted} of them while a vocabulary was changed; {len(report.faults)} faults"
    )
    for fault in report.faults[:20]:
        print(f"FAULT {fault}")
    if report.faults:
        raise SystemExit(1)


if __name__ == "__main__":
    main()

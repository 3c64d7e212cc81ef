"""Runs ``ovml-deploy serve`` as a user does: in a process of its own."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).parents[2]
_END = 60.0  # seconds after which a server that was told to end hangs
_START = "import sys; from ovml_deploy.cli import main; sys.exit(main())"


@dataclass(frozen=True)
class Server:
    """A server that listens. ``grpc``: host:port, None without ``--grpc-port``."""

    url: str
    grpc: str | None
    process: subprocess.Popen[bytes]
    log_file: Path

    @property
    def log(self) -> str:
        """All that it has written so far (standard output and error)."""
        return self.log_file.read_text("utf-8", errors="replace")

    def events(self, name: str | None = None) -> list[dict[str, Any]]:
        """The lines of its log, or those of one event."""
        found = _events(self.log)
        return [event for event in found if name is None or event["event"] == name]


@contextmanager
def running_server(
    bundle: Path | str,
    *options: str,
    env: Mapping[str, str] | None = None,
    python: str = sys.executable,
) -> Iterator[Server]:
    """Yield a server of a bundle on free ports once it listens; it is ended afterwards.

    ``options``: of the command line; ``env``: variables besides this process's; ``python``: whose
    environment it runs in. One that ends before it listens is a RuntimeError with its log.
    """
    ports = () if "--port" in options else ("--port", "0")
    command = [python, "-c", _START, "serve", "--engine", str(bundle), *ports, *options]
    environment = {**os.environ, "PYTHONPATH": str(_ROOT), **(env or {})}
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        with log.open("wb") as file:
            process = subprocess.Popen(command, env=environment, stdout=file, stderr=file)
        try:
            started = _wait(process, log)
            yield Server(started["url"], started.get("grpc"), process, log)
        finally:
            _end(process)


def _wait(process: subprocess.Popen[bytes], log: Path) -> dict[str, Any]:
    while True:  # the test's own timeout ends it
        ended = process.poll() is not None
        text = log.read_text("utf-8", errors="replace")
        for event in _events(text):
            if event["event"] == "listening":
                return event
        if ended:
            raise RuntimeError(f"The server ended with {process.returncode}: {text[-4000:]}")
        time.sleep(0.02)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_END)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _events(text: str) -> list[dict[str, Any]]:
    found = []
    for line in text.splitlines():
        try:
            event = json.loads(line)
        except ValueError:  # not of the log, or not whole yet
            continue
        if isinstance(event, dict) and "event" in event:
            found.append(event)
    return found

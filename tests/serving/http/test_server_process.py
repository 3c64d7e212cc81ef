"""``ovml-deploy serve`` as a process: how it starts, how it ends, and what outlives it."""

import io
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from http_client import Client, part
from in_process import until
from PIL import Image
from servers import Server, running_server

from ovml_deploy.cli import main
from ovml_deploy.runtime.tagger import Tagger

HOME = "/v1/vocabularies"
WAIT = "?wait=30"
CPU = ("--device", "cpu")

#: Ends the engine's thread as an error of its own would, when the process gets SIGUSR1.
END_ENGINE = """
import ctypes, signal, threading

def end(*ignored):
    for thread in threading.enumerate():
        if thread.name == "ovml-engine":
            ctypes.pythonapi.PyThreadState_SetAsyncExc(
                ctypes.c_ulong(thread.ident), ctypes.py_object(MemoryError))

signal.signal(signal.SIGUSR1, end)
"""


@contextmanager
def running(bundle: Path, *options: str, **more) -> Iterator[tuple[Server, Client]]:
    with running_server(bundle, *options, **more) as server:
        yield server, Client(server.url)


def large() -> bytes:
    """An image of 49 megapixels in few bytes, which takes a while to decode."""
    file = io.BytesIO()
    Image.new("1", (7000, 7000)).save(file, "PNG")
    return file.getvalue()


LONG_WORK = [part("image", large(), "a.png")] * 6


def inside(client: Client) -> int:
    """How many images are inside."""
    lines = client.get("/metrics").body.decode().splitlines()
    line = next(line for line in lines if line.startswith("ovml_images_inside"))
    return int(float(line.split()[1]))


def serve(*options: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a server that shall not start."""
    port = () if "--port" in options else ("--port", "0")
    return subprocess.run(
        [sys.executable, "-m", "ovml_deploy.cli", "serve", *port, *options],
        capture_output=True,
        text=True,
        env={**os.environ, **variables},
    )


def test_it_starts_tags_and_ends(tiny_bundle: Path, tagger: Tagger, images) -> None:
    with running(tiny_bundle, *CPU) as (server, client):
        assert client.get("/readyz").status == 200
        found = client.tag(images[0]).json["results"][0]["tags"]
        assert [tag["label"] for tag in found] == [tag.label for tag in tagger.tag(images[0])]
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait() == 0
        assert server.events("drained")
        assert "Traceback" not in server.log


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_requests_in_flight_are_answered_before_the_end(
    tiny_bundle: Path, number: signal.Signals
) -> None:
    with running(tiny_bundle, *CPU) as (server, client), ThreadPoolExecutor(1) as pool:
        answer = pool.submit(client.upload, "/v1/tag", *LONG_WORK)
        until(lambda: inside(client) == 6)
        server.process.send_signal(number)
        reply = answer.result()
        assert reply.status == 200
        assert [result["error"] for result in reply.json["results"]] == [None] * 6
        assert server.process.wait() == 0
        with pytest.raises(OSError, match="refused"):
            client.get("/healthz")
        assert "Traceback" not in server.log


def test_what_takes_too_long_to_end_is_refused(tiny_bundle: Path) -> None:
    options = ("--drain", "0", *CPU)
    with running(tiny_bundle, *options) as (server, client), ThreadPoolExecutor(1) as pool:
        answer = pool.submit(client.upload, "/v1/tag", *LONG_WORK)
        until(lambda: inside(client) == 6)
        server.process.send_signal(signal.SIGTERM)
        reply = answer.result()
        assert (reply.status, reply.kind) == (503, "stopping")
        assert server.process.wait() == 0
        assert "Traceback" not in server.log


def test_a_dead_engine_ends_the_process_with_an_error(
    tiny_bundle: Path, images, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(END_ENGINE)
    paths = f"{tmp_path}:{Path(__file__).parents[3]}"
    with running(tiny_bundle, *CPU, env={"PYTHONPATH": paths}) as (server, client):
        assert client.tag(images[0]).status == 200
        server.process.send_signal(signal.SIGUSR1)
        seen = set()
        with suppress(OSError):  # soon nobody answers
            while True:  # one of these wakes the thread, which ends
                seen.add(client.tag(images[0]).status)
        assert seen <= {200, 503}
        assert server.process.wait() == 70
        (event,) = [e for e in server.events() if "the engine's thread ended" in e["event"]]
        assert "MemoryError" in event["event"]
        assert event["level"] == "critical"
        (thread,) = [e for e in server.events() if "trace" in e]
        assert "ovml-engine" in thread["event"]


def test_a_port_that_is_taken(tiny_bundle: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = serve("--engine", str(tiny_bundle), "--port", port, *CPU)
    assert done.returncode == 2
    assert f"error: 127.0.0.1:{port} cannot be listened on" in done.stderr
    assert "Traceback" not in done.stderr


KEY = "0123456789abcdef"


def refused(capsys, *options: str) -> str:
    """Run a command line that is refused before anything begins; return what it says."""
    assert main(["serve", *options]) in (1, 2)
    text = capsys.readouterr().err
    assert text.startswith("error: ")
    return text


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3", "example.org"])
def test_a_public_address_needs_a_key(capsys, monkeypatch, tmp_path: Path, host: str) -> None:
    assert "there is no API key" in refused(capsys, f"--host={host}")
    monkeypatch.setenv("OVML_API_KEY", "short one")
    text = refused(capsys, f"--host={host}")
    assert "16 ASCII characters" in text
    assert "short one" not in text
    monkeypatch.setenv("OVML_API_KEY", "")
    assert "16 ASCII characters" in refused(capsys, f"--host={host}")
    monkeypatch.setenv("OVML_API_KEY_FILE", str(tmp_path / "none"))
    assert "none" in refused(capsys, f"--host={host}")
    (tmp_path / "key").write_bytes(b"\xff" * 20)
    assert "ASCII" in refused(capsys, f"--host={host}", f"--api-key-file={tmp_path / 'key'}")


def test_a_public_address_with_a_key(tiny_bundle: Path, tmp_path: Path) -> None:
    public = ("--host", "0.0.0.0", *CPU)
    (tmp_path / "key").write_text(f"{KEY}\n")
    for options, env in (
        (("--api-key-file", str(tmp_path / "key")), {}),
        ((), {"OVML_API_KEY": KEY}),
    ):
        with running(tiny_bundle, *public, *options, env=env) as (server, client):
            local = Client(client.url.replace("0.0.0.0", "127.0.0.1"))
            assert local.get("/v1/model").status == 401
            assert local.get("/v1/model", x_api_key=KEY).status == 200
            assert KEY not in server.log
    with running(tiny_bundle, *public, "--insecure") as (_, client):
        assert Client(client.url.replace("0.0.0.0", "127.0.0.1")).get("/v1/model").status == 200


def test_the_words_to_start_with(tiny_bundle: Path, tmp_path: Path, images) -> None:
    (tmp_path / "My Words.txt").write_text("boat\ncat\n")
    for options, name in (
        (("--labels", "boat, cat"), "start"),
        (("--vocab", str(tmp_path / "My Words.txt")), "my-words"),
    ):
        with running(tiny_bundle, *options, *CPU) as (_, client):
            assert client.tag(images[0]).json["vocabulary"]["name"] == name
            assert client.get(f"{HOME}/{name}").json["texts"] == ["boat", "cat"]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--labels", "a", "--vocab", "b.txt"), "not both"),
        (("--labels", "a,a"), "repeats"),
        (("--vocab", "/none.txt"), "cannot be read"),
        (("--max-batch", "0"), "at least 1"),
        (("--max-delay-ms", "nan"), "--max-delay-ms: 'nan' is not a number"),
        (("--max-delay-ms", "-1"), "max_delay"),
        (("--drain", "inf"), "drain"),
        (("--max-pixels", "0"), "max_pixels"),
        (("--log-level", "loud"), "--log-level is 'loud'"),
        (("--port", "eighty"), "not a whole number"),
    ],
)
def test_options_that_cannot_be(capsys, options: tuple[str, ...], text: str) -> None:
    assert text in refused(capsys, *options)


@pytest.mark.parametrize(
    ("options", "text"),
    [(("--port", "70000"), "There is no port 70000"), (("--engine", "/none"), "/none")],
)
def test_what_cannot_be_served(tiny_bundle: Path, options: tuple[str, ...], text: str) -> None:
    engine = () if "--engine" in options else ("--engine", str(tiny_bundle))
    done = serve(*engine, *CPU, *options)
    assert done.returncode in (1, 2)
    assert text in done.stderr
    assert "Traceback" not in done.stderr


def test_vocabularies_outlive_kill_9(tiny_bundle: Path, tmp_path: Path, images) -> None:
    options = ("--state", str(tmp_path / "state"), *CPU)
    with running(tiny_bundle, *options) as (server, client):
        kept = client.put(f"{HOME}/mine{WAIT}", labels=["boat", "cat"]).json
        client.post(f"{HOME}/mine/activate")
        words = [f"thing {time.time_ns()} {i}" for i in range(2000)]
        assert client.put(f"{HOME}/late", labels=words).status == 202
        with pytest.raises(RuntimeError, match="Another process keeps its vocabularies"):
            running_server(tiny_bundle, *options).__enter__()
        server.process.kill()
        server.process.wait()
    with running(tiny_bundle, *options) as (_, client):
        assert client.get(f"{HOME}/mine").json == {**kept, "active": True, "texts": ["boat", "cat"]}
        used = client.tag(images[0]).json["vocabulary"]
        assert used == {"name": "mine", "version": 1, "id": kept["id"], "labels": 2}
        until(lambda: client.get(f"{HOME}/late").json["state"] == "ready")
        assert client.get(f"{HOME}/late").json["texts"] == words
    with running(tiny_bundle, *options, "--labels", "tree") as (_, client):
        assert client.get("/v1/model").json["vocabulary"] == "start"
        assert client.get(f"{HOME}/late").json["state"] == "ready"


def test_without_state_vocabularies_are_forgotten(tiny_bundle: Path) -> None:
    for _ in range(2):
        with running(tiny_bundle, *CPU) as (_, client):
            assert client.get(f"{HOME}/mine").status == 404
            client.put(f"{HOME}/mine{WAIT}", labels=["boat"])


BLOCK = """
import sys
for name in ["torch", "torchvision", "open_clip", "timm", "transformers", "onnx", "onnxscript"]:
    sys.modules[name] = None
"""


@pytest.mark.parametrize("torch", ["blocked", "absent"])
def test_it_serves_without_torch(tiny_bundle: Path, tmp_path: Path, images, torch: str) -> None:
    python, paths = sys.executable, str(Path(__file__).parents[3])
    if torch == "blocked":
        (tmp_path / "sitecustomize.py").write_text(BLOCK)
        paths = f"{tmp_path}:{paths}"
    else:
        python = os.environ.get("OVML_RUNTIME_PYTHON", "")
        if not python:
            pytest.skip("OVML_RUNTIME_PYTHON names no environment without torch ('make test' does)")
        serving = subprocess.run([python, "-c", "import fastapi, uvicorn, prometheus_client"])
        if serving.returncode:
            pytest.skip(f"{python} lacks the server's packages ('ovml-deploy[serve]')")
    env = {"PYTHONPATH": paths, "OVML_CACHE": str(tmp_path / "cache")}
    with running(tiny_bundle, *CPU, python=python, env=env) as (_, client):
        assert client.tag(images[0], "?labels=boat,tree").status == 200
        assert client.put(f"{HOME}/mine{WAIT}", labels=["boat"]).status == 200
        assert client.get("/readyz").status == 200


def test_serving_needs_its_extra(tiny_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['fastapi'] = None\n")
    paths = f"{tmp_path}:{Path(__file__).parents[3]}"
    done = serve("--engine", str(tiny_bundle), *CPU, PYTHONPATH=paths)
    assert done.returncode == 1
    assert "pip install 'ovml-deploy[serve]'" in done.stderr

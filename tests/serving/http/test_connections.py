"""Connections that are slow, too many, or hang up, and what is not quite HTTP."""

import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from socket import SO_RCVBUF, SOL_SOCKET

import pytest
from http_client import part
from in_process import Held, Served, served, until

from ovml_deploy.runtime.engine import Engine
from ovml_deploy.serving.settings import Settings

JPEG = {"content_type": "image/jpeg"}


# How long


def test_a_body_that_comes_too_slowly(engine: Engine, images) -> None:
    with served(engine, Settings(body_timeout=1.5)) as server, server.line() as line:
        line.start("POST", "/v1/tag", content_length="1000", **JPEG)
        line.send(b"x" * 999)
        reply = line.reply()
        assert (reply.status, reply.kind) == (408, "slow")
        assert line.rest() == b""
        assert server.tag(images[0]).status == 200


def test_headers_that_come_too_slowly(engine: Engine) -> None:
    with served(engine, Settings(head_timeout=1.5)) as server:
        for start in (b"", b"GET /heal", b"GET /healthz HTTP/1.1\r\nhost: local"):
            with server.line() as line:
                line.send(start)
                assert line.rest() == b""
        with server.line() as line:  # and those of a second request
            for _ in range(2):
                line.start("GET", "/healthz")
                assert line.reply().status == 200
            line.send(b"GET ")
            assert line.rest() == b""


def test_a_body_that_nobody_reads_may_not_come_for_ever(held: Held, images) -> None:
    settings = Settings(max_queue=1, body_timeout=0.5, request_timeout=3.0)
    with served(held, settings) as server, ThreadPoolExecutor(1) as pool:
        first = pool.submit(server.tag, images[0])
        until(lambda: held.batches)
        with server.line() as line:
            line.start("POST", "/v1/tag", content_length="1000", **JPEG)
            assert line.reply().status == 429
            line.send(b"x")
            assert line.rest() == b""
        assert first.result().kind == "timeout"
        held.open.set()


def test_work_that_takes_too_long(held: Held, images) -> None:
    with served(held, Settings(request_timeout=0.3)) as server:
        reply = server.tag(images[0])
        assert (reply.status, reply.kind) == (503, "timeout")
        assert reply.headers["retry-after"] == "1"
        until(lambda: server.metric("ovml_images_inside") == 0)
        held.open.set()
        until(lambda: server.tag(images[0]).status == 200)


def test_an_answer_that_nobody_reads(engine: Engine) -> None:
    with served(engine, Settings(request_timeout=0.5)) as server, server.line() as line:
        line.socket.setsockopt(SOL_SOCKET, SO_RCVBUF, 4096)
        ask = f"GET /openapi.json HTTP/1.1\r\nhost: {server.host}\r\n\r\n".encode()
        line.send(ask * 1000)  # more than the system keeps for it
        until(lambda: not server.server.server_state.connections)


# Too much to do


def test_whoever_is_too_many_hears_it_at_once(held: Held, images) -> None:
    with served(held, Settings(max_queue=3)) as server, ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(server.tag, image) for image in images[:3]]
        until(lambda: server.metric("ovml_images_inside") == 3)
        for reply in (
            server.tag(images[3]),
            server.upload("/v1/encode", part("image", images[3], "a")),
            server.post("/v1/match", features=[{"shape": [3, 32], "data": ""}]),
        ):
            assert (reply.status, reply.kind) == (429, "overloaded")
            assert int(reply.headers["retry-after"]) >= 1
        assert server.get("/healthz").status == 200
        assert server.get("/v1/vocabularies").status == 200
        held.open.set()
        assert [future.result().status for future in waiting] == [200] * 3
        until(lambda: server.metric("ovml_images_inside") == 0)
        assert server.tag(images[3]).status == 200
        assert server.metric("ovml_errors_total", kind="overloaded") == 3


def test_a_refused_body_is_dropped_and_the_connection_lives(held: Held, images) -> None:
    with served(held, Settings(max_queue=1)) as server, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(server.tag, images[0])
        until(lambda: held.batches)
        with server.line() as line:
            for _ in range(2):
                line.start("POST", "/v1/tag", content_length="200000", **JPEG)
                line.send(b"x" * 200_000)
                assert line.reply().status == 429
            held.open.set()
            waiting.result()
            until(lambda: server.metric("ovml_images_inside") == 0)
            line.start("POST", "/v1/tag", content_length=str(len(images[0])), **JPEG)
            line.send(images[0])
            assert line.reply().status == 200


def test_a_client_that_hangs_up_frees_its_place(held: Held, images, caplog) -> None:
    with served(held, Settings(max_queue=2, max_batch=1)) as server, ThreadPoolExecutor(1) as pool:
        first = pool.submit(server.tag, images[0])
        until(lambda: held.batches)
        with server.line() as line:
            line.start("POST", "/v1/tag", content_length=str(len(images[1])), **JPEG)
            line.send(images[1])
            until(lambda: server.metric("ovml_images_inside") == 2)
            assert server.tag(images[2]).status == 429
        until(lambda: server.metric("ovml_images_inside") == 1)
        assert server.metric("ovml_requests_total", route="/v1/tag", status="499") == 1
        held.open.set()
        assert first.result().status == 200
        assert server.tag(images[2]).status == 200
    assert held.batches == [1, 1]  # what nobody waits for is not computed
    assert not [record for record in caplog.records if record.exc_info], caplog.text


def test_hanging_up_within_the_body_is_no_error(server: Served, images, caplog) -> None:
    before = server.metric("ovml_requests_total", route="other", status="499")
    with server.line() as line:
        line.start("POST", "/v1/tag", content_length=str(len(images[0])), **JPEG)
        line.send(images[0][:50])
    until(lambda: server.metric("ovml_requests_total", route="other", status="499") == before + 1)
    assert not [record for record in caplog.records if record.exc_info], caplog.text


def test_hanging_up_after_several_requests_is_no_error(held: Held, images, caplog) -> None:
    """Nor where what follows a request is none, which also frees its place."""
    with served(held, Settings(max_batch=1)) as server:
        with server.line() as line:
            line.start("POST", "/v1/tag", content_length=str(len(images[0])), **JPEG)
            line.send(images[0])
            until(lambda: held.batches)
            line.send(b"nonsense\r\n\r\n")
            assert line.reply().status == 400
        until(lambda: server.metric("ovml_images_inside") == 0)
        with server.line() as line:
            for image in images[:3]:
                line.start("POST", "/v1/tag", content_length=str(len(image)), **JPEG)
                line.send(image)
            until(lambda: server.metric("ovml_images_inside") == 1)
        held.open.set()
        until(lambda: server.metric("ovml_images_inside") == 0)
        assert server.tag(images[0]).status == 200
    assert not [record for record in caplog.records if record.exc_info], caplog.text


def test_silent_connections_beyond_the_limit_are_cut(engine: Engine) -> None:
    """They hold no place until their headers are through, but a file of the system's each."""
    settings = Settings(max_connections=2, head_timeout=600)
    with served(engine, settings) as server, ExitStack() as lines:
        opened = [lines.enter_context(server.line()) for _ in range(102)]
        until(lambda: len(server.server.server_state.connections) == 102)
        for _ in range(3):
            with server.line() as line:
                assert line.rest() == b""
        until(lambda: len(server.server.server_state.connections) == 102)
        opened[0].start("GET", "/healthz")  # those before are told so
        assert opened[0].reply().status == 429
        lines.close()
        until(lambda: server.get("/healthz").status == 200)


# Odd HTTP


@pytest.mark.parametrize(
    "sent",
    [
        b"nonsense\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /v1/tag HTTP/1.1\r\nhost: localhost\r\ncontent-length: -5\r\n\r\n",
        b"POST /v1/tag HTTP/1.1\r\nhost: localhost\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n",
        b"POST /v1/tag HTTP/1.1\r\nhost: localhost\r\ncontent-length: 99999999999999999999999\r\n\r\n",
        b"POST /v1/tag HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"CONNECT evil.example:443 HTTP/1.1\r\nhost: localhost\r\n\r\n",
        b"GET http://evil.example HTTP/1.1\r\nhost: localhost\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nhost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: local\x00host\r\n\r\n",
    ],
)
def test_what_is_no_http_is_answered_so(server: Served, sent: bytes) -> None:
    with server.line() as line:
        line.send(sent)
        reply = line.reply()
    assert (reply.status, reply.kind) == (400, "request")
    assert reply.headers["connection"] == "close"


def test_another_protocol_is_declined(server: Served, images) -> None:
    """Java's client and others offer HTTP/2 with their first request, body and all."""
    with server.line() as line:
        offer = {"upgrade": "h2c", "connection": "Upgrade, HTTP2-Settings", "http2_settings": "AA"}
        length = str(len(images[0]))
        for _ in range(2):
            line.start("POST", "/v1/tag", content_length=length, **offer, **JPEG)
            line.send(images[0])
            assert line.reply().status == 200
        line.start("GET", "/healthz", **offer)
        assert line.reply().status == 200


def test_another_protocol_is_declined_very_often(server: Served, caplog) -> None:
    """In one segment, as of a client that waits for nothing."""
    offer = "connection: Upgrade\r\nupgrade: h2c"
    ask = f"GET /healthz HTTP/1.1\r\nhost: {server.host}\r\n{offer}\r\n\r\n".encode()
    last = ask.replace(b": Upgrade", b": close, Upgrade")
    with server.line() as line:
        line.send(ask * 1500 + last)
        answers = line.rest()
    assert answers.count(b"HTTP/1.1 200 OK\r\n") == 1501
    assert answers.count(b"connection: close\r\n") == 1
    assert not [record for record in caplog.records if record.exc_info], caplog.text


def test_another_protocol_is_declined_and_the_connection_closed(server: Served) -> None:
    """As a client asks that says ``Connection: close`` beside, or whose HTTP is 1.0."""
    asked = ("HTTP/1.1", "Upgrade, close"), ("HTTP/1.1", "close,upgrade"), ("HTTP/1.0", "upgrade")
    for version, words in asked:
        fields = f"host: {server.host}\r\nupgrade: h2c\r\nconnection: {words}\r\n"
        with server.line() as line:
            line.send(f"GET /healthz {version}\r\n{fields}\r\n".encode())
            answer = line.rest()  # to the end, which comes
        assert answer.startswith(b"HTTP/1.1 200 OK")


CHUNKED = {"transfer_encoding": "chunked", **JPEG}


def test_trailers_are_no_headers(engine: Engine, images) -> None:
    """What comes behind a body is for nobody: a key neither, nor where the request is from."""
    body = b"%x\r\n%s\r\n0\r\n" % (len(images[0]), images[0])
    trailers = b"x-api-key: %s\r\norigin: http://evil.example\r\n\r\n" % (b"k" * 16)
    with served(engine, Settings(api_key="k" * 16), local=False) as server:
        for key, status in (("", 401), ("k" * 16, 200)):
            with server.line() as line:
                line.start("POST", "/v1/tag", x_api_key=key, **CHUNKED)
                line.send(body + trailers)
                assert line.reply().status == status


@pytest.mark.parametrize(
    "trailers", [b"a: b\r\n" * 60_000, b"a: " + b"b" * 400_000, b"a" * 400_000], ids=len
)
def test_trailers_may_not_come_for_ever(server: Served, images, trailers: bytes) -> None:
    with server.line() as line:
        line.start("POST", "/v1/tag", **CHUNKED)
        line.send(b"%x\r\n%s\r\n0\r\n" % (len(images[0]), images[0]))
        with suppress(ConnectionError):
            line.send(trailers)  # and never the end of them
        with suppress(ConnectionError):  # of what was sent, not all was read
            assert (reply := line.reply()).status == 400
            assert "too long" in reply.json["error"]["message"]
        assert line.rest() == b""
    assert server.tag(images[0]).status == 200


def test_chunks_of_every_size_are_no_trailers(server: Served, tagger, images) -> None:
    """However much they are together, and wherever segments end."""
    image = images[0] + bytes(300_000)
    with server.line() as line:
        for size in (1, 77, 70_000, len(image)):
            line.start("POST", "/v1/tag", **CHUNKED)
            for start in range(0, len(image), size) if size > 1 else range(50):
                part_ = image[start : start + size]
                line.send(b"%x\r\n" % len(part_))
                line.send(part_ + b"\r\n")
            if size == 1:
                line.send(b"%x\r\n%s\r\n" % (len(image) - 50, image[50:]))
            line.send(b"0\r\n" + b"a: b\r\n" * 100)
            line.send(b"\r\n")
            (result,) = line.reply().json["results"]
            assert result["tags"][0]["label"] == tagger.tag(images[0])[0].label


def test_requests_that_do_not_wait_for_answers(server: Served, tagger, images) -> None:
    with server.line() as line:
        for image in images:
            line.start("POST", "/v1/tag", content_length=str(len(image)), **JPEG)
            line.send(image)
        file = line.socket.makefile("rb")
        for image in images:
            head = iter(file.readline, b"\r\n")
            lengths = [int(f.split(b":")[1]) for f in head if f.startswith(b"content-length")]
            (result,) = json.loads(file.read(lengths[0]))["results"]
            assert result["tags"][0]["label"] == tagger.tag(image)[0].label


def test_a_client_that_asks_before_it_sends(server: Served, images) -> None:
    with server.line() as line:
        fields = {"content_length": str(len(images[0])), "expect": "100-continue"}
        line.start("POST", "/v1/tag", **fields, **JPEG)
        assert line.socket.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        line.send(images[0])
        assert line.reply().status == 200

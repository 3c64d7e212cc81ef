"""Who is let in, what is too much, and what becomes of errors."""

import gzip
import io
import json
import logging
import struct
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import pytest
from http_client import Line, Reply, part
from in_process import Held, Served, served, until
from PIL import Image

from ovml_deploy.errors import DeviceError
from ovml_deploy.runtime.engine import Engine
from ovml_deploy.serving.logs import JsonFormatter
from ovml_deploy.serving.settings import Settings

KEY = "a key of this test"
JPEG = {"content_type": "image/jpeg"}
_JPEG = {"content-type": "image/jpeg"}


@pytest.fixture(scope="module")
def locked(engine: Engine) -> Iterator[Served]:
    with served(engine, Settings(api_key=KEY), local=False) as server:
        yield server


def chunks(line: Line, data: bytes, size: int) -> None:
    for start in range(0, len(data), size):
        piece = data[start : start + size]
        line.send(b"%x\r\n%s\r\n" % (len(piece), piece))
    line.send(b"0\r\n\r\n")


# The key


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": f"Bearer {KEY}"},
        {"authorization": f"bearer  {KEY}"},
        {"x_api_key": KEY},
        {"authorization": "Basic dTpw", "x_api_key": KEY},
    ],
)
def test_a_key_opens(locked: Served, images, headers: dict[str, str]) -> None:
    assert locked.get("/v1/model", **headers).status == 200
    assert locked.get("/metrics", **headers).status == 200
    assert locked.tag(images[0], **headers).status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": ""},
        {"authorization": "Bearer"},
        {"authorization": "Bearer "},
        {"authorization": f"Bearer {KEY[:-1]}"},
        {"authorization": f"Bearer {KEY}x"},
        {"authorization": f"Basic {KEY}"},
        {"authorization": KEY},
        {"authorization": "Bearer wrong", "x_api_key": KEY},
        {"x_api_key": KEY.upper()},
        {"x_api_key": "clé"},
        {"cookie": f"key={KEY}"},
    ],
)
@pytest.mark.parametrize(
    "path", ["/v1/model", "/metrics", "/openapi.json", "/v1/vocabularies", "/nothing", "//healthz"]
)
def test_without_the_key_nothing_does(locked: Served, headers: dict[str, str], path: str) -> None:
    reply = locked.get(path, **headers)
    assert (reply.status, reply.kind) == (401, "key")
    assert reply.headers["www-authenticate"] == "Bearer"
    assert KEY not in str(reply)


def test_nothing_is_done_without_the_key(locked: Served, images) -> None:
    before = locked.metric("ovml_images_total")
    assert locked.tag(images[0]).status == 401
    assert locked.put("/v1/vocabularies/mine", labels=["cat"]).status == 401
    assert locked.delete("/v1/vocabularies/few").status == 401
    assert locked.metric("ovml_images_total") == before
    assert "mine" not in locked.service.vocabularies


def test_probes_need_no_key(locked: Served) -> None:
    assert locked.get("/healthz").status == 200
    assert locked.get("/readyz").status == 200
    assert locked.get("/page/nothing").status == 404


def test_a_key_in_the_query_is_none(locked: Served) -> None:
    """Queries end up in logs."""
    assert locked.get(f"/v1/model?key={KEY.replace(' ', '%20')}").status == 401


# From where


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "", "[", "10.0.0.1", "[::2]"]
)
def test_other_names_are_refused_where_there_is_no_key(server: Served, host: str) -> None:
    """A page of evil.example, whose name was made to lead here, is not served."""
    for path in ("/v1/model", "/healthz", "/"):
        reply = server.get(path, host=host)
        assert (reply.status, reply.kind) == (403, "host")


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:80", "127.0.0.1", "127.1.2.3", "[::1]:9"])
def test_this_machines_names_are_not(server: Served, host: str) -> None:
    assert server.get("/v1/model", host=host).status == 200


def test_with_a_key_names_do_not_matter(locked: Served) -> None:
    assert locked.get("/v1/model", host="tags.example", x_api_key=KEY).status == 200


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "", "http://[", "file://"])
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_pages_of_others_change_nothing(server: Served, images, origin: str, method: str) -> None:
    headers = {"origin": origin, "content-type": "image/jpeg"}
    path = "/v1/tag" if method == "POST" else "/v1/vocabularies/mine"
    reply = server.ask(method, path, images[0], headers)
    assert (reply.status, reply.kind) == (403, "origin")
    assert "access-control-allow-origin" not in reply.headers


def test_the_own_page_may(server: Served, images) -> None:
    assert server.tag(images[0], origin=server.url).status == 200
    assert server.get("/v1/model", origin="http://evil.example").status == 200  # to read, no CORS


# How much


def test_a_body_that_is_too_large(engine: Engine, images) -> None:
    """Whether it says so before, or only turns out to be; the answer arrives in both cases."""
    with served(engine, Settings(max_body=100_000)) as server:
        announced = server.tag(b"x" * 20_000_000)
        with server.line() as line:
            line.start("POST", "/v1/tag", transfer_encoding="chunked", **JPEG)
            chunks(line, b"x" * 1_000_000, 50_000)
            chunked = line.reply()
            assert line.rest() == b""
        for reply in (announced, chunked):
            assert (reply.status, reply.kind) == (413, "too_large")
            assert "at most 100,000 bytes" in reply.json["error"]["message"]
            assert reply.headers["connection"] == "close"
        with server.line() as line:
            line.start("POST", "/v1/tag", transfer_encoding="chunked", **JPEG)
            chunks(line, images[0], 100)
            assert line.reply().status == 200


def test_bytes_of_all_requests_together(engine: Engine, images) -> None:
    with served(engine, Settings(max_bytes_inside=300_000)) as server, server.line() as line:
        line.start("POST", "/v1/tag", content_length="400000", **JPEG)
        line.send(b"x" * 250_000)
        until(lambda: server.service.bytes_inside == 250_000)
        refused = [server.tag(b"x" * 100_000) for _ in range(2)]
        assert [(reply.status, reply.kind) for reply in refused] == [(429, "overloaded")] * 2
        line.socket.close()
        until(lambda: server.tag(b"x" * 100_000).kind == "image")


def test_pixels_are_counted_before_they_are_decoded(engine: Engine) -> None:
    """Headers of a bomb: nothing but the size is there, so that decoding would fail otherwise."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0))
    bomb = b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0" * 1_000_000))
    gif = b"GIF89a" + struct.pack("<HHBBB", 65_000, 65_000, 0x80, 0, 0) + bytes(6) + b";"
    real = io.BytesIO()
    Image.new("1", (9000, 9000)).save(real, "PNG")
    assert len(real.getvalue()) < 20_000
    with served(engine) as server:
        for image in (bomb, gif, real.getvalue()):
            reply = server.tag(image)
            assert (reply.status, reply.kind) == (422, "image")
        assert "too many pixels (9000x9000)" in reply.json["error"]["message"]
        assert server.get("/readyz").status == 200


@pytest.mark.parametrize(
    "head",
    [
        "GET /healthz HTTP/1.1\r\nhost: localhost\r\nx: {long}\r\n\r\n",
        "GET /healthz HTTP/1.1\r\nhost: localhost\r\n{long}",
        "GET /{long} HTTP/1.1\r\nhost: localhost\r\n\r\n",
        "{long}",
    ],
)
def test_headers_that_are_too_long(server: Served, head: str) -> None:
    with server.line() as line:
        with suppress(OSError):
            line.send(head.format(long="x" * 300_000).encode())
        answer = line.rest()
    assert answer == b"" or answer.startswith((b"HTTP/1.1 400", b"HTTP/1.1 404")), answer
    assert server.get("/healthz").status == 200


def test_many_small_headers(server: Served) -> None:
    with server.line() as line:
        fields = b"".join(b"x-%d: 1\r\n" % i for i in range(10_000))
        line.send(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n")
        line.send(fields)
        reply = line.reply()
    assert (reply.status, reply.kind) == (400, "request")


def test_long_headers_that_come_at_once(server: Served) -> None:
    """However large the pieces are in which the system hands them over."""
    with server.line() as line:
        line.start("GET", "/healthz", x="y" * 70_000)
        reply = line.reply()
    assert (reply.status, reply.kind) == (400, "request")
    with server.line() as line:
        line.start("GET", "/healthz", x="y" * 60_000)
        assert line.reply().status == 200


def test_more_connections_than_are_allowed(engine: Engine) -> None:
    with served(engine, Settings(max_connections=3)) as server, ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(server.line())
        until(lambda: len(server.server.server_state.connections) == 3)
        reply = server.get("/healthz")
        assert (reply.status, reply.kind, reply.headers["retry-after"]) == (429, "overloaded", "1")
        stack.close()
        until(lambda: server.get("/healthz").status == 200)


# Errors and the log


def test_errors_have_no_trace(held: Held, images, caplog) -> None:
    """Of an error that is nobody's but ours, a client learns that it is."""
    with served(held) as server:
        held.open.set()
        held.error = DeviceError("the card /dev/secret is hot")
        failed = server.tag(images[0])
        assert (failed.status, failed.kind) == (503, "engine")
        assert "secret" not in str(failed)
        assert failed.headers["retry-after"]
        held.error = None
        server.service.choose = None  # type: ignore[method-assign]
        broken = server.tag(images[0])
        assert (broken.status, broken.kind) == (500, "internal")
        assert "Traceback" not in str(broken)
        assert "NoneType" not in str(broken)
        (record,) = [record for record in caplog.records if record.exc_info]
        assert broken.headers["x-request-id"] == record.request
        assert server.get("/healthz").status == 200


def test_the_log_is_json_and_holds_nothing_of_the_images(server: Served, images, caplog) -> None:
    caplog.set_level(logging.DEBUG, "ovml_deploy")
    parts = [part("image", images[0], "private name.jpg"), part("labels", b"private words")]
    answered: list[Reply] = [
        server.tag(images[0], "?labels=private%20words"),
        server.upload("/v1/tag", *parts),
        server.tag(b"private bytes"),
        server.get("/v1/vocabularies/private%0Aline", x_api_key="private key"),
        server.get("/healthz"),
    ]
    until(lambda: sum(record.msg == "request" for record in caplog.records) == len(answered))
    lines = [JsonFormatter().format(record) for record in caplog.records]
    facts = [json.loads(line) for line in lines]
    requests = [fact for fact in facts if fact["event"] == "request"]
    assert [fact["request"] for fact in requests] == [r.headers["x-request-id"] for r in answered]
    assert [fact["status"] for fact in requests] == [200, 200, 422, 404, 200]
    assert [fact["level"] for fact in requests] == ["info"] * 4 + ["debug"]
    assert requests[3]["path"] == "/v1/vocabularies/private\nline"
    assert all("\n" not in line for line in lines)
    assert all(fact["ms"] >= 0 and fact["client"] == "127.0.0.1" for fact in requests)
    for secret in ("private name", "private words", "private bytes", "private key", "JFIF"):
        assert not any(secret in line for line in lines)


def test_every_answer_says_what_it_is(server: Served, images) -> None:
    for reply in (server.tag(images[0]), server.get("/nothing"), server.get("/v1/model")):
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert len(reply.headers["x-request-id"]) == 32
        assert "server" not in reply.headers


# Compressed bodies


@pytest.mark.parametrize("encoding", ["gzip", "x-gzip", "br", "zstd", "deflate", "identity, GZIP"])
def test_a_compressed_body_is_refused_by_name(server: Served, images, encoding: str) -> None:
    reply = server.ask(
        "POST", "/v1/tag", gzip.compress(images[0]), {"content-encoding": encoding, **_JPEG}
    )
    assert (reply.status, reply.kind) == (415, "encoding")
    assert encoding.split(", ")[-1].lower() in reply.json["error"]["message"]
    assert "uncompressed" in reply.json["error"]["message"]


@pytest.mark.parametrize(
    ("method", "path", "media"),
    [
        ("POST", "/v1/tag", "application/json"),
        ("POST", "/v1/tag", "multipart/form-data; boundary=b"),
        ("POST", "/v1/encode", "image/jpeg"),
        ("POST", "/v1/match", "application/json"),
        ("PUT", "/v1/vocabularies/packed", "application/json"),
        ("POST", "/v2/models/tagger/infer", "application/octet-stream"),
    ],
)
def test_every_route_refuses_compressed_bodies(
    server: Served, method: str, path: str, media: str
) -> None:
    body = gzip.compress(b'{"labels": ["cat"]}')
    reply = server.ask(method, path, body, {"content-encoding": "gzip", "content-type": media})
    assert reply.status == 415
    assert b"uncompressed" in reply.body
    names = [entry["name"] for entry in server.get("/v1/vocabularies").json["vocabularies"]]
    assert "packed" not in names


def test_a_compressed_transfer_is_refused(server: Served, images) -> None:
    with server.line() as line:
        line.start("POST", "/v1/tag", content_type="image/jpeg", transfer_encoding="gzip, chunked")
        chunks(line, gzip.compress(images[0]), 1000)
        reply = line.reply()
    assert (reply.status, reply.kind) == (415, "encoding")


def test_plain_bodies_may_say_that_they_are_plain(server: Served, images) -> None:
    for encoding in ("identity", "Identity", ""):
        headers = {"content-encoding": encoding, **_JPEG}
        assert server.ask("POST", "/v1/tag", images[0], headers).status == 200
    assert server.ask("GET", "/v1/model", headers={"content-encoding": "gzip"}).status == 200

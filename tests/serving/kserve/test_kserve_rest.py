"""The protocol over HTTP, byte by byte: its errors, its extension, and what does not fit."""

import base64
import json
import random
import sys
from pathlib import Path
from typing import Any

import pytest
from http_client import Reply
from in_process import Held, Served, served, until

from ovml_deploy.runtime.engine import Engine
from ovml_deploy.runtime.tagger import Tagger
from ovml_deploy.serving import service
from ovml_deploy.serving.settings import Settings

PATH = "/v2/models/tiny/infer"
LENGTH = "inference-header-content-length"
KEY = "0123456789abcdef"


def element(image: bytes) -> bytes:
    return len(image).to_bytes(4, "little") + image


def binary(*images: bytes, **more: Any) -> tuple[bytes, dict[str, str]]:
    """Return the body and headers of a request whose images are behind its JSON."""
    tail = b"".join(map(element, images))
    size = {"binary_data_size": len(tail)}
    tensor = {"name": "image", "datatype": "BYTES", "shape": [len(images)], "parameters": size}
    head = json.dumps({"inputs": [tensor], **more}).encode()
    return head + tail, {LENGTH: str(len(head))}


def plain(image: bytes, **more: Any) -> dict[str, Any]:
    """Return a request that is JSON alone."""
    data = [base64.b64encode(image).decode()]
    return {"inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], "data": data}], **more}


def error(reply: Reply) -> str:
    """Return what was wrong, in the protocol's form."""
    assert set(reply.json) == {"error"}
    assert isinstance(reply.json["error"], str)
    return reply.json["error"]


def outputs(reply: Reply) -> dict[str, list[Any]]:
    assert reply.status == 200, reply.body
    return {output["name"]: output["data"] for output in reply.json["outputs"]}


def test_json_both_ways(server: Served, tagger: Tagger, images) -> None:
    reply = server.ask("POST", PATH, json.dumps(plain(images[0], id="mine")).encode())
    assert reply.headers["content-type"] == "application/json"
    assert LENGTH not in reply.headers
    tags = tagger.tag(images[0])
    found = outputs(reply)
    assert found["labels"] == [tag.label for tag in tags]
    assert found["queries"] == [tag.query for tag in tags]
    assert found["scores"] == pytest.approx([tag.score for tag in tags], abs=1e-6)
    assert found["errors"] == [""]
    assert (reply.json["id"], reply.json["model_name"]) == ("mine", "tiny")


def test_heic_is_named_with_the_remedy(server: Served, images, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "pi_heif", None)
    heic = (Path(__file__).parents[2] / "runtime/heic/turned.heic").read_bytes()
    found = outputs(server.ask("POST", PATH, *binary(images[0], heic)))
    assert found["errors"][0] == ""
    assert (
        "is a HEIC image. To read it, install: pip install 'ovml-deploy[heif]'"
        in found["errors"][1]
    )


def test_binary_in_and_some_binary_out(server: Served, tagger: Tagger, images) -> None:
    """Where all are asked for as bytes, one may still be JSON."""
    body, headers = binary(
        *images[:2],
        outputs=[{"name": "labels", "parameters": {"binary_data": False}}, {"name": "queries"}],
        parameters={"binary_data_output": True, "top_k": 1},
    )
    reply = server.ask("POST", PATH, body, headers)
    end = int(reply.headers[LENGTH])
    labels, queries = json.loads(reply.body[:end])["outputs"]
    tags = [tagger.tag(image, top_k=1)[0] for image in images[:2]]
    assert labels["data"] == [tag.label for tag in tags]
    assert queries["parameters"] == {"binary_data_size": 8}
    assert reply.body[end:] == b"".join(tag.query.to_bytes(4, "little") for tag in tags)


def test_health_needs_no_key(engine: Engine, images) -> None:
    with served(engine, Settings(api_key=KEY), local=False) as server:
        assert server.get("/v2/health/live").json == {"live": True}
        assert server.get("/v2/health/ready").json == {"ready": True}
        for path in ("/v2", "/v2/models/tiny", "/v2/models/tiny/ready"):
            reply = server.get(path)
            assert (reply.status, "API key" in error(reply)) == (401, True)
        ready = server.get("/v2/models/tiny/versions/1/ready", authorization=f"Bearer {KEY}")
        assert ready.json == {"name": "tiny", "ready": True}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_engine_that_died_is_not_ready(held: Held, images) -> None:
    held.error = RuntimeError("it broke")
    held.open.set()
    with served(held) as server:
        body, headers = binary(images[0])
        reply = server.ask("POST", PATH, body, headers)
        assert (reply.status, "it broke" in error(reply)) == (503, False)
        until(lambda: server.get("/v2/health/ready").status == 503)
        for path in ("/v2/health/ready", "/v2/models/tiny/ready"):
            reply = server.get(path)
            assert (reply.status, reply.json["ready"]) == (503, False)
            assert reply.json["error"] == "The engine has stopped."
        assert server.get("/v2/health/live").status == 200


def test_who_comes_while_it_is_full(held: Held, images) -> None:
    """He is told when to come back, and whoever hangs up makes room."""
    with served(held, Settings(max_queue=1)) as server:
        body, headers = binary(images[0])
        with server.line() as line:
            line.start("POST", PATH, content_length=str(len(body)), **headers)
            line.send(body)
            until(lambda: server.metric("ovml_images_inside") == 1)
            reply = server.ask("POST", PATH, body, headers)
            assert (reply.status, "at most 1 may be" in error(reply)) == (429, True)
            assert int(reply.headers["retry-after"]) >= 1
        until(lambda: server.metric("ovml_images_inside") == 0)
        held.open.set()
        assert server.ask("POST", PATH, body, headers).status == 200


def test_refused_before_the_body_is_read(engine: Engine) -> None:
    with served(engine, Settings(max_body=1000)) as server:
        reply = server.ask("POST", PATH, bytes(1001))
        assert (reply.status, "at most 1,000 bytes" in error(reply)) == (413, True)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v2/nothing", 404),
        ("GET", PATH, 405),
        ("POST", "/v2/models/tiny", 405),
        ("GET", "/v2/models/other", 404),
        ("GET", "/v2/models/tiny/versions/9", 404),
        ("GET", "/v2/models/tiny/config", 404),
        ("POST", "/v2/models/other/infer", 404),
        ("POST", "/v2/repository/index", 404),
    ],
)
def test_what_is_not_there(server: Served, method: str, path: str, status: int) -> None:
    reply = server.ask(method, path)
    assert reply.status == status
    assert error(reply)


IMAGE = {"name": "image", "datatype": "BYTES", "shape": [1]}


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ({}, "inputs"),
        ({"inputs": []}, "inputs"),
        ({"inputs": [IMAGE]}, "one of the two"),
        (
            {"inputs": [{**IMAGE, "data": ["QQ=="], "parameters": {"binary_data_size": 0}}]},
            "the two",
        ),
        ({"inputs": [{**IMAGE, "data": "QQ=="}]}, "data"),
        ({"inputs": [{**IMAGE, "data": ["no base64"]}]}, "not base64"),
        ({"inputs": [{**IMAGE, "data": [1]}]}, "base64"),
        ({"inputs": [{**IMAGE, "shape": [2], "data": ["QQ=="]}]}, "2 elements; 1 came"),
        ({"inputs": [{**IMAGE, "shape": [-1], "data": ["QQ=="]}]}, "[-1] came"),
        ({"inputs": [{**IMAGE, "shape": [0], "data": []}]}, "from 1 up"),
        ({"inputs": [{**IMAGE, "shape": [1] * 99, "data": ["QQ=="]}]}, "shape"),
        ({"inputs": [{**IMAGE, "shape": [10**30], "data": ["QQ=="]}]}, "too many for a request"),
        ({"inputs": [{**IMAGE, "datatype": "FP32", "data": [0.5]}]}, "'FP32' came"),
        ({"inputs": [{**IMAGE, "parameters": {"binary_data_size": 7}}]}, "0 bytes are left"),
        ({"inputs": [{**IMAGE, "parameters": {"binary_data_size": -1}}]}, "-1"),
        ({"inputs": [{**IMAGE, "parameters": {"binary_data_size": "1"}}]}, "binary_data_size"),
        ({"inputs": [{**IMAGE, "parameters": {"shared_memory_region": "a"}}]}, "shared_memory"),
        ({**plain(b"x"), "outputs": [{"name": "labels"}, {"name": "labels"}]}, "twice"),
        (
            {**plain(b"x"), "outputs": [{"name": "labels", "parameters": {"classification": 3}}]},
            "'classification'",
        ),
        ({**plain(b"x"), "parameters": {"top_k": {"a": 1}}}, "top_k"),
        ({**plain(b"x"), "parameters": {"vocabulary": "few", "labels": "cat"}}, "not both"),
        ({**plain(b"x"), "id": "i" * 2000}, "id"),
        ([], "object"),
    ],
)
def test_requests_that_make_no_sense(server: Served, content: Any, text: str) -> None:
    reply = server.ask("POST", PATH, json.dumps(content).encode())
    assert reply.status == 422
    assert text in error(reply)


_MANY = 200_000
_FIELDS = {f"a{n}": {} for n in range(_MANY)}
GREEDY = {
    "inputs": {"inputs": [1] * 3 * _MANY},
    "outputs": {**plain(b"x"), "outputs": [1] * 3 * _MANY},
    "shape": {"inputs": [{**IMAGE, "shape": ["a"] * 2 * _MANY, "data": []}]},
    "data": {"inputs": [{**IMAGE, "data": [{}] * 3 * _MANY}]},
    "nested data": {"inputs": [{**IMAGE, "data": [[1]] * 2 * _MANY}]},
    "parameters": {**plain(b"x"), "parameters": _FIELDS},
    "few parameters": {**plain(b"x"), "parameters": {"top_k": [1] * 3 * _MANY}},
    "many texts": {**plain(b"x"), "parameters": dict.fromkeys(_FIELDS, "a")},
    "parameters of an input": {"inputs": [{**IMAGE, "data": ["QQ=="], "parameters": _FIELDS}]},
    "parameters of an output": {
        **plain(b"x"),
        "outputs": [{"name": "labels", "parameters": _FIELDS}],
    },
    "labels": {**plain(b"x"), "parameters": {"labels": "," * 2_000_000}},
}


@pytest.mark.parametrize("kind", GREEDY)
def test_requests_with_very_many_faults(server: Served, kind: str) -> None:
    """They are refused at the first few: each fault costs a hundred times what it takes to send."""
    body = json.dumps(GREEDY[kind]).encode()
    assert len(body) > 1.5e6
    reply = server.ask("POST", PATH, body)
    assert reply.status == 422
    assert len(reply.body) < 1000
    assert " more." not in error(reply)  # as it says of faults beyond three


@pytest.mark.parametrize("told", ["-1", "1e3", "", "99999999999999999999999", "999999", "²"])
def test_a_forged_length_of_the_json(server: Served, images, told: str) -> None:
    body, _ = binary(images[0])
    reply = server.ask("POST", PATH, body, {LENGTH: told})
    assert (reply.status, "bytes are JSON" in error(reply)) == (422, True)


def test_bytes_that_belong_to_nothing(server: Served, images) -> None:
    body, headers = binary(images[0])
    assert "3 bytes behind" in error(server.ask("POST", PATH, body + b"abc", headers))
    assert "bytes are left" in error(server.ask("POST", PATH, body[:-3], headers))


def test_an_answer_that_would_be_too_large(
    server: Served, images, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A table is as wide as top_k, and must not grow to gigabytes because of it."""
    monkeypatch.setattr(service, "_MOST_TAGS", 80)
    words = ",".join(f"thing {index}" for index in range(41))
    body, headers = binary(*images[:2], parameters={"labels": words, "top_k": 1_000_000})
    reply = server.ask("POST", PATH, body, headers)
    assert (reply.status, "2 images of 41 tags" in error(reply)) == (422, True)
    body, headers = binary(*images[:2], parameters={"labels": words, "top_k": 40})
    assert len(outputs(server.ask("POST", PATH, body, headers))["queries"]) == 80


def test_nonsense_is_the_callers_fault(server: Served, tagger: Tagger, images) -> None:
    chance = random.Random(1)
    body, headers = binary(images[0], parameters={"top_k": 3, "labels": "cat,dog", "timeout": 9})
    end = int(headers[LENGTH])
    seen = set()
    for turn in range(300):
        data, told = bytearray(body), dict(headers)
        for _ in range(chance.randrange(1, 5)):
            data[chance.randrange(end + 8)] = chance.choice(b'{}[]":,0129-\\\0\xffae ')
        if chance.random() < 0.3:
            told[LENGTH] = str(chance.randrange(len(body) + 9))
        if chance.random() < 0.3:
            del data[chance.randrange(len(data)) :]
        reply = server.ask("POST", PATH, bytes(data), told)
        seen.add(reply.status)
        if reply.status != 200:
            assert error(reply)
        if turn % 50 == 0:
            good = server.ask("POST", PATH, *binary(images[0]))
            assert outputs(good)["labels"] == [tag.label for tag in tagger.tag(images[0])]
    assert seen <= {200, 404, 422}
    assert 422 in seen
    assert server.get("/v2/health/ready").status == 200


def test_json_that_is_very_deep(server: Served) -> None:
    for deep in (b"[" * 200_000, b'{"inputs":' * 100_000, b"[" * 100_000 + b"]" * 100_000):
        reply = server.ask("POST", PATH, deep)
        assert (reply.status, bool(error(reply))) == (422, True)


def test_labels_that_are_one_to_the_model_are_refused(server: Served, images) -> None:
    body, headers = binary(images[0], parameters={"labels": "owl,cat,Owl"})
    refused = server.ask("POST", PATH, body, headers)
    assert refused.status == 422
    assert "labels 1, 3 ('owl', 'Owl')" in error(refused)

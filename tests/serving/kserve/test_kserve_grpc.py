"""gRPC where it is busy, slow, refused, broken, or told nonsense."""

import asyncio
import json
import logging
import random
import socket
import threading
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from grpc_in_process import GrpcServed, grpc_served
from in_process import Held, until

from ovml_deploy.errors import DeviceError, UsageError
from ovml_deploy.runtime.engine import Engine
from ovml_deploy.runtime.images import open_image
from ovml_deploy.runtime.tagger import Tagger
from ovml_deploy.serving.kserve import messages
from ovml_deploy.serving.kserve.grpc import start
from ovml_deploy.serving.logs import JsonFormatter
from ovml_deploy.serving.settings import Settings

KEY = "0123456789abcdef"
ROUTE = f"/{messages.SERVICE}/ModelInfer"
Code = grpc.StatusCode


@pytest.fixture(scope="module")
def server(engine: Engine) -> Iterator[GrpcServed]:
    with grpc_served(engine) as server:
        yield server


def question(image: bytes, **parameters: str) -> bytes:
    """Return a request as bytes."""
    asked = messages.ModelInferRequest(
        model_name="tiny",
        inputs=[{"name": "image", "datatype": "BYTES", "shape": [1]}],
        raw_input_contents=[len(image).to_bytes(4, "little") + image],
    )
    for name, value in parameters.items():
        asked.parameters[name].string_param = value
    return asked.SerializeToString()


def refused(call: Any, *given: Any, **more: Any) -> Any:
    """Return the error of a call."""
    with pytest.raises(grpc.RpcError) as raised:
        call(*given, **more)
    return raised.value


def infer(server: GrpcServed, message: bytes) -> Any:
    return messages.ModelInferResponse.FromString(server.call("ModelInfer")(message))


def labels(answer: Any) -> bytes:
    names = [output.name for output in answer.outputs]
    return answer.raw_output_contents[names.index("labels")]


def inside(server: GrpcServed) -> float:
    return server.metric("ovml_images_inside")


def test_contents_beside_raw_ones(server: GrpcServed, tagger: Tagger, images) -> None:
    """The protocol has two ways to bring elements, and both give the same."""
    expected = labels(infer(server, question(images[0])))
    asked = messages.ModelInferRequest.FromString(question(images[0]))
    del asked.raw_input_contents[:]
    asked.inputs[0].contents.bytes_contents.append(images[0])
    assert labels(infer(server, asked.SerializeToString())) == expected
    pixels = tagger.engine.bundle.preprocessing(open_image(images[0]))
    asked.inputs[0].CopyFrom(
        messages.ModelInferRequest.InferInputTensor(
            name="pixels", datatype="UINT8", shape=[1, *pixels.shape]
        )
    )
    asked.inputs[0].contents.uint_contents.extend(pixels.ravel().tolist())
    assert labels(infer(server, asked.SerializeToString())) == expected
    asked.inputs[0].contents.uint_contents[0] = 256
    error = refused(infer, server, asked.SerializeToString())
    assert (error.code(), "from 0 to 255" in error.details()) == (Code.INVALID_ARGUMENT, True)
    asked.raw_input_contents.append(pixels.tobytes())
    assert "one of the two" in refused(infer, server, asked.SerializeToString()).details()
    asked.raw_input_contents.append(b"")
    assert "1 inputs and 2" in refused(infer, server, asked.SerializeToString()).details()


def test_who_comes_while_it_is_full_is_told_when_to_come_back(held: Held, images) -> None:
    """At once, and before the message is read; those inside end as if nobody had come."""
    with grpc_served(held, Settings(max_queue=2)) as server:
        first = [server.call("ModelInfer").future(question(image)) for image in images[:2]]
        until(lambda: inside(server) == 2)
        error = refused(infer, server, question(images[2]))
        assert error.code() is Code.RESOURCE_EXHAUSTED
        assert "at most 2 may be" in error.details()
        (pushback,) = (v for k, v in error.trailing_metadata() if k == "grpc-retry-pushback-ms")
        assert int(pushback) >= 1000
        assert refused(server.silent, "ModelInfer").code() is Code.RESOURCE_EXHAUSTED
        until(lambda: server.metric("ovml_errors_total", kind="overloaded") == 2)
        held.open.set()
        for future in first:
            assert labels(messages.ModelInferResponse.FromString(future.result()))
        assert infer(server, question(images[2])).outputs


def test_who_cancels_frees_the_place(held: Held, images) -> None:
    with grpc_served(held, Settings(max_queue=1)) as server:
        future = server.call("ModelInfer").future(question(images[0]))
        until(lambda: inside(server) == 1)
        future.cancel()
        until(lambda: inside(server) == 0)
        until(lambda: server.metric("ovml_requests_total", route=ROUTE, status="CANCELLED") == 1)
        held.open.set()
        assert infer(server, question(images[0])).outputs


def test_what_takes_too_long(held: Held, images) -> None:
    with grpc_served(held, Settings(request_timeout=0.05)) as server:
        error = refused(infer, server, question(images[0]))
        assert error.code() is Code.DEADLINE_EXCEEDED
        assert "longer than 0.05 s" in error.details()
        until(lambda: inside(server) == 0)
        held.open.set()


def test_a_message_that_does_not_come(engine: Engine) -> None:
    with grpc_served(engine, Settings(body_timeout=0.05)) as server:
        error = refused(server.silent, "ServerMetadata")
        assert error.code() is Code.DEADLINE_EXCEEDED
        assert "did not come" in error.details()


def test_probes_do_not_wait_for_slow_callers(engine: Engine) -> None:
    """Only so many messages are read at once as fit inside, however large they turn out to be."""
    settings = Settings(max_body=1 << 20, max_bytes_inside=1 << 20, body_timeout=60)
    end = threading.Event()

    def slow() -> Iterator[bytes]:
        end.wait(60)
        yield b""

    with grpc_served(engine, settings) as server:
        first = server.channel.stream_unary(f"/{messages.SERVICE}/ServerMetadata").future(slow())
        second = server.call("ServerMetadata").future(b"")
        for name in ("ServerLive", "ServerReady") * 3:
            assert server.call(name)(b"") == b"\x08\x01"
        end.set()
        assert first.result() == second.result()


def test_connections_are_limited(engine: Engine) -> None:
    """Those that end make room; what never speaks the protocol is cut off."""

    def alive(address: str) -> bool:
        alone = [("grpc.use_local_subchannel_pool", 1)]  # channels would share a connection
        with grpc.insecure_channel(address, alone) as channel:
            try:
                return channel.unary_unary(f"/{messages.SERVICE}/ServerLive")(b"") == b"\x08\x01"
            except grpc.RpcError:
                return False

    with grpc_served(engine, Settings(max_connections=2, head_timeout=1.5)) as server:
        host, port = server.server.address.split(":")
        with socket.create_connection((host, int(port)), 60) as silent:
            while silent.recv(1 << 16):
                pass
        address = server.server.address
        assert server.call("ServerLive")(b"") == b"\x08\x01"
        other = grpc.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)])
        other.unary_unary(f"/{messages.SERVICE}/ServerLive")(b"", wait_for_ready=True, timeout=60)
        assert not alive(address)
        other.close()
        until(lambda: alive(address))


def test_the_key_comes_before_the_message(engine: Engine, images) -> None:
    with grpc_served(engine, Settings(api_key=KEY)) as server:
        for name in ("ModelInfer", "ModelReady", "ModelMetadata", "ServerMetadata"):
            assert refused(server.silent, name).code() is Code.UNAUTHENTICATED
            wrong = (("authorization", f"Bearer {KEY}x"),)
            assert refused(server.silent, name, wrong).code() is Code.UNAUTHENTICATED
        for name in ("ServerLive", "ServerReady"):
            assert server.call(name)(b"") == b"\x08\x01"
        right = (("authorization", f"bearer {KEY}"),)
        assert server.call("ModelInfer")(question(images[0]), metadata=right)


def test_a_message_that_is_too_large(engine: Engine, images) -> None:
    with grpc_served(engine, Settings(max_body=100_000)) as server:
        error = refused(infer, server, question(bytes(100_001)))
        assert error.code() is Code.RESOURCE_EXHAUSTED
        assert infer(server, question(images[0])).outputs
        small = {"compression": grpc.Compression.Gzip}  # on the way
        error = refused(server.call("ModelInfer"), question(bytes(3 << 20)), **small)
        assert error.code() is Code.RESOURCE_EXHAUSTED


def test_too_many_bytes_of_all_together(held: Held, images) -> None:
    large = question(bytes(60_000))
    with grpc_served(held, Settings(max_body=100_000, max_bytes_inside=100_000)) as server:
        first = server.call("ModelInfer").future(question(images[0] + bytes(60_000)))
        until(lambda: inside(server) == 1)
        error = refused(infer, server, large)
        assert error.code() is Code.RESOURCE_EXHAUSTED
        assert "bytes are inside" in error.details()
        held.open.set()
        assert first.result()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_engine_that_fails_and_one_that_dies(held: Held, images) -> None:
    held.open.set()
    with grpc_served(held) as server:
        held.error = DeviceError("in /a/path of the server")
        error = refused(infer, server, question(images[0]))
        assert (error.code(), "/a/path" in error.details()) == (Code.UNAVAILABLE, False)
        held.error = None
        assert infer(server, question(images[0])).outputs
        held.error = RuntimeError("nobody expected this")
        error = refused(infer, server, question(images[0]))
        assert (error.code(), "expected" in error.details()) == (Code.UNAVAILABLE, False)
        assert server.call("ServerLive")(b"") == b"\x08\x01"
        until(lambda: server.call("ServerReady")(b"") == b"")


def test_a_fault_of_ours_says_nothing_of_itself(
    server: GrpcServed, images, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(*given: Any) -> None:
        raise ValueError("what only the log may have")

    monkeypatch.setattr(server.service, "tag", broken)
    error = refused(infer, server, question(images[0]))
    assert error.code() is Code.INTERNAL
    assert error.details() == "The server failed. Its log says why."
    assert "what only the log may have" in caplog.text


def test_a_server_that_stops_ends_what_it_began(held: Held, images) -> None:
    with grpc_served(held) as server:
        future = server.call("ModelInfer").future(question(images[0]))
        until(lambda: inside(server) == 1)
        server.service.stopping = True
        error = refused(infer, server, question(images[0]))
        assert (error.code(), "stops" in error.details()) == (Code.UNAVAILABLE, True)
        assert server.call("ServerReady")(b"") == b""
        stopped = server.stop(60)
        assert not future.done()
        held.open.set()
        assert labels(messages.ModelInferResponse.FromString(future.result()))
        stopped.result(60)
        assert refused(infer, server, question(images[0])).code() is Code.UNAVAILABLE


def test_methods_that_are_not_there(server: GrpcServed) -> None:
    for name in ("ModelConfig", "RepositoryIndex", "SystemSharedMemoryRegister"):
        assert refused(server.call(name), b"").code() is Code.UNIMPLEMENTED


def test_a_port_that_is_taken(server: GrpcServed) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=rf"127.0.0.1:{port} .* another --grpc-port"):
            asyncio.run(start(server.service, "127.0.0.1", port))


def test_what_is_counted_and_logged(
    server: GrpcServed, images, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "ovml_deploy.requests")
    caplog.clear()
    before = server.metric("ovml_requests_total", route=ROUTE, status="OK")
    infer(server, question(images[0]))
    refused(infer, server, question(images[0], vocabulary="nothing"))
    until(lambda: len(caplog.records) == 2)  # written when the client has its answer already
    assert server.metric("ovml_requests_total", route=ROUTE, status="OK") == before + 1
    assert server.metric("ovml_requests_total", route=ROUTE, status="NOT_FOUND") == 1
    good, bad = (json.loads(JsonFormatter().format(record)) for record in caplog.records)
    assert (good["path"], good["status"], "kind" in good) == (ROUTE, "OK", False)
    assert (bad["status"], bad["kind"]) == ("NOT_FOUND", "unknown_vocabulary")


def test_nonsense_is_the_callers_fault(server: GrpcServed, images) -> None:
    """Whatever bytes come: never a fault of ours, and those who make sense get their tags."""
    chance = random.Random(0)
    expected = infer(server, question(images[0]))
    good = question(images[0], top_k="3", threshold="0.1", labels="cat,dog")
    methods = ("ModelInfer", "ModelInfer", "ModelMetadata", "ModelReady")
    allowed = {Code.INVALID_ARGUMENT, Code.NOT_FOUND}
    seen = set()
    for turn in range(400):
        message = _damaged(good, chance)
        try:
            server.call(chance.choice(methods))(message)
        except grpc.RpcError as error:
            seen.add(error.code())
        if turn % 50 == 0:
            assert labels(infer(server, question(images[0]))) == labels(expected)
    assert seen == allowed
    assert server.call("ServerReady")(b"") == b"\x08\x01"
    method = server.channel.stream_unary(f"/{messages.SERVICE}/ModelInfer")
    assert refused(method, iter(())).code() is Code.INVALID_ARGUMENT


def _damaged(message: bytes, chance: random.Random) -> bytes:
    kind = chance.randrange(4)
    if kind == 0:
        return chance.randbytes(chance.randrange(200))
    if kind == 1:
        return message[: chance.randrange(len(message))]
    data = bytearray(message)
    end = len(data) if kind == 2 else 60  # where names and shapes are
    for _ in range(chance.randrange(1, 8)):
        data[chance.randrange(end)] = chance.randrange(256)
    return bytes(data)

"""The protocol over gRPC, on the event loop of the HTTP server; the same rules hold."""

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from starlette.datastructures import Headers

from ovml_deploy.errors import UsageError
from ovml_deploy.serving.http.guard import check_key, problem_of
from ovml_deploy.serving.http.problems import Problem
from ovml_deploy.serving.kserve import messages, model
from ovml_deploy.serving.kserve.inference import Answer, Question, infer
from ovml_deploy.serving.kserve.model import Model, check_parameters
from ovml_deploy.serving.kserve.tensors import Tensor, from_octets, from_parts, from_raw
from ovml_deploy.serving.service import Service

logger = logging.getLogger("ovml_deploy.requests")

#: What each status of HTTP is here.
_CODES = {
    401: grpc.StatusCode.UNAUTHENTICATED,
    404: grpc.StatusCode.NOT_FOUND,
    408: grpc.StatusCode.DEADLINE_EXCEEDED,
    409: grpc.StatusCode.FAILED_PRECONDITION,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    500: grpc.StatusCode.INTERNAL,
    503: grpc.StatusCode.UNAVAILABLE,
}
_TIMEOUT = "timeout"  # a kind that is 503 there, and has a code of its own here
_DETAILS = 1000  # characters of an error's text: it travels among the headers, which are limited


@dataclass(frozen=True)
class _Method:
    """``open``: needs no key, as probes have none, nor its message; ``heavy``: needs a place."""

    answer: Callable[[Service, bytes], Awaitable[Any]]
    open: bool = False
    heavy: bool = False


@dataclass(frozen=True)
class GrpcServer:
    """A server that listens at ``address``."""

    address: str
    _server: Any

    async def stop(self, grace: float | None) -> None:
        """Take nothing more; what is inside has ``grace`` seconds to end."""
        await self._server.stop(grace)


async def start(service: Service, host: str, port: int) -> GrpcServer:
    """Listen; port 0 takes a free one. Raises UsageError where the port cannot be had."""
    settings = service.settings
    server = grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", settings.max_body),
            ("grpc.max_allowed_incoming_connections", settings.max_connections),
            ("grpc.server_handshake_timeout_ms", int(1e3 * settings.head_timeout)),
            ("grpc.so_reuseport", 0),  # else a port that is taken would be shared
        ],
        maximum_concurrent_rpcs=settings.max_connections,
    )
    front = _Front(service)
    handlers = {
        name: grpc.stream_unary_rpc_method_handler(partial(front.handle, name, method))
        for name, method in _METHODS.items()
    }
    handler = grpc.method_handlers_generic_handler(messages.SERVICE, handlers)
    server.add_generic_rpc_handlers((handler,))
    at = f"[{host}]" if ":" in host else host
    try:
        bound = server.add_insecure_port(f"{at}:{port}")
    except RuntimeError as error:
        text = f"{at}:{port} cannot be listened on ({error}). Name another --grpc-port."
        raise UsageError(text) from error
    await server.start()
    return GrpcServer(f"{at}:{bound}", server)


class _Front:
    """Answers calls, each of one message.

    It is read here and not before: whoever may not call, or comes while there is no room, sends none.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._settings = service.settings
        # each may bring a whole body, and only then is known how much it was
        readers = self._settings.max_bytes_inside // self._settings.max_body
        self._readers = asyncio.Semaphore(max(1, readers))

    async def handle(
        self, name: str, method: _Method, received: AsyncIterator[bytes], context: Any
    ) -> bytes:
        """Answer a call."""
        start = perf_counter()
        code, kind = grpc.StatusCode.CANCELLED, None
        request = uuid.uuid4().hex
        try:
            answer = await self._answer(method, received, context)
            code = grpc.StatusCode.OK
            return answer
        except Exception as error:
            problem = problem_of(error, self._service, request)
            code, kind = _code(problem), problem.kind
            await context.abort(code, str(problem.detail)[:_DETAILS], _trailer(problem))
            raise AssertionError from None  # abort raises
        finally:
            self._record(request, name, context, code, kind, perf_counter() - start)

    async def _answer(self, method: _Method, received: AsyncIterator[bytes], context: Any) -> bytes:
        if self._settings.api_key is not None and not method.open:
            check_key(_headers(context), self._settings.api_key)
        if method.heavy:
            self._service.check_room()
        message = b"" if method.open else await self._read(received)
        try:
            self._service.take_bytes(len(message))
            async with asyncio.timeout(self._settings.request_timeout):
                found = await method.answer(self._service, message)
            return bytes(found.SerializeToString())
        finally:
            self._service.drop_bytes(len(message))

    async def _read(self, received: AsyncIterator[bytes]) -> bytes:
        start = perf_counter()
        try:
            async with asyncio.timeout(self._settings.body_timeout), self._readers:
                message = await anext(received, None)
        except TimeoutError:
            text = f"The message did not come within {self._settings.body_timeout:g} s."
            raise Problem(408, "slow", text) from None
        if message is None:
            raise UsageError("The call brought no message.")
        self._service.metrics.took("read", perf_counter() - start)
        return message

    def _record(
        self, request: str, name: str, context: Any, code: Any, kind: str | None, seconds: float
    ) -> None:
        metrics = self._service.metrics
        route = f"/{messages.SERVICE}/{name}"
        metrics.requests.labels(route, code.name).inc()
        metrics.request_seconds.labels(route).observe(seconds)
        if code is not grpc.StatusCode.OK:
            metrics.errors.labels(kind or code.name.lower()).inc()
        level = logging.DEBUG if name in ("ServerLive", "ServerReady") else logging.INFO
        if logger.isEnabledFor(level):
            facts = {
                "request": request,
                "method": "gRPC",
                "path": route,
                "status": code.name,
                "ms": round(1e3 * seconds, 1),
                "client": context.peer(),
            }
            if kind is not None:
                facts["kind"] = kind
            logger.log(level, "request", extra=facts)


async def _live(service: Service, message: bytes) -> Any:
    return messages.ServerLiveResponse(live=True)


async def _ready(service: Service, message: bytes) -> Any:
    return messages.ServerReadyResponse(ready=await service.fault() is None)


async def _model_ready(service: Service, message: bytes) -> Any:
    asked = _parse(messages.ModelReadyRequest, message)
    Model.of(service).check_name(asked.name, asked.version)
    return messages.ModelReadyResponse(ready=await service.fault() is None)


async def _server_metadata(service: Service, message: bytes) -> Any:
    return messages.ServerMetadataResponse(**model.SERVER)


async def _model_metadata(service: Service, message: bytes) -> Any:
    asked = _parse(messages.ModelMetadataRequest, message)
    served = Model.of(service)
    served.check_name(asked.name, asked.version)
    return messages.ModelMetadataResponse(**served.metadata())


async def _infer(service: Service, message: bytes) -> Any:
    asked = _parse(messages.ModelInferRequest, message)
    served = Model.of(service)
    served.check_name(asked.model_name, asked.model_version)
    outputs = [output.name for output in asked.outputs]
    served.check_outputs(outputs)
    for output in asked.outputs:
        check_parameters(output.parameters, (), f"the output {output.name!r}")
    question = Question(_inputs(asked, served), outputs, _plain(asked.parameters))
    return _response(asked.id, await infer(service, question), served)


_METHODS = {
    "ServerLive": _Method(_live, open=True),
    "ServerReady": _Method(_ready, open=True),
    "ModelReady": _Method(_model_ready),
    "ServerMetadata": _Method(_server_metadata),
    "ModelMetadata": _Method(_model_metadata),
    "ModelInfer": _Method(_infer, heavy=True),
}


def _inputs(asked: Any, served: Model) -> list[Tensor]:
    """Return the inputs. Raises UsageError."""
    raw = asked.raw_input_contents
    if raw and len(raw) != len(asked.inputs):
        raise UsageError(
            f"There are {len(asked.inputs)} inputs and {len(raw)} raw_input_contents: send as many."
        )
    tensors = []
    for index, given in enumerate(asked.inputs):
        shape = [*given.shape]
        spec = served.input(given.name, given.datatype, shape)
        check_parameters(given.parameters, (), f"the input {spec.name!r}")
        if raw:
            if given.HasField("contents"):
                text = f"The input {spec.name!r} has contents, and raw_input_contents besides."
                raise UsageError(f"{text} Send one of the two.")
            tensors.append(from_raw(spec.name, spec.datatype, shape, raw[index]))
        elif spec.datatype == "BYTES":
            tensors.append(from_parts(spec.name, shape, given.contents.bytes_contents))
        else:
            tensors.append(from_octets(spec.name, shape, given.contents.uint_contents))
    return tensors


def _response(id_: str, answer: Answer, served: Model) -> Any:
    found = messages.ModelInferResponse(
        model_name=served.name,
        model_version=model.VERSION,
        id=id_,
        outputs=[
            {"name": each.name, "datatype": each.datatype, "shape": [*each.array.shape]}
            for each in answer.outputs
        ],
        raw_output_contents=[each.raw() for each in answer.outputs],
    )
    for name, value in answer.parameters.items():
        if isinstance(value, str):
            found.parameters[name].string_param = value
        else:
            found.parameters[name].int64_param = value
    return found


def _plain(parameters: Any) -> dict[str, Any]:
    found = {}
    for name, value in parameters.items():
        kind = value.WhichOneof("parameter_choice")
        if kind is None:
            raise UsageError(f"The parameter {name[:80]!r} has no value.")
        found[name] = getattr(value, kind)
    return found


def _parse(kind: Any, message: bytes) -> Any:
    try:
        return kind.FromString(message)
    except DecodeError as error:
        raise UsageError("The message cannot be read. Is it of this protocol?") from error


def _headers(context: Any) -> Headers:
    given = Headers({})
    with suppress(UnicodeError):
        texts = {k: v for k, v in context.invocation_metadata() or () if isinstance(v, str)}
        given = Headers(texts)
    return given


def _code(problem: Problem) -> Any:
    if problem.kind == _TIMEOUT:
        return grpc.StatusCode.DEADLINE_EXCEEDED
    return _CODES.get(problem.status_code, grpc.StatusCode.INVALID_ARGUMENT)


def _trailer(problem: Problem) -> tuple[tuple[str, str], ...]:
    """When to come back, as gRPC's own retries read it."""
    seconds = (problem.headers or {}).get("retry-after")
    return () if seconds is None else (("grpc-retry-pushback-ms", str(1000 * int(seconds))),)

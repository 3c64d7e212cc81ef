"""What every request passes first: is it let in, is there room, is it small and quick enough."""

import asyncio
import hmac
import logging
import random
from contextlib import suppress
from functools import partial
from time import perf_counter
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ovml_deploy.errors import OvmlError
from ovml_deploy.serving.errors import StoppingError
from ovml_deploy.serving.http.problems import HIDDEN, GoneError, Problem
from ovml_deploy.serving.http.state import hide_paths
from ovml_deploy.serving.service import Service
from ovml_deploy.serving.settings import is_loopback

logger = logging.getLogger("ovml_deploy.requests")

#: Open to everybody: probes have no key, and the page asks for one.
_PROBES = ("/healthz", "/readyz", "/v2/health/live", "/v2/health/ready")
_OPEN = (*_PROBES, "/", "/favicon.ico")
_OPEN_BELOW = "/page/"
#: What takes an engine: refused before the body is read where there is no room.
_HEAVY = ("/tag", "/encode", "/match", "/attention", "/infer")
_CLOSE = {"connection": "close"}  # whoever was refused starts again
#: Seconds to let a body that is refused run out: were the connection closed under it, the client
#: would not see the answer.
_LINGER = 2.0


class Guard:
    """ASGI middleware: access, limits, time, errors, the log and the counters.

    ``local``: the server binds to this machine alone and has no key, so that a web page that a
    browser here shows must not reach it under a name of its own (DNS rebinding).
    """

    def __init__(self, app: ASGIApp, service: Service, local: bool) -> None:
        self._app = app
        self._service = service
        self._settings = service.settings
        self._local = local

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start = perf_counter()
        answer = _Answer(send)
        taken = 0
        came = False
        try:
            headers = Headers(scope=scope)
            self._admit(scope, headers)
            body = await self._read(headers, receive)
            came, taken = True, len(body)
            self._service.take_bytes(taken)
            if taken:
                self._service.metrics.took("read", perf_counter() - start)
            async with asyncio.timeout(self._settings.request_timeout):
                await self._app(scope, _replayed(body, receive), answer)
        except GoneError:
            pass
        except asyncio.CancelledError:
            if answer.status or not self._service.stopping:
                raise
            late = Problem.of(StoppingError("The server stops, and this took too long."))
            answer.kind = late.kind
            await late.response(scope["path"])(scope, receive, answer)
        except Exception as error:
            problem = problem_of(error, self._service, answer.id)
            answer.kind = problem.kind
            if not came and "connection" in (problem.headers or {}):
                await _refuse(problem, scope["path"], receive, answer)
            elif not answer.status:
                await problem.response(scope["path"])(scope, receive, answer)
        finally:
            self._service.drop_bytes(taken)
            # the loop sends what was written first: nobody waits for the log
            record = partial(self._record, scope, answer, perf_counter() - start)
            asyncio.get_running_loop().call_soon(record)

    def _admit(self, scope: Scope, headers: Headers) -> None:
        method, path = scope["method"], scope["path"]
        _check_origin(method, headers)
        if self._local and not is_loopback(_host_of(f"//{headers.get('host', '')}")):
            raise Problem(403, "host", "This server answers to localhost only.", _CLOSE)
        is_open = path in _OPEN or path.startswith(_OPEN_BELOW)
        if self._settings.api_key is not None and not is_open:
            check_key(headers, self._settings.api_key)
        _check_encoding(headers)
        if method == "POST" and path.endswith(_HEAVY):
            self._service.check_room()

    async def _read(self, headers: Headers, receive: Receive) -> bytes:
        """Return the whole body."""
        most = self._settings.max_body
        announced = headers.get("content-length", "0")
        if announced.isdecimal() and int(announced) > most:
            raise _too_large(most)
        if not _has_body(headers):
            return b""
        parts: list[bytes] = []
        held = 0
        try:
            async with asyncio.timeout(self._settings.body_timeout):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise GoneError
                    part = message.get("body", b"")
                    parts.append(part)
                    held += len(part)
                    self._service.take_bytes(len(part))
                    if held > most:
                        raise _too_large(most)
                    if not message.get("more_body"):
                        return b"".join(parts)
        except TimeoutError:
            text = f"The body did not come within {self._settings.body_timeout:g} s."
            raise Problem(408, "slow", text, _CLOSE) from None
        finally:
            self._service.drop_bytes(held)

    def _record(self, scope: Scope, answer: "_Answer", seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "other")
        metrics = self._service.metrics
        status = answer.status or 499  # as others count clients that hung up
        metrics.requests.labels(route, str(status)).inc()
        metrics.request_seconds.labels(route).observe(seconds)
        if status >= 400 and answer.kind != "image":  # which was counted as an image
            metrics.errors.labels(answer.kind or str(status)).inc()
        level = logging.DEBUG if route in (*_PROBES, "/metrics") else logging.INFO
        if logger.isEnabledFor(level):
            facts = {
                "request": answer.id,
                "method": scope["method"],
                "path": scope["path"][:200],
                "status": status,
                "ms": round(1e3 * seconds, 1),
                "client": (scope.get("client") or ("",))[0],
            }
            if answer.kind is not None:
                facts["kind"] = answer.kind
            logger.log(level, "request", extra=facts)


class _Answer:
    """Sends, and remembers what: a status of 0 stands for nothing yet."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.id = f"{random.getrandbits(128):032x}"  # to tell requests apart, not to be secret
        self.status = 0
        self.kind: str | None = None  #: of what went wrong

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = [
                *message.get("headers", ()),
                (b"x-request-id", self.id.encode()),
                (b"x-content-type-options", b"nosniff"),
            ]
        await self._send(message)


def _check_origin(method: str, headers: Headers) -> None:
    """A browser says from which site a request comes; only the page of this server changes things."""
    origin = headers.get("origin")
    if origin is None or method in ("GET", "HEAD"):
        return
    if origin.partition("://")[2] != headers.get("host"):
        text = f"Pages of {origin[:80]!r} may not use this server from a browser."
        raise Problem(403, "origin", text, _CLOSE)


def _has_body(headers: Headers) -> bool:
    return headers.get("content-length", "0") != "0" or "transfer-encoding" in headers


def _check_encoding(headers: Headers) -> None:
    """Raise Problem for a compressed body: it would have to be bounded twice, and images gain nothing."""
    if not _has_body(headers):
        return
    for header, plain in (("content-encoding", "identity"), ("transfer-encoding", "chunked")):
        values = ",".join(headers.getlist(header)).lower().split(",")
        coded = [value.strip() for value in values if value.strip() not in ("", plain)]
        if coded:
            text = (
                f"The body is compressed ({header}: {', '.join(coded)[:40]!r}). Send it uncompressed; "
                "images are compressed already."
            )
            raise Problem(415, "encoding", text, _CLOSE)


def _host_of(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:  # brackets that are no address
        return ""


async def _refuse(problem: Problem, path: str, receive: Receive, send: Send) -> None:
    """Answer, and drop what still comes of the body."""
    response = problem.response(path)
    start = {"type": "http.response.start", "status": response.status_code}
    await send({**start, "headers": response.raw_headers})
    await send({"type": "http.response.body", "body": response.body, "more_body": True})
    with suppress(TimeoutError):
        async with asyncio.timeout(_LINGER):
            while (await receive()).get("more_body"):
                pass
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def check_key(headers: Headers, key: str) -> None:
    """Raise Problem where a request does not bring the API key."""
    scheme, _, given = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        given = headers.get("x-api-key", "")
    if not hmac.compare_digest(given.strip().encode(), key.encode()):
        text = "This needs the API key: 'Authorization: Bearer KEY', or 'X-API-Key: KEY'."
        raise Problem(401, "key", text, {"www-authenticate": "Bearer", **_CLOSE})


def _too_large(most: int) -> Problem:
    text = f"The body is too large: at most {most:,} bytes are read. Send fewer or smaller images."
    return Problem(413, "too_large", text, _CLOSE)


def problem_of(error: Exception, service: Service, request: str) -> Problem:
    """Return the answer to an error. What that does not tell is logged, with the request's id."""
    if isinstance(error, Problem):
        problem = error
    elif isinstance(error, OvmlError):
        problem = Problem.of(error)
        if problem.kind in HIDDEN:
            logger.error("%s", error, extra={"request": request, "kind": problem.kind})
    elif isinstance(error, TimeoutError):
        text = f"This took longer than {service.settings.request_timeout:g} s."
        problem = Problem(503, "timeout", text, {"retry-after": "1"})
    else:
        logger.error("an error that is ours", exc_info=error, extra={"request": request})
        problem = Problem(500, "internal", "The server failed. Its log says why.")
    problem.detail = hide_paths(problem.detail, service)
    return problem


def _replayed(body: bytes, receive: Receive) -> Receive:
    """Give the whole body once, then what comes: that the client hung up."""
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay

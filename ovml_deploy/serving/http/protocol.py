"""Connections as no framework above sees them: slow, endless, broken and too many ones are cut off."""

from asyncio import BaseTransport, TimerHandle
from collections import deque
from collections.abc import Iterator

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from ovml_deploy.errors import OverloadedError
from ovml_deploy.serving.http.problems import Problem
from ovml_deploy.serving.settings import Settings

_BYTES = 64 << 10  # of a request's line and headers
_TOO_LONG = "The headers are too long."
_NO_HTTP = "This is not HTTP/1.1 as it should be."
_OF_UPGRADE = (b"upgrade", b"http2-settings")
#: Connections beyond those allowed that still hear that they are too many.
_TOLD = 100


class Protocol(HttpToolsProtocol):
    """Uvicorn's, with limits on headers, on the time of bodies and answers, and on connections.

    ``limited`` makes it.
    """

    settings: Settings
    _timer: TimerHandle | None = None  # until the client must have sent something
    _unread: TimerHandle | None = None  # until it must have read something
    _head_bytes = 0  # of a head, or of the trailers behind a body
    _in_body = False
    _trailing = False  # the last thing was a chunk's size, which may be 0: then trailers come
    _cycles: deque[RequestResponseCycle]  # of requests that are not answered yet, in order

    @classmethod
    def limited(cls, settings: Settings) -> type["Protocol"]:
        """Return the class with its limits."""
        return type(cls.__name__, (cls,), {"settings": settings})

    def connection_made(self, transport: BaseTransport) -> None:  # noqa: D102
        super().connection_made(transport)  # type: ignore[arg-type]
        self._cycles = deque()
        if len(self.connections) > self.settings.max_connections + _TOLD:
            self.transport.abort()
            return
        self._expect(self.settings.head_timeout)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: D102
        self._came()
        self._was_read()
        self._forget()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:  # noqa: D102
        if not self._in_body or self._trailing:
            self._head_bytes += len(data)
        self._unset_keepalive_if_required()
        rest = memoryview(data)
        try:
            while rest and not self.transport.is_closing():
                rest = self._feed(rest)
        except HttpParserError:
            self.send_400_response(_TOO_LONG if self._is_too_long() else _NO_HTTP)
        if self._is_too_long() and not self.transport.is_closing():
            self.send_400_response(_TOO_LONG)

    def on_message_begin(self) -> None:  # noqa: D102
        super().on_message_begin()
        if self._timer is None:  # a further request on the connection
            self._expect(self.settings.head_timeout)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header; trailers are dropped, for the request is being answered already."""
        if not self._in_body:
            super().on_header(name, value)
            return
        self._trailing = True
        self._head_bytes += len(name) + len(value)
        if self._is_too_long():
            raise HttpParserError(_TOO_LONG)

    def on_headers_complete(self) -> None:  # noqa: D102
        if self.parser.should_upgrade():
            return
        self._in_body = True
        self._head_bytes = 0
        # the guard limits the bodies that somebody reads, and more kindly; this ends all others,
        # and is long enough for one that waits behind another request
        self._expect(self.settings.body_timeout + self.settings.request_timeout)
        if len(self.connections) > self.settings.max_connections:
            self.app = _too_many
        elif len(self.url) + sum(len(name) + len(value) for name, value in self.headers) > _BYTES:
            self.app = _too_long
        else:
            self.app = self.config.loaded_app
        super().on_headers_complete()
        while self._cycles and self._cycles[0].response_complete:
            self._cycles.popleft()
        self._cycles.append(self.cycle)

    def on_chunk_header(self) -> None:
        """A chunk's size came."""
        self._trailing = True

    def on_body(self, body: bytes) -> None:  # noqa: D102
        self._trailing = False
        self._head_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:  # noqa: D102
        if self.parser.should_upgrade():
            return
        self._came()
        self._in_body = self._trailing = False
        self._head_bytes = 0
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP, or too much of it, as all else is answered."""
        response = Problem(400, "request", msg, {"connection": "close"}).response()
        fields = b"".join(b"%s: %s\r\n" % field for field in response.raw_headers)
        body = bytes(response.body)
        self._forget()
        self.transport.write(b"HTTP/1.1 400 Bad Request\r\n%s\r\n%s" % (fields, body))
        self.transport.close()

    def pause_writing(self) -> None:  # noqa: D102
        super().pause_writing()
        self._must_read()

    def resume_writing(self) -> None:  # noqa: D102
        super().resume_writing()
        self._was_read()

    def timeout_keep_alive_handler(self) -> None:  # noqa: D102
        super().timeout_keep_alive_handler()
        self._must_read()  # closing waits until all was sent, which may be never

    def _is_too_long(self) -> bool:
        return self._head_bytes > _BYTES and (self._trailing or not self._in_body)

    def _feed(self, data: memoryview) -> memoryview:
        """Parse, and return what is left where another protocol was asked for.

        That is declined, as Java's client needs it, by going on with this one. The parser would take
        the body for the other protocol's, so a new one gets the head anew. Raises HttpParserError.
        """
        try:
            self.parser.feed_data(data)
        except HttpParserUpgrade as upgrade:
            method, version = self.parser.get_method(), self.parser.get_http_version()
            if method == b"CONNECT":
                self.send_400_response("This is no proxy.")
                return data[:0]
            fields = b"".join(b"%s: %s\r\n" % field for field in _without_upgrade(self.headers))
            line = b"%s %s HTTP/%s\r\n" % (method, self.url, version.encode())
            self.parser = HttpRequestParser(self)
            self.parser.feed_data(b"%s%s\r\n" % (line, fields))
            return data[upgrade.args[0] :]
        return data[:0]

    def _expect(self, seconds: float) -> None:
        self._came()
        self._timer = self.loop.call_later(seconds, self._cut)

    def _came(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _cut(self) -> None:
        self._timer = None
        if not self.transport.is_closing():
            self.transport.close()

    def _forget(self) -> None:
        """Tell all requests of the connection that nobody waits; uvicorn tells only the last one."""
        for cycle in self._cycles:
            cycle.disconnected = True
            cycle.message_event.set()

    def _must_read(self) -> None:
        self._was_read()
        self._unread = self.loop.call_later(self.settings.request_timeout, self.transport.abort)

    def _was_read(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None


def _without_upgrade(fields: list[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, bytes]]:
    for name, value in fields:
        if name == b"connection":  # which may also say that this request is the last one
            words = (word.strip() for word in value.split(b","))
            value = b", ".join(word for word in words if word.lower() not in _OF_UPGRADE)
        if name not in _OF_UPGRADE and (value or name != b"connection"):
            yield name, value


async def _too_long(scope: Scope, receive: Receive, send: Send) -> None:
    problem = Problem(400, "request", _TOO_LONG, {"connection": "close"})
    await problem.response(scope["path"])(scope, receive, send)


async def _too_many(scope: Scope, receive: Receive, send: Send) -> None:
    problem = Problem.of(OverloadedError("Too many connections are open. Come back later.", 1.0))
    problem.headers = {**(problem.headers or {}), "connection": "close"}
    await problem.response(scope["path"])(scope, receive, send)

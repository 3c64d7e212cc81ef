"""Connections as no framework above sees them: slow, endless, broken and too many ones are cut off."""

from asyncio import BaseTransport, TimerHandle
from collections import deque

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from ovml_deploy.errors import OverloadedError
from ovml_deploy.serving.http.problems import Problem
from ovml_deploy.serving.settings import Settings

_BYTES = 64 << 10  # of a request's line and headers
_TOO_LONG = "The headers are too long."
_OF_UPGRADE = (b"upgrade", b"connection", b"http2-settings")


class Protocol(HttpToolsProtocol):
    """Uvicorn's, with limits on headers, on the time of bodies and answers, and on connections.

    ``limited`` makes it.
    """

    settings: Settings
    _timer: TimerHandle | None = None  # until the client must have sent something
    _unread: TimerHandle | None = None  # until it must have read something
    _head_bytes = 0
    _in_body = False
    _cycles: deque[RequestResponseCycle]  # of requests that are not answered yet, in order

    @classmethod
    def limited(cls, settings: Settings) -> type["Protocol"]:
        """Return the class with its limits."""
        return type(cls.__name__, (cls,), {"settings": settings})

    def connection_made(self, transport: BaseTransport) -> None:  # noqa: D102
        super().connection_made(transport)  # type: ignore[arg-type]
        self._cycles = deque()
        self._expect(self.settings.head_timeout)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: D102
        self._came()
        self._was_read()
        self._forget()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:  # noqa: D102
        if not self._in_body:
            self._head_bytes += len(data)
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
        except HttpParserUpgrade as upgrade:
            self._go_on(data[upgrade.args[0] :])
        except HttpParserError:
            self.send_400_response("This is not HTTP/1.1 as it should be.")
        if not self._in_body and self._head_bytes > _BYTES and not self.transport.is_closing():
            self.send_400_response(_TOO_LONG)

    def on_message_begin(self) -> None:  # noqa: D102
        super().on_message_begin()
        if self._timer is None:  # a further request on the connection
            self._expect(self.settings.head_timeout)

    def on_headers_complete(self) -> None:  # noqa: D102
        if self.parser.should_upgrade():
            return
        self._in_body = True
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

    def on_message_complete(self) -> None:  # noqa: D102
        if self.parser.should_upgrade():
            return
        self._came()
        self._in_body = False
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

    def _go_on(self, rest: bytes) -> None:
        """Decline another protocol, as Java's client asks for, by going on with this one.

        The parser would take the body for the other protocol's, so a new one gets the request anew.
        """
        method = self.parser.get_method()
        if method == b"CONNECT":
            self.send_400_response("This is no proxy.")
            return
        kept = (field for field in self.headers if field[0] not in _OF_UPGRADE)
        fields = b"".join(b"%s: %s\r\n" % field for field in kept)
        self.parser = HttpRequestParser(self)
        self.data_received(b"%s %s HTTP/1.1\r\n%s\r\n%s" % (method, self.url, fields, rest))

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


async def _too_long(scope: Scope, receive: Receive, send: Send) -> None:
    problem = Problem(400, "request", _TOO_LONG, {"connection": "close"})
    await problem.response(scope["path"])(scope, receive, send)


async def _too_many(scope: Scope, receive: Receive, send: Send) -> None:
    problem = Problem.of(OverloadedError("Too many connections are open. Come back later.", 1.0))
    problem.headers = {**(problem.headers or {}), "connection": "close"}
    await problem.response(scope["path"])(scope, receive, send)

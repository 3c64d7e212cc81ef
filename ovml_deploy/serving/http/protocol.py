"""A connection's first bytes, which no framework above sees: slow and endless ones are cut off."""

from asyncio import BaseTransport, TimerHandle

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_SECONDS = 15.0  # from a connection, or the start of a request, to the end of its headers
_BYTES = 64 << 10  # of a request's line and headers


class Protocol(HttpToolsProtocol):
    """Uvicorn's, with limits on the time and the size of a request's headers."""

    _timer: TimerHandle | None = None
    _head_bytes = 0
    _in_body = False

    def connection_made(self, transport: BaseTransport) -> None:  # noqa: D102
        super().connection_made(transport)  # type: ignore[arg-type]
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: D102
        self._head_came()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:  # noqa: D102
        if not self._in_body:
            self._head_bytes += len(data)
        super().data_received(data)
        if not self._in_body and self._head_bytes > _BYTES and not self.transport.is_closing():
            self.send_400_response("The headers are too long.")

    def on_message_begin(self) -> None:  # noqa: D102
        super().on_message_begin()
        if self._timer is None:  # a further request on the connection
            self._expect_head()

    def on_headers_complete(self) -> None:  # noqa: D102
        self._head_came()
        self._in_body = True
        super().on_headers_complete()

    def on_message_complete(self) -> None:  # noqa: D102
        self._in_body = False
        self._head_bytes = 0
        super().on_message_complete()

    def _expect_head(self) -> None:
        self._timer = self.loop.call_later(_SECONDS, self._cut)

    def _head_came(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _cut(self) -> None:
        self._timer = None
        if not self.transport.is_closing():
            self.transport.close()

"""Talks HTTP to a server of ours in tests: whole requests, or byte by byte."""

import json
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPResponse
from typing import Any
from urllib.parse import urlsplit

_SOON = 60.0  # seconds after which something hangs


@dataclass(frozen=True)
class Reply:
    """An answer; the names of its headers are in small letters."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body's content."""
        return json.loads(self.body)

    @property
    def kind(self) -> str:
        """Which error it is."""
        error = self.json["error"]
        assert set(error) == {"kind", "message"}
        return error["kind"]


@dataclass(frozen=True)
class Client:
    """Asks a server; each request has a connection of its own."""

    url: str

    @property
    def host(self) -> str:
        """Name and port."""
        return urlsplit(self.url).netloc

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        **content: Any,
    ) -> Reply:
        """Send a request, ``content`` as a JSON body."""
        given = dict(headers or {})
        if content:
            body = json.dumps(content).encode()
            given.setdefault("content-type", "application/json")
        connection = HTTPConnection(self.host, timeout=_SOON)
        try:
            connection.request(method, path, body, given)
            return _reply(connection.getresponse())
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Reply:
        return self.ask("GET", path, headers=_names(headers))

    def post(self, path: str, **content: Any) -> Reply:
        return self.ask("POST", path, **content)

    def put(self, path: str, **content: Any) -> Reply:
        return self.ask("PUT", path, **content)

    def delete(self, path: str) -> Reply:
        return self.ask("DELETE", path)

    def tag(self, image: bytes, query: str = "", **headers: str) -> Reply:
        """Tag an image sent as the body itself."""
        named = {"content-type": "application/octet-stream", **_names(headers)}
        return self.ask("POST", f"/v1/tag{query}", image, named)

    def upload(self, path: str, *parts: bytes) -> Reply:
        """Send parts that :func:`part` made as a form."""
        body = b"".join(b"--border\r\n" + part + b"\r\n" for part in parts) + b"--border--\r\n"
        return self.ask(
            "POST", path, body, {"content-type": "multipart/form-data; boundary=border"}
        )

    @contextmanager
    def line(self) -> Iterator["Line"]:
        """Connect, to send bytes of whatever kind."""
        where = urlsplit(self.url)
        assert where.hostname is not None
        with socket.create_connection((where.hostname, where.port or 80), _SOON) as opened:
            yield Line(opened, self.host)


@dataclass(frozen=True)
class Line:
    """A connection."""

    socket: socket.socket
    host: str

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def start(self, method: str, path: str, **headers: str) -> None:
        """Send the line and the headers of a request."""
        fields = "".join(f"{k}: {v}\r\n" for k, v in {"host": self.host, **_names(headers)}.items())
        self.send(f"{method} {path} HTTP/1.1\r\n{fields}\r\n".encode("latin-1"))

    def reply(self) -> Reply:
        """Read an answer."""
        response = HTTPResponse(self.socket)
        response.begin()
        return _reply(response)

    def rest(self) -> bytes:
        """Read until the server hangs up."""
        parts = []
        try:
            while data := self.socket.recv(1 << 16):
                parts.append(data)
        except ConnectionResetError:
            pass
        return b"".join(parts)


def part(name: str, content: bytes, filename: str | None = None) -> bytes:
    """Return a part of a form."""
    head = f'Content-Disposition: form-data; name="{name}"'
    if filename is not None:
        head += f'; filename="{filename}"\r\nContent-Type: image/jpeg'
    return head.encode() + b"\r\n\r\n" + content


def _names(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in headers.items()}


def _reply(response: HTTPResponse) -> Reply:
    headers = {name.lower(): value for name, value in response.getheaders()}
    return Reply(response.status, headers, response.read())

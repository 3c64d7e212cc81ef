"""A real HTTP server on localhost that speaks the chat-completions protocol, as scripted."""

import itertools
import json
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Reply:
    """One answer: ``content`` in a chat completion, unless ``body`` is given. ``drop``: cut it."""

    content: Any = ""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None
    delay: float = 0.0
    drop: bool = False


@dataclass
class Request:
    """What was asked, when, with what headers; ``answered`` once the reply is sent whole."""

    question: str
    model: str
    body: dict[str, Any]
    headers: dict[str, str]
    time: float
    answered: bool = False


Script = Callable[[str, int], "Reply | str"]


class ChatServer:
    """Answers as ``script(question, number of the request)`` says; 1 is the first request."""

    def __init__(self) -> None:
        self.script: Script = lambda question, number: good_answer(question)
        self.requests: list[Request] = []
        self._lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                server._handle(self)

            def log_message(self, *arguments: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self._http.handle_error = lambda *_: None  # type: ignore[method-assign]
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}/v1"

    @property
    def questions(self) -> list[str]:
        return [request.question for request in self.requests]

    @property
    def answered(self) -> list[str]:
        return [request.question for request in self.requests if request.answered]

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()

    def _handle(self, handler: BaseHTTPRequestHandler) -> None:
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        assert handler.path == "/v1/chat/completions", handler.path
        (message,) = body["messages"]
        headers = {name.lower(): value for name, value in handler.headers.items()}
        request = Request(message["content"], body["model"], body, headers, time.monotonic())
        with self._lock:
            self.requests.append(request)
            number = len(self.requests)
        reply = self.script(request.question, number)
        if isinstance(reply, str):
            reply = Reply(reply)
        time.sleep(reply.delay)
        data = reply.body if reply.body is not None else _completion(reply)
        handler.send_response(reply.status)
        for name, value in {"Content-Type": "application/json", **reply.headers}.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        if reply.drop:
            handler.wfile.write(data[: len(data) // 2])
            handler.close_connection = True
            return
        handler.wfile.write(data)
        handler.wfile.flush()
        request.answered = reply.status == 200


def _completion(reply: Reply) -> bytes:
    if reply.status != 200:
        return json.dumps({"error": {"message": f"scripted {reply.status}"}}).encode()
    message = {"role": "assistant", "content": reply.content}
    return json.dumps(
        {
            "id": "1",
            "object": "chat.completion",
            "created": 1,
            "model": "scripted",
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        }
    ).encode()


def kind_of(question: str) -> str:
    """Which of the three kinds of questions this is."""
    if '"shares"' in question:
        return "relation"
    return "category" if '"synonyms"' in question else "agnostic"


def category_of(question: str) -> str:
    """The category that a category question is about."""
    found = re.search(r"photographs that show: (.+)", question)
    assert found
    return found[1]


def good_answer(question: str) -> str:
    """What a helpful model would say, in JSON."""
    if kind_of(question) == "agnostic":
        return json.dumps({"attributes": ["hue", "shape"], "contexts": ["place"]})
    if kind_of(question) == "relation":
        found = re.search(r"photographs show:\n(.+)", question)
        assert found
        batch = found[1].split(", ")
        pairs = [list(pair) for pair in itertools.pairwise(batch)]
        sentences = [f"A {one} stands next to a {other}." for one, other in pairs]
        return json.dumps({"shares": pairs[:1], "co-occurs": pairs, "sentences": sentences})
    name = category_of(question)
    return json.dumps(
        {
            "synonyms": [f"{name}oid"],
            "broader": ["animal", "living thing"],
            "attributes": ["furry"],
            "contexts": ["garden"],
            "sentences": [f"A furry {name} in the garden.", f"Two {name}oids on a road."],
        }
    )

"""Errors as clients see them: a status, a kind, and a sentence; never a trace."""

import math
from collections.abc import Mapping
from typing import Any

import orjson
from fastapi import Response
from starlette.exceptions import HTTPException

from ovml_deploy.errors import (
    ImageError,
    LabelError,
    OverloadedError,
    OvmlError,
    UsageError,
    VocabularyError,
)
from ovml_deploy.serving.errors import (
    ConflictError,
    NotReadyError,
    StateError,
    StoppingError,
    UnknownVocabularyError,
)

#: The first class that an error is of decides.
_KINDS: Mapping[type[OvmlError], tuple[int, str]] = {
    OverloadedError: (429, "overloaded"),
    StoppingError: (503, "stopping"),
    StateError: (503, "state"),
    UnknownVocabularyError: (404, "unknown_vocabulary"),
    NotReadyError: (409, "not_ready"),
    ConflictError: (409, "conflict"),
    VocabularyError: (422, "vocabulary"),
    LabelError: (422, "labels"),
    ImageError: (422, "image"),
    UsageError: (422, "request"),
}
_ENGINE = (503, "engine")

#: What a client need not know, such as paths of the server; the log has it.
HIDDEN = {
    "state": "The server cannot keep its vocabularies. Its log says why.",
    "engine": "The engine failed. The server's log says why.",
}
_SECONDS_TO_RECOVER = 1.0


class GoneError(Exception):
    """The client hung up: nobody wants an answer any more."""


class Problem(HTTPException):
    """An answer that says what was wrong, and what to do."""

    def __init__(
        self, status: int, kind: str, message: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(status, message, headers)
        self.kind = kind

    @classmethod
    def of(cls, error: OvmlError) -> "Problem":
        """Return the answer to an error."""
        status, kind = next((v for k, v in _KINDS.items() if isinstance(error, k)), _ENGINE)
        headers = {}
        if status in (429, 503):
            wait = getattr(error, "retry_after", _SECONDS_TO_RECOVER)
            headers["retry-after"] = str(math.ceil(wait))
        return cls(status, kind, HIDDEN.get(kind, str(error)), headers)

    def response(self, path: str = "") -> Response:
        """Return it as JSON; below /v2 as the Open Inference Protocol has errors."""
        content: dict[str, Any] = {"error": {"kind": self.kind, "message": self.detail}}
        if path == "/v2" or path.startswith("/v2/"):
            content = {"error": self.detail}
        return json_response(content, self.status_code, self.headers)


def json_response(
    content: object, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """Return plain values as JSON."""
    return Response(
        orjson.dumps(content),
        status,
        None if headers is None else dict(headers),
        "application/json",
    )

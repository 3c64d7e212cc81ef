"""What routes share: the service behind them, and the errors that they may answer with."""

from typing import Annotated, Any

from fastapi import Depends, Request

from ovml_deploy.serving.http.schemas import ErrorAnswer
from ovml_deploy.serving.service import Service

_MEANINGS = {
    400: "The request cannot be read",
    401: "The API key is missing or wrong",
    403: "Not from there",
    404: "There is no such vocabulary",
    408: "The body came too slowly",
    409: "Not now: something else must come first",
    413: "Too large",
    415: "A media type that is not taken, or a compressed body",
    422: "The request makes no sense",
    429: "Too much to do; Retry-After says when to come back",
    500: "A fault of the server",
    503: "The server stops, or its engine or disk fails; Retry-After says when to come back",
}
#: What any request may meet.
ALWAYS = (400, 401, 403, 408, 413, 415, 429, 503)


def service_of(request: Request) -> Service:
    """Return the service behind a request."""
    service: Service = request.app.state.service
    return service


async def _service(request: Request) -> Service:  # were it not async, a thread would run it
    return service_of(request)


ServiceOf = Annotated[Service, Depends(_service)]


def hide_paths(text: str, service: Service) -> str:
    """Return a text without the server's folders, which are nobody's business."""
    folders = {"BUNDLE": service.engine.bundle.path, "STATE": service.settings.state}
    for name, folder in folders.items():
        if folder is not None:
            text = text.replace(str(folder), name)
    return text


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Describe the errors of a route."""
    return {
        status: {"model": ErrorAnswer, "description": _MEANINGS[status]}
        for status in sorted({*statuses, *ALWAYS})
    }

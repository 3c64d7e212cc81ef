"""The HTTP application: its routes, and the guard before them."""

from typing import Any, NoReturn

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.routing import Match
from starlette.types import ASGIApp, Receive, Scope, Send

from ovml_deploy import __version__
from ovml_deploy.serving.http import page, status, tagging, vocabularies
from ovml_deploy.serving.http.guard import Guard
from ovml_deploy.serving.http.problems import Problem
from ovml_deploy.serving.http.questions import describe_faults
from ovml_deploy.serving.http.root_path import RootPath
from ovml_deploy.serving.kserve import rest
from ovml_deploy.serving.service import Service

_PARTS = (tagging, vocabularies, status, page, rest)

_ABOUT = """Tags images with words that can be changed at any time.

Every error is `{"error": {"kind": ..., "message": ...}}`. With an API key, send it as
`Authorization: Bearer KEY` or `X-API-Key: KEY`."""


_KEYS = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}


def create_app(service: Service, local: bool = False) -> FastAPI:
    """Return the application of a service; ``local``: only this machine reaches it, without a key."""
    app = create_routes(service.settings.root_path)
    app.state.service = service
    app.add_middleware(Shortcut)
    app.add_middleware(Guard, service=service, local=local)
    app.add_middleware(RootPath, root_path=service.settings.root_path)
    return app


def create_routes(root_path: str = "") -> FastAPI:
    """Return the application without a service, which knows its OpenAPI document.

    ``root_path``: where a reverse proxy puts it; the document names it as its server.
    """
    app = _App(
        servers=[{"url": root_path}] if root_path else None,
        title="ovml-deploy",
        version=__version__,
        description=_ABOUT,
        docs_url=None,  # they would fetch scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,  # its address is absolute, without a proxy's scheme and path
        exception_handlers={
            HTTPException: _http_problem,
            RequestValidationError: _invalid_request,
        },
    )
    for part in _PARTS:
        app.include_router(part.router)
    return app


class Shortcut:
    """ASGI middleware that calls what tags images past the framework, which describes it only.

    Its routing and its dependencies take a fiftieth of a small model's time.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._routes = {r.path: r for r in tagging.router.routes if isinstance(r, APIRoute)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        route = self._routes.get(scope["path"]) if scope["type"] == "http" else None
        if route is None or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        scope["route"] = route  # by which requests are counted
        response = await route.endpoint(Request(scope, receive, send))
        await response(scope, receive, send)


class _App(FastAPI):
    """Says in its document what the guard asks for."""

    def openapi(self) -> dict[str, Any]:
        """Return the OpenAPI document."""
        document = super().openapi()
        document.setdefault("components", {})["securitySchemes"] = _KEYS
        document["security"] = [{name: []} for name in _KEYS]
        return document


async def _http_problem(request: Request, error: Exception) -> NoReturn:
    """Pass on to the guard, which answers all errors alike."""
    assert isinstance(error, HTTPException)
    if isinstance(error, Problem):
        raise error
    if error.status_code == 405:
        error.headers = {"allow": ", ".join(_methods(request))}
    kinds = {404: "not_found", 405: "method"}
    raise Problem(
        error.status_code, kinds.get(error.status_code, "request"), str(error.detail), error.headers
    ) from error


def _methods(request: Request) -> list[str]:
    """Return what may be done with a path: the framework names only its first route's."""
    found: set[str] = set()
    for part in _PARTS:
        for route in part.router.routes:
            if route.matches(request.scope)[0] is not Match.NONE:
                found |= getattr(route, "methods", None) or set()
    return sorted(found)


async def _invalid_request(request: Request, error: Exception) -> Any:
    assert isinstance(error, RequestValidationError)
    raise Problem(422, "request", describe_faults(error.errors())) from error

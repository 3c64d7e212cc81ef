"""The HTTP application: its routes, and the guard before them."""

from typing import Any, NoReturn

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from ovml_deploy import __version__
from ovml_deploy.serving.http import status, tagging, vocabularies
from ovml_deploy.serving.http.guard import Guard
from ovml_deploy.serving.http.problems import Problem
from ovml_deploy.serving.http.questions import describe_faults
from ovml_deploy.serving.service import Service

_ABOUT = """Tags images with words that can be changed at any time.

Every error is `{"error": {"kind": ..., "message": ...}}`. With an API key, send it as
`Authorization: Bearer KEY` or `X-API-Key: KEY`."""


def create_app(service: Service, local: bool = False) -> FastAPI:
    """Return the application of a service; ``local``: only this machine reaches it, without a key."""
    app = create_routes()
    app.state.service = service
    app.add_middleware(Guard, service=service, local=local)
    return app


def create_routes() -> FastAPI:
    """Return the application without anything behind it, which knows its OpenAPI document."""
    app = FastAPI(
        title="ovml-deploy",
        version=__version__,
        description=_ABOUT,
        docs_url=None,  # they would fetch scripts from elsewhere
        redoc_url=None,
        exception_handlers={
            HTTPException: _http_problem,
            RequestValidationError: _invalid_request,
        },
    )
    for part in (tagging, vocabularies, status):
        app.include_router(part.router)
    return app


async def _http_problem(request: Request, error: Exception) -> NoReturn:
    """Pass on to the guard, which answers all errors alike."""
    assert isinstance(error, HTTPException)
    if isinstance(error, Problem):
        raise error
    kinds = {404: "not_found", 405: "method"}
    raise Problem(
        error.status_code, kinds.get(error.status_code, "request"), str(error.detail), error.headers
    ) from error


async def _invalid_request(request: Request, error: Exception) -> Any:
    assert isinstance(error, RequestValidationError)
    raise Problem(422, "request", describe_faults(error.errors())) from error

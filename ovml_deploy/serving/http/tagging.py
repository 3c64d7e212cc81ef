"""Tagging over HTTP: images to tags at once, or by way of features that the client keeps."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import numpy as np
from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, TypeAdapter

from ovml_deploy.errors import ImageError, UsageError
from ovml_deploy.runtime.results import Tag
from ovml_deploy.serving.http import schemas
from ovml_deploy.serving.http.problems import GoneError, json_response
from ovml_deploy.serving.http.questions import Sent, read_body, read_images, read_json, read_query
from ovml_deploy.serving.http.schemas import (
    AttentionAnswer,
    EncodeAnswer,
    Images,
    MatchAnswer,
    MatchQuestion,
    Name,
    TagAnswer,
    TagQuestion,
    Threshold,
    TopK,
)
from ovml_deploy.serving.http.state import errors, service_of
from ovml_deploy.serving.service import FORMATS, Choice, Item, Times

router = APIRouter(prefix="/v1", tags=["tagging"])

_Found = TypeVar("_Found")
_BINARY = {"schema": {"type": "string", "format": "binary"}}
_TYPES = ("application/octet-stream", *(f"image/{name.lower()}" for name in FORMATS))


def _bodies(question: type[BaseModel], form: dict[str, Any]) -> dict[str, Any]:
    """Describe the three forms that a body with images may have."""
    files = {"type": "array", "items": {"type": "string", "format": "binary"}, "minItems": 1}
    properties = {"image": files, **form}
    multipart = {
        "type": "object",
        "properties": properties,
        "required": ["image"],
        "additionalProperties": False,
    }
    content = {
        **dict.fromkeys(_TYPES, _BINARY),
        "multipart/form-data": {"schema": multipart},
        "application/json": {"schema": schemas.describe(question)},
    }
    return {"requestBody": {"required": True, "content": content}}


_FORM = {
    "vocabulary": TypeAdapter(Name).json_schema(),
    "labels": {"type": "string", "minLength": 1, "description": "Separated by commas"},
    "top_k": TypeAdapter(TopK).json_schema(),
    "threshold": TypeAdapter(Threshold).json_schema(),
}
# Read by hand, for what the framework does for a parameter costs a hundredth of a small model's time.
_QUERY = {"parameters": [{"in": "query", "name": k, "schema": v} for k, v in _FORM.items()]}


@router.post(
    "/tag",
    response_model=TagAnswer,
    responses=errors(400, 404, 409, 413, 415, 422, 429, 503),
    openapi_extra={**_bodies(TagQuestion, _FORM), **_QUERY},
)
async def tag(request: Request) -> Response:
    """Tag one image (the body, under its media type) or many (a form's files, or JSON).

    Where many were sent, one that cannot be read is an error of its own result; one sent alone is
    status 422.
    """
    service = service_of(request)
    sent = await read_images(request, read_query(request))
    options = sent.options

    async def work() -> tuple[Choice, list[Item]]:
        choice = await service.choose(options.vocabulary, options.labels)
        return choice, await service.tag(sent.images, choice, options.top_k, options.threshold)

    choice, items = await unless_gone(request, work())
    found = _results(sent, items, lambda i: {"tags": i.tags, "times": _times(i.times)})
    return json_response({"vocabulary": _used(choice), "results": found})


@router.post(
    "/encode",
    response_model=EncodeAnswer,
    responses=errors(400, 413, 415, 422, 429, 503),
    openapi_extra=_bodies(Images, {}),
)
async def encode(request: Request) -> Response:
    """Encode images into features, to be kept and matched later with any words."""
    service = service_of(request)
    sent = await read_images(request, {})
    items = await unless_gone(request, service.encode(sent.images))
    found = _results(
        sent,
        items,
        lambda i: {
            "features": None if i.features is None else schemas.Features.of(i.features),
            "times": _times(i.times),
        },
    )
    return json_response({"model": service.engine.bundle.model_hash, "results": found})


@router.post(
    "/attention",
    response_model=AttentionAnswer,
    responses=errors(400, 413, 415, 422, 429, 503),
    openapi_extra=_bodies(Images, {}),
)
async def attention(request: Request) -> Response:
    """Say where in images each feature was found, which a tag's ``query`` is the index of.

    Only where ``/v1/model`` says that the model tells; otherwise status 422.
    """
    service = service_of(request)
    sent = await read_images(request, {})
    items = await unless_gone(request, service.look(sent.images))
    found = _results(
        sent,
        items,
        lambda i: {"grid": None if i.attention is None else schemas.Attention.of(i.attention)},
    )
    return json_response({"model": service.engine.bundle.model_hash, "results": found})


@router.post(
    "/match",
    response_model=MatchAnswer,
    responses=errors(400, 404, 409, 413, 422, 429, 503),
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": schemas.describe(MatchQuestion)}},
        }
    },
)
async def match(request: Request) -> Response:
    """Tag images anew by features that /v1/encode gave, without the images."""
    service = service_of(request)
    question = read_json(MatchQuestion, await read_body(request))
    features = [item.read() for item in question.features]
    if len({array.shape for array in features}) > 1:
        raise UsageError("Features of different shapes are not of one model.")

    async def work() -> tuple[Choice, list[tuple[Tag, ...]]]:
        choice = await service.choose(question.vocabulary, question.labels)
        rows = np.stack(features)
        return choice, await service.match(rows, choice, question.top_k, question.threshold)

    choice, found = await unless_gone(request, work())
    tagged = [{"tags": tags} for tags in found]
    return json_response({"vocabulary": _used(choice), "results": tagged})


async def unless_gone(request: Request, work: Awaitable[_Found]) -> _Found:
    """Do some work for as long as the client waits; one that hangs up frees its places.

    Raises GoneError for that.
    """
    asked = asyncio.current_task()
    assert asked is not None
    hung_up = False

    async def watch() -> None:
        nonlocal hung_up
        while (await request.receive())["type"] != "http.disconnect":
            pass
        hung_up = True
        asked.cancel()

    watching = asyncio.ensure_future(watch())
    try:
        return await work
    except asyncio.CancelledError:
        if hung_up and not asked.uncancel():  # else somebody else wants it to end, too
            raise GoneError from None
        raise
    finally:
        watching.cancel()


def _results(
    sent: Sent, items: Sequence[Item], told: Callable[[Item], dict[str, Any]]
) -> list[dict[str, Any]]:
    """Return what is ``told`` of each image, with its name and error.

    Raises ImageError for an image that is the request itself: that has no result to hold its error.
    """
    if sent.alone and items[0].error is not None:
        raise ImageError(items[0].error)
    return [
        {"name": name, **told(item), "error": item.error}
        for name, item in zip(sent.names, items, strict=True)
    ]


def _used(choice: Choice) -> dict[str, Any]:
    vocabulary = choice.vocabulary
    return {
        "name": choice.name,
        "version": choice.version,
        "id": vocabulary.id,
        "labels": len(vocabulary),
    }


def _times(times: Times | None) -> dict[str, Any] | None:
    if times is None:
        return None
    return {
        "decode_ms": round(times.decode, 3),
        "queue_ms": round(times.queue, 3),
        "engine_ms": round(times.engine, 3),
        "batch": times.batch,
    }

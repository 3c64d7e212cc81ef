"""Reads what a request asks for, in each of the forms it may have."""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError
from pydantic_core import from_json
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from ovml_deploy.errors import ImageError
from ovml_deploy.serving.http.problems import Problem
from ovml_deploy.serving.http.schemas import Options, TagQuestion

_JSON = "application/json"
_FORM = "multipart/form-data"
_BYTES = "application/octet-stream"
_FIELDS = 16  # more than there are options
_SHOWN = 3  # errors of a body

_Model = TypeVar("_Model", bound=BaseModel)


@dataclass(frozen=True)
class Sent:
    """Images as they were sent; ``alone``: one as the body itself, whose error is the request's."""

    images: Sequence[bytes | ImageError]
    names: Sequence[str | None]
    options: Options
    alone: bool = False


async def read_images(request: Request, given: dict[str, Any]) -> Sent:
    """Return images and options; those of the body go before the query's, which are ``given``.

    Raises Problem.
    """
    media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media == _JSON:
        question = read_json(TagQuestion, await read_body(request), given)
        images = question.read()
        return Sent(images, [None] * len(images), question)
    if media == _FORM:
        return await _read_form(request, given)
    if media == _BYTES or media.startswith("image/"):
        body = await read_body(request)
        return Sent([body], [None], _checked(Options, given), alone=True)
    raise Problem(
        415,
        "media_type",
        f"The body is {repr(media[:80]) if media else 'of no media type'}. Send an image under its own "
        f"type (such as image/jpeg) or {_BYTES}, images as {_FORM}, or {_JSON}.",
    )


async def read_body(request: Request) -> bytes:
    """Return the body, which the guard passes on whole: the framework would copy it once more."""
    body: bytes = (await request.receive())["body"]
    return body


def read_query(request: Request) -> dict[str, Any]:
    """Return the options that the address has. Raises Problem."""
    if not request.scope["query_string"]:
        return {}
    fields: dict[str, Any] = dict(request.query_params)
    if "labels" in fields:
        fields["labels"] = split_labels(fields["labels"])
    return _checked(Options, fields).model_dump(exclude_unset=True)


def read_json(model: type[_Model], body: bytes, given: dict[str, Any] | None = None) -> _Model:
    """Return a JSON body as a model; ``given``: values where it has none. Raises Problem."""
    try:
        content = from_json(body)  # in much less memory than model_validate_json takes
        if not isinstance(content, dict):
            raise Problem(422, "request", "The body must be a JSON object.")
        for name, value in (given or {}).items():
            content.setdefault(name, value)
        return model.model_validate(content)
    except (ValidationError, ValueError, RecursionError) as error:
        raise _invalid(error) from error


async def _read_form(request: Request, given: dict[str, Any]) -> Sent:
    images: list[bytes] = []
    names: list[str | None] = []
    fields: dict[str, Any] = dict(given)
    try:
        form = await _InMemory.parse_form(request.headers, request.stream())
    except MultiPartException as error:
        raise Problem(400, "form", f"The form cannot be read: {error.message}") from error
    except (KeyError, ValueError) as error:  # of headers that make no sense
        raise Problem(400, "form", "The form cannot be read. Is its boundary right?") from error
    labels: list[str] = []
    for key, value in form.multi_items():
        if isinstance(value, UploadFile):
            images.append(await value.read())
            names.append(value.filename)
        elif key == "labels":
            labels.extend(split_labels(value))
        else:
            fields[key] = value
    if labels:
        fields["labels"] = labels
    if not images:
        raise Problem(422, "request", "The form has no file. Send each image as one.")
    return Sent(images, names, _checked(Options, fields))


def split_labels(text: str) -> list[str]:
    """Return labels written in one text, separated by commas."""
    return [label for label in text.split(",") if label.strip()]


def _checked(model: type[_Model], values: dict[str, Any]) -> _Model:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise _invalid(error) from error


def _invalid(error: Exception) -> Problem:
    if not isinstance(error, ValidationError):
        return Problem(
            422, "request", f"The body is no JSON that can be read ({str(error)[:200]})."
        )
    return Problem(
        422, "request", describe_faults(error.errors(include_url=False, include_input=False))
    )


def describe_faults(faults: Sequence[Any]) -> str:
    """Return pydantic's list of faults in a sentence, without what was sent."""
    texts = []
    for fault in faults[:_SHOWN]:
        where = ".".join(str(part)[:40] for part in fault["loc"] if part not in ("body", "query"))
        texts.append(f"{where}: {fault['msg'][:200]}" if where else fault["msg"][:200])
    if len(faults) > _SHOWN:
        texts.append(f"and {len(faults) - _SHOWN} more")
    return "; ".join(texts) + "."


class _InMemory(MultiPartParser):
    """The body is in memory already, so its parts need not go to the disk."""

    spool_max_size = 1 << 40

    @classmethod
    async def parse_form(cls, headers: Headers, stream: AsyncGenerator[bytes, None]) -> Any:
        return await cls(headers, stream, max_files=1000, max_fields=_FIELDS).parse()

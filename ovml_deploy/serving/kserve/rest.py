"""The protocol over HTTP, with its extension for binary tensors. Errors are ``{"error": "text"}``."""

from collections.abc import Collection
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, BeforeValidator, Field
from pydantic_core import PydanticCustomError

from ovml_deploy.errors import UsageError
from ovml_deploy.serving.http.problems import json_response
from ovml_deploy.serving.http.questions import read_body, read_json
from ovml_deploy.serving.http.state import ServiceOf
from ovml_deploy.serving.http.tagging import unless_gone
from ovml_deploy.serving.kserve import model
from ovml_deploy.serving.kserve.inference import Answer, Question, infer
from ovml_deploy.serving.kserve.model import Model, check_parameters
from ovml_deploy.serving.kserve.tensors import Tensor, from_json, from_raw

#: Where the JSON of a body ends and the tensors begin.
_HEADER = "Inference-Header-Content-Length"

# The protocol has a document of its own; ours describes what is ours.
router = APIRouter(prefix="/v2", include_in_schema=False)

_MOST_PARAMETERS = 32  # more than are known


def _check_parameters(given: Any) -> Any:
    """Refuse what are no parameters with one error: pydantic would make four of each."""
    if isinstance(given, dict):
        if len(given) > _MOST_PARAMETERS:
            text = "{count} parameters are too many"
            raise PydanticCustomError("too_many", text, {"count": len(given)})
        for name, value in given.items():
            if not isinstance(value, bool | int | float | str):
                text = "The parameter {name} must be a boolean, a number or a text"
                raise PydanticCustomError("parameter", text, {"name": repr(name[:80])})
    return given


_Parameters = Annotated[dict[str, bool | int | float | str], BeforeValidator(_check_parameters)]


class _Input(BaseModel):
    name: str
    datatype: str
    shape: Annotated[list[int], Field(max_length=8, fail_fast=True)]
    parameters: _Parameters = {}
    data: list[Any] | None = None


class _Output(BaseModel):
    name: str
    parameters: _Parameters = {}


class _Request(BaseModel):
    id: Annotated[str, Field(max_length=1000)] = ""
    parameters: _Parameters = {}
    inputs: Annotated[list[_Input], Field(min_length=1, max_length=8, fail_fast=True)]
    outputs: Annotated[list[_Output], Field(max_length=16, fail_fast=True)] = []

    def binary_outputs(self, known: Collection[str]) -> set[str]:
        """Return which outputs are sent as bytes. Raises UsageError."""
        usual = bool(self.parameters.get("binary_data_output", False))
        for output in self.outputs:
            check_parameters(
                output.parameters, ("binary_data",), f"the output {output.name[:80]!r}"
            )
        told = {o.name: bool(o.parameters.get("binary_data", usual)) for o in self.outputs}
        return {name for name in known if told.get(name, usual)}


async def _model(request: Request, service: ServiceOf) -> Model:
    served = Model.of(service)
    path = request.path_params
    served.check_name(path["name"], path.get("version", ""))
    return served


_ModelOf = Annotated[Model, Depends(_model)]
_ONE, _VERSION = "/models/{name}", "/models/{name}/versions/{version}"


@router.get("")
async def server() -> Response:
    """Return what the server is."""
    return json_response(model.SERVER)


@router.get("/health/live")
async def live() -> Response:
    """Say that the process answers."""
    return json_response({"live": True})


@router.get("/health/ready")
async def ready(service: ServiceOf) -> Response:
    """Say whether images are tagged right now."""
    return _readiness(await service.fault())


@router.get(_ONE)
@router.get(_VERSION)
async def metadata(served: _ModelOf) -> Response:
    """Return the model's tensors."""
    return json_response(served.metadata())


@router.get(_ONE + "/ready")
@router.get(_VERSION + "/ready")
async def model_ready(served: _ModelOf, service: ServiceOf) -> Response:
    """Say whether the model tags images right now."""
    return _readiness(await service.fault(), served.name)


@router.post(_ONE + "/infer")
@router.post(_VERSION + "/infer")
async def infer_images(request: Request, served: _ModelOf, service: ServiceOf) -> Response:
    """Tag the images of a tensor."""
    asked, tail = _split(request, await read_body(request))
    outputs = [output.name for output in asked.outputs]
    served.check_outputs(outputs)
    binary = asked.binary_outputs([spec.name for spec in served.outputs])
    question = Question(_read(asked, tail, served), outputs, asked.parameters)
    answer = await unless_gone(request, infer(service, question))
    return _response(asked.id, answer, served, binary)


def _readiness(fault: str | None, name: str | None = None) -> Response:
    named = {} if name is None else {"name": name}
    if fault is None:
        return json_response({**named, "ready": True})
    return json_response({**named, "ready": False, "error": fault}, 503)


def _split(request: Request, body: bytes) -> tuple[_Request, memoryview]:
    """Return what is asked, and the bytes of tensors behind it. Raises Problem, UsageError."""
    told = request.headers.get(_HEADER, str(len(body)))
    if not told.isdecimal() or len(told) > 20 or int(told) > len(body):
        raise UsageError(
            f"{_HEADER} is {told[:40]!r}; it is how many of the body's {len(body):,} bytes are JSON."
        )
    end = int(told)
    return read_json(_Request, body[:end]), memoryview(body)[end:]


def _read(asked: _Request, tail: memoryview, served: Model) -> list[Tensor]:
    """Return the inputs. Raises UsageError."""
    tensors = []
    for given in asked.inputs:
        spec = served.input(given.name, given.datatype, given.shape)
        check_parameters(given.parameters, ("binary_data_size",), f"the input {spec.name!r}")
        size = given.parameters.get("binary_data_size")
        if (size is None) == (given.data is None):
            raise UsageError(
                f"The input {spec.name!r} has its data in JSON as 'data', or behind it as many bytes as "
                "the parameter 'binary_data_size' says: one of the two."
            )
        if given.data is not None:
            tensors.append(from_json(spec.name, spec.datatype, given.shape, given.data))
            continue
        if not isinstance(size, int) or not 0 <= size <= len(tail):
            raise UsageError(
                f"The input {spec.name!r} has a binary_data_size of {str(size)[:40]}; {len(tail):,} bytes "
                "are left behind the JSON."
            )
        tensors.append(from_raw(spec.name, spec.datatype, given.shape, tail[:size]))
        tail = tail[size:]
    if len(tail):
        raise UsageError(f"{len(tail):,} bytes behind the JSON belong to no input.")
    return tensors


def _response(id_: str, answer: Answer, served: Model, binary: set[str]) -> Response:
    outputs, tail = [], []
    for tensor in answer.outputs:
        described: dict[str, Any] = {
            "name": tensor.name,
            "datatype": tensor.datatype,
            "shape": [*tensor.array.shape],
        }
        if tensor.name in binary:
            raw = tensor.raw()
            described["parameters"] = {"binary_data_size": len(raw)}
            tail.append(raw)
        else:
            described["data"] = tensor.values()
        outputs.append(described)
    content: dict[str, Any] = {"model_name": served.name, "model_version": model.VERSION}
    if id_:
        content["id"] = id_
    content.update(parameters=answer.parameters, outputs=outputs)
    if not tail:
        return json_response(content)
    head = orjson.dumps(content)
    headers = {_HEADER: str(len(head))}
    return Response(b"".join([head, *tail]), 200, headers, "application/octet-stream")

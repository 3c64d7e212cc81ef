"""Vocabularies over HTTP: seen, put, activated and deleted while the server tags."""

import asyncio
from dataclasses import asdict
from time import monotonic
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Response

from ovml_deploy.serving.http.problems import json_response
from ovml_deploy.serving.http.schemas import (
    VocabularyDetail,
    VocabularyEntry,
    VocabularyLabels,
    VocabularyList,
)
from ovml_deploy.serving.http.state import ServiceOf, errors, hide_paths
from ovml_deploy.serving.service import Service
from ovml_deploy.serving.state_folder import NAME
from ovml_deploy.serving.vocabularies import Entry

router = APIRouter(prefix="/v1/vocabularies", tags=["vocabularies"])

_OFTEN = 0.02  # seconds between looks at a vocabulary that is being embedded

_Name = Annotated[str, Path(max_length=200)]
_NewName = Annotated[str, Path(max_length=200, json_schema_extra={"pattern": NAME.pattern})]
_Wait = Annotated[
    float, Query(ge=0, le=30, description="Seconds to wait for the labels to be embedded")
]


@router.get("", response_model=VocabularyList, responses=errors())
async def list_vocabularies(service: ServiceOf) -> Response:
    """Return all vocabularies, without their labels."""
    entries = service.vocabularies.entries()
    return json_response({"vocabularies": [_plain(service, entry) for entry in entries]})


@router.get("/{name}", response_model=VocabularyDetail, responses=errors(404, 422))
async def get_vocabulary(name: _Name, service: ServiceOf) -> Response:
    """Return a vocabulary with its labels; ``done`` of ``total`` labels are embedded."""
    entry, labels = service.vocabularies.detail(name)
    return json_response({**_plain(service, entry), "texts": labels})


@router.put(
    "/{name}",
    response_model=VocabularyEntry,
    status_code=202,
    responses={200: {"model": VocabularyEntry}, **errors(400, 404, 409, 422)},
)
async def put_vocabulary(
    name: _NewName, body: VocabularyLabels, service: ServiceOf, wait: _Wait = 0
) -> Response:
    """Embed labels in the background, and serve them under a name once all are there.

    Status 202 while they are being embedded, 200 where ``wait`` was long enough.
    """
    store = service.vocabularies
    entry = await asyncio.to_thread(store.put, name, body.labels)
    asked, until = entry.newest, monotonic() + wait
    while entry.state == "embedding" and entry.newest == asked and monotonic() < until:
        await asyncio.sleep(_OFTEN)
        entry = store.entry(name)
    return json_response(_plain(service, entry), 202 if entry.state == "embedding" else 200)


@router.post("/{name}/activate", response_model=VocabularyEntry, responses=errors(404, 409, 422))
async def activate_vocabulary(name: _Name, service: ServiceOf) -> Response:
    """Use a vocabulary for requests that name none, from now on and after a restart."""
    entry = await asyncio.to_thread(service.vocabularies.activate, name)
    return json_response(_plain(service, entry))


@router.delete("/{name}", status_code=204, responses=errors(404, 409, 422))
async def delete_vocabulary(name: _Name, service: ServiceOf) -> Response:
    """Forget a vocabulary. Requests that use it already end with it."""
    await asyncio.to_thread(service.vocabularies.delete, name)
    return Response(status_code=204)


def _plain(service: Service, entry: Entry) -> dict[str, Any]:
    error = None if entry.error is None else hide_paths(entry.error, service)
    return {**asdict(entry), "error": error}

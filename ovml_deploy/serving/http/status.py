"""How the server is: alive, ready, what it tags with, and what it counted."""

from typing import Any

from fastapi import APIRouter, Response

from ovml_deploy import __version__
from ovml_deploy.serving.http.problems import json_response
from ovml_deploy.serving.http.schemas import Health, ModelAnswer
from ovml_deploy.serving.http.state import ServiceOf, errors
from ovml_deploy.serving.service import Service

router = APIRouter(tags=["status"])


@router.get("/healthz", response_model=Health, responses=errors(), openapi_extra={"security": []})
async def healthz() -> Response:
    """Say that the process lives and answers."""
    return json_response({"ok": True, "reason": None})


@router.get(
    "/readyz",
    response_model=Health,
    responses={**errors(), 503: {"model": Health, "description": "It is not ready"}},
    openapi_extra={"security": []},
)
async def readyz(service: ServiceOf) -> Response:
    """Say whether images are tagged: one whose features are known went through the engine."""
    fault = await service.fault()
    status = 200 if fault is None else 503
    return json_response({"ok": fault is None, "reason": fault}, status)


@router.get("/v1/model", response_model=ModelAnswer, responses=errors())
async def model(service: ServiceOf) -> Response:
    """Return what the server tags with, and what it allows."""
    return json_response(describe(service))


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **errors()},
)
async def metrics(service: ServiceOf) -> Response:
    """Return what was counted, for Prometheus."""
    text = service.metrics.text()
    return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")


def describe(service: Service) -> dict[str, Any]:
    """Return the facts of the model and of the limits as plain values."""
    engine, settings = service.engine, service.settings
    bundle = engine.bundle
    active = next((e.name for e in service.vocabularies.entries() if e.active), None)
    return {
        "name": bundle.path.name,
        "version": __version__,
        "engine": engine.backend.description,
        "head": bundle.head,
        "backbone": bundle.manifest["backbone"]["name"],
        "precision": engine.backend.precision,
        "activation": bundle.activation,
        "image_size": list(bundle.preprocessing.size),
        "resize_mode": bundle.preprocessing.resize_mode,
        "features": [bundle.features_per_image, bundle.embed_dim],
        "model": bundle.model_hash,
        "attention": bundle.attention_grid is not None,
        "vocabulary": active,
        "limits": {
            "body_bytes": settings.max_body,
            "pixels": settings.max_pixels,
            "images": settings.images_a_request,
            "inline_labels": settings.max_inline_labels,
            "labels": settings.limits.labels,
            "label_chars": settings.limits.label_chars,
            "vocabularies": settings.limits.vocabularies,
        },
    }

"""The server on Ray Serve: ``serve run ovml_deploy.serving.ray_app:build_app engine=build/qks``.

Each replica is a whole server with an engine of its own, behind Ray's proxy: the same HTTP API, but
for one thing. A vocabulary put to one replica would be on no other, so the vocabularies are those of
the bundle and the one that the deployment was given (``vocab``, then ``user_config``), which Ray
brings to all replicas, also to those that start later. Requests to change them are refused.
"""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

from ovml_deploy.commandline import needs_extra
from ovml_deploy.decoder_messages import silence_decoders
from ovml_deploy.errors import DeviceError, UsageError
from ovml_deploy.runtime.engine import Engine
from ovml_deploy.runtime.labels import LabelSource, split_groups
from ovml_deploy.serving.http.app import create_app
from ovml_deploy.serving.http.problems import Problem
from ovml_deploy.serving.server import warm
from ovml_deploy.serving.service import Service
from ovml_deploy.serving.settings import Settings, read_api_key
from ovml_deploy.serving.state_folder import check_name
from ovml_deploy.serving.vocabularies import read_named_labels

if TYPE_CHECKING:
    from ray.serve import Application

_SPARE = 16  # requests of probes and metrics, while all places for images are taken


class Arguments(BaseModel):
    """What the application is told: ``NAME=VALUE`` of ``serve run``, or ``args`` of a config file.

    ``engine`` and ``api_key_file`` are paths on every machine that has a replica; ``vocab`` is a
    label file here. ``cpus`` and ``gpus``: what Ray reserves for a replica. The rest is as for
    ``ovml-deploy serve``.
    """

    model_config = ConfigDict(extra="forbid")

    engine: str
    replicas: int = Field(1, ge=1)
    cpus: float = Field(1, ge=0)
    gpus: float = Field(0, ge=0)
    vocab: str | None = None
    api_key_file: str | None = None
    insecure: bool = False
    device: str = "auto"
    precision: str = "auto"
    max_batch: int = Field(Settings.max_batch, ge=1)
    max_delay_ms: float = Field(1e3 * Settings.max_delay, ge=0)
    max_queue: int = Field(Settings.max_queue, ge=1)

    def settings(self) -> Settings:
        """Return the settings of a replica, whose key is read where it runs. Raises UsageError."""
        key = read_api_key(self.api_key_file)
        if key is None and not self.insecure:
            raise UsageError(
                "Ray's proxy may be reached from other machines, and there is no API key. Give one with "
                "api_key_file=FILE or OVML_API_KEY on every machine, or say insecure=true where "
                "something else keeps strangers out."
            )
        return Settings(
            max_batch=self.max_batch,
            max_delay=self.max_delay_ms / 1e3,
            max_queue=self.max_queue,
            api_key=key,
        )


class Replica:
    """What Ray asks of a replica besides HTTP. ``app`` is there once Ray has made it."""

    app: FastAPI

    async def reconfigure(self, words: dict[str, Any]) -> None:
        """Embed and activate a vocabulary, ``{"name": ..., "labels": [...]}``, while others tag.

        Raises UsageError, VocabularyError, LabelError; then the old one stays.
        """
        await asyncio.to_thread(self._service.vocabularies.use, *_checked(words))

    async def check_health(self) -> None:
        """Raise DeviceError where the engine's thread has ended, so that Ray starts another replica.

        It does not ask the engine: a long queue is no illness, and a restart would make it longer.
        """
        if not self._service.batcher.alive:
            raise DeviceError("The engine has stopped.")

    async def __del__(self) -> None:
        if hasattr(self, "app"):
            await asyncio.to_thread(self._service.close)

    @property
    def _service(self) -> Service:
        service: Service = self.app.state.service
        return service


class FixedVocabularies:
    """ASGI middleware that refuses what would change the vocabularies of one replica alone."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request; the guard makes an answer of a Problem."""
        if (
            scope["type"] == "http"
            and scope["path"].startswith("/v1/vocabularies")
            and scope["method"] not in ("GET", "HEAD", "OPTIONS")
        ):
            raise Problem(
                409,
                "fixed",
                "This is one of several servers, and the others would not know. Send labels with the "
                "request, or deploy with another user_config.",
            )
        await self._app(scope, receive, send)


def build_app(args: Arguments) -> "Application":
    """Return the application that Ray Serve runs.

    Raises UsageError, LabelError, VocabularyError, MissingDependencyError.
    """
    with needs_extra("ray"):
        from ray import serve
    args = args.model_copy(update={"engine": str(Path(args.engine).absolute())})
    settings = args.settings()  # what is refused here is not refused by replicas, again and again

    def application() -> FastAPI:
        return _application(args)

    deploy = serve.deployment(
        name="ovml-deploy",
        num_replicas=args.replicas,
        ray_actor_options={"num_cpus": args.cpus, "num_gpus": args.gpus},
        max_ongoing_requests=args.max_queue + _SPARE,  # so that the guard refuses, with Retry-After
        graceful_shutdown_timeout_s=settings.drain,
        health_check_period_s=5,
        user_config=None if args.vocab is None else _words(args.vocab),
    )
    return deploy(serve.ingress(application)(Replica)).bind()


def _application(args: Arguments) -> FastAPI:
    """The whole server, made in a replica."""
    silence_decoders()
    settings = args.settings()
    engine = Engine.open(args.engine, args.device, args.precision)
    warm(engine, settings.max_batch)
    app = create_app(Service(engine, settings))
    app.user_middleware.append(Middleware(FixedVocabularies))  # inside the guard
    return app


def _words(vocab: str) -> dict[str, Any]:
    name, labels = read_named_labels(vocab)
    texts, groups = split_groups(labels)
    return {"name": name, "labels": {t: groups.get(t) for t in texts} if groups else [*texts]}


def _checked(words: Any) -> tuple[str, LabelSource]:
    try:
        name, labels = words["name"], words["labels"]
    except (KeyError, TypeError) as error:
        raise UsageError(
            f"user_config is {str(words)[:80]!r}; it must be {{name: NAME, labels: [LABEL, ...]}}."
        ) from error
    check_name(name)
    split_groups(labels)
    return name, labels

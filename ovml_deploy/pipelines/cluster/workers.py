"""Processes with an engine each, which Ray starts anew, with their work, where they die."""

import logging
import os
import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ovml_deploy import __version__
from ovml_deploy.decoder_messages import silence_decoders
from ovml_deploy.errors import ImageError, OvmlError
from ovml_deploy.pipelines.archives.encoders import Loaded, load_items, measure_loss
from ovml_deploy.pipelines.archives.layout import Manifest
from ovml_deploy.pipelines.archives.quantized import Loss
from ovml_deploy.pipelines.archives.sources import Item
from ovml_deploy.pipelines.cluster.session import Cluster, ClusterError
from ovml_deploy.runtime.engine import Engine
from ovml_deploy.runtime.tagger import Tagger
from ovml_deploy.runtime.threads import available_cpus

logger = logging.getLogger(__name__)

#: How often a piece of work is done again that took its worker with it.
RETRIES = 4
_PATIENCE = 30.0  # seconds between lines that say what is waited for

_Error = TypeVar("_Error", bound=OvmlError)

#: An image of a batch: which of the given arrays has it, and where.
Place = tuple[int, int]


@dataclass(frozen=True)
class Facts:
    """What must be the same in all workers, and where one is."""

    version: str
    model: str
    device: str
    machine: str
    process: int


class Worker:
    """An engine in a process of its own. Loading and encoding may be asked for at once.

    Where it does not open, each method raises why: Ray tells only in a text what a constructor raised.
    """

    def __init__(self, engine: str, device: str, folder: str) -> None:
        self._opened: Tagger | OvmlError
        try:
            enter(folder)
            self._opened = Tagger(Engine.open(engine, device))
        except OvmlError as error:
            self._opened = error

    @property
    def _tagger(self) -> Tagger:
        if isinstance(self._opened, OvmlError):
            raise plain(self._opened)
        return self._opened

    def facts(self) -> Facts:
        """Return what this is."""
        model, device = self._tagger.bundle.model_hash, self._tagger.backend.description
        return Facts(__version__, model, device, platform.node(), os.getpid())

    def load(self, items: Sequence[Item]) -> tuple[list[bytes | ImageError], np.ndarray]:
        """Return each image's digest, or what is wrong, and the pixels ``[n, H, W, 3]`` of the good."""
        bundle = self._tagger.bundle
        ahead = 2 * available_cpus()
        found: list[bytes | ImageError] = []
        pixels: list[np.ndarray] = []
        for _, each in load_items(iter(items), bundle, ahead, lambda digest: None):
            if isinstance(each, Loaded) and each.pixels is not None:
                found.append(each.digest)
                pixels.append(each.pixels)
            else:
                assert isinstance(each, ImageError)
                found.append(plain(each))
        return found, np.stack(pixels) if pixels else np.empty(0, np.uint8)

    def encode(self, places: Sequence[Place], *loaded: np.ndarray) -> np.ndarray:
        """Return features ``[B, M, D]`` of some of the images that were loaded, at once."""
        batch = np.stack([loaded[array][image] for array, image in places])
        return np.asarray(self._tagger.engine.encode(batch))

    def measure(self, exact: np.ndarray, manifest: Manifest) -> Loss:
        """Return what storing features loses."""
        return measure_loss(self._tagger, exact, manifest)


def plain(error: _Error) -> _Error:
    """Return an error without its causes, which may not travel."""
    return type(error)(*error.args)


def enter(folder: str) -> None:
    """Prepare this process: the driver's working folder, no decoder messages. Raises ClusterError."""
    silence_decoders()
    try:
        os.chdir(folder)
    except OSError as error:
        raise ClusterError(
            f"{platform.node()} has no folder {folder!r} ({error}). Images, bundle and archive must "
            "be under the same paths on all machines: use a shared file system."
        ) from error


class Workers:
    """The workers of a cluster, seen from where the work is ordered."""

    def __init__(self, ray: Any, cluster: Cluster, engine: str, device: str) -> None:
        """Start them and wait for all. Raises ClusterError."""
        self._ray = ray
        kind = ray.remote(
            **cluster.reserved,
            max_restarts=-1,
            max_task_retries=RETRIES,
            scheduling_strategy="SPREAD",
            concurrency_groups={"load": 1, "encode": 1},
        )(Worker)
        folder = str(Path.cwd())
        self._actors = [kind.remote(engine, device, folder) for _ in range(cluster.workers)]
        self._busy = [0] * cluster.workers
        try:
            self.device = self._agreed()
        except BaseException:
            self.close()
            raise

    def __len__(self) -> int:
        return len(self._actors)

    def load(self, items: Sequence[Item]) -> tuple[Callable[[], Any], Any]:
        """Begin to load images: what gives digests and errors, and a reference to the pixels."""
        found, pixels = self._order("load", items, num_returns=2)
        return found, pixels

    def encode(self, places: Sequence[Place], loaded: Sequence[Any]) -> Callable[[], np.ndarray]:
        """Begin with a batch of images of loaded arrays."""
        features, _ = self._order("encode", places, *loaded)
        return features

    def measure(self, exact: np.ndarray, manifest: Manifest) -> Loss:
        """Return what storing features loses."""
        loss: Loss = self._order("measure", exact, manifest, group="encode")[0]()
        return loss

    def close(self) -> None:
        """End them."""
        for actor in self._actors:
            self._ray.kill(actor)

    def _order(
        self, method: str, *arguments: Any, group: str | None = None, num_returns: int = 1
    ) -> tuple[Callable[[], Any], Any]:
        """Give work to the worker that has the least."""
        number = self._busy.index(min(self._busy))
        self._busy[number] += 1
        call = getattr(self._actors[number], method)
        made = call.options(concurrency_group=group or method, num_returns=num_returns).remote(
            *arguments
        )
        first, last = (made[0], made[-1]) if num_returns > 1 else (made, made)

        def result() -> Any:
            with explained(self._ray):
                found = self._ray.get(first)
            self._busy[number] -= 1
            return found

        return result, last

    def _agreed(self) -> str:
        """The device that all of them run on, once all are there."""
        asked = [actor.facts.remote() for actor in self._actors]
        waiting = asked
        while waiting:
            _, waiting = self._ray.wait(waiting, num_returns=len(waiting), timeout=_PATIENCE)
            if waiting:
                logger.warning("waiting for %d of %d workers", len(waiting), len(asked))
        with explained(self._ray):
            facts: list[Facts] = self._ray.get(asked)
        for each in facts:
            logger.info("worker %d on %s: %s", each.process, each.machine, each.device)
        for what in ("version", "model", "device"):
            values = sorted({getattr(each, what) for each in facts})
            if len(values) > 1:
                raise ClusterError(
                    f"The workers differ in their {what}: {'; '.join(values)}. Features would, too. "
                    "Use machines of one kind, with the same bundle, and name the --device."
                )
        return facts[0].device


@contextmanager
def explained(ray: Any) -> Iterator[None]:
    """Turn what Ray raises into the error that a worker raised, or into a ClusterError."""
    try:
        yield
    except (ray.exceptions.RayError, ray.exceptions.UserCodeException) as error:
        known = _cause(error)
        if known is not None:
            raise known from None
        raise ClusterError(
            f"Workers failed ({str(error).strip()[-600:]}). Run this again: it goes on."
        ) from error


def _cause(error: BaseException | None) -> OvmlError | None:
    """The error of ours behind Ray's, if there is one."""
    seen = 0
    while error is not None and seen < 8:
        if isinstance(error, OvmlError) and type(error).__module__.startswith("ovml_deploy"):
            return error
        error = getattr(error, "cause", None) or error.__cause__
        seen += 1
    return None

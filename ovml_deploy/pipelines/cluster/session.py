"""A Ray to work on: one that runs already, or one of this machine alone."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ovml_deploy.errors import MissingDependencyError, OvmlError, UsageError
from ovml_deploy.runtime.telemetry import silence_ray
from ovml_deploy.runtime.threads import available_cpus

logger = logging.getLogger(__name__)

_ADDRESS = "RAY_ADDRESS"


class ClusterError(OvmlError):
    """A cluster that cannot be reached, has no room, or whose workers fail or differ."""


@dataclass(frozen=True)
class Cluster:
    """Where to work, and how widely.

    ``workers``: processes with an engine each; ``cpus`` and ``gpus``: what Ray reserves for each.
    ``address``: of a Ray cluster, as ``ray.init`` takes it; None: the one that the environment names
    in RAY_ADDRESS, else a Ray of this machine alone, which ends with the work.
    """

    workers: int = 2
    address: str | None = None
    cpus: float = 1.0
    gpus: float = 0.0

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise UsageError(f"workers is {self.workers}; it must be at least 1.")
        for what, value in (("cpus", self.cpus), ("gpus", self.gpus)):
            if not 0 <= value < 1e6:
                raise UsageError(f"{what} is {value}; it must be 0 or more.")

    @property
    def reserved(self) -> dict[str, Any]:
        """What Ray reserves for a worker, as its options."""
        return {"num_cpus": self.cpus, "num_gpus": self.gpus}


def import_ray() -> Any:
    """Return Ray. Raises MissingDependencyError."""
    try:
        import ray
        import ray.data
    except ImportError as error:  # ray.data says only ImportError where pandas lacks
        raise MissingDependencyError(
            f"Working on a cluster needs {getattr(error, 'name', None) or 'ray[data]'!r}. Install it: "
            "pip install 'ovml-deploy[ray]'"
        ) from error
    return ray


@contextmanager
def connected(cluster: Cluster) -> Iterator[Any]:
    """Yield Ray, connected; a connection that was there already stays. Raises ClusterError."""
    ray = import_ray()
    if ray.is_initialized():
        _check_room(ray, cluster, grows=True)
        yield ray
        return
    address = cluster.address or os.environ.get(_ADDRESS)
    silence_ray()
    options: dict[str, Any] = {"address": address}
    if address is None:
        cpus = max(available_cpus(), 1)
        options = {"address": "local", "num_cpus": cpus, "include_dashboard": False}
    try:
        ray.init(log_to_driver=False, logging_level=logging.ERROR, **options)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        where = "on this machine" if address is None else f"at {address!r}"
        raise ClusterError(
            f"No Ray {where} ({error}). Start one with 'ray start --head', or name its --ray-address."
        ) from error
    try:
        _check_room(ray, cluster, grows=address is not None)
        yield ray
    finally:
        ray.shutdown()


def _check_room(ray: Any, cluster: Cluster, grows: bool) -> None:
    """Where workers never all find a place, nothing would ever begin."""
    there = ray.cluster_resources()
    for kind, each in (("CPU", cluster.cpus), ("GPU", cluster.gpus)):
        wanted, found = each * cluster.workers, there.get(kind, 0.0)
        if wanted <= found:
            continue
        message = (
            f"{cluster.workers} workers with {each:g} {kind} each want {wanted:g}; the cluster has "
            f"{found:g}."
        )
        if not grows:
            raise UsageError(f"{message} Ask for fewer workers, or for less {kind} each.")
        logger.warning("%s Waiting for it to grow.", message)

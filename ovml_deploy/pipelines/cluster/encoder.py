"""The workers of a cluster as an archive's encoder."""

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np

from ovml_deploy.errors import ImageError
from ovml_deploy.pipelines.archives.encoders import Find, Loaded, Took
from ovml_deploy.pipelines.archives.layout import Manifest
from ovml_deploy.pipelines.archives.quantized import Loss
from ovml_deploy.pipelines.archives.sources import Item
from ovml_deploy.pipelines.cluster.workers import Workers
from ovml_deploy.runtime.bundle import Bundle

#: Pieces of work of a kind that a worker has at most: one that it does, one to go on with.
_EACH = 2

#: A reference to the pixels of some images, and an image's place among them.
Reference = tuple[Any, int]


class ClusterEncoder:
    """Decodes and encodes on workers.

    Pixels stay in Ray's object store, and go straight from the worker that decoded them to the one
    that encodes them; to here come digests and features. At most ``2 * _EACH * workers + 1``
    batches of pixels are there at once.
    """

    def __init__(self, workers: Workers, bundle: Bundle, batch_size: int) -> None:
        self.bundle = bundle
        self.description = workers.device
        self.ahead = _EACH * len(workers)
        self._workers = workers
        self._batch_size = batch_size

    def load(
        self, items: Iterator[Item], find: Find, took: Took
    ) -> Generator[tuple[str, Loaded | ImageError], None, None]:
        """Yield what workers make of a few items at a time, in order; nothing is taken here."""
        pending: deque[tuple[list[str], Callable[[], Any], Any]] = deque()
        while True:
            while len(pending) < self.ahead:
                some = [*islice(items, self._batch_size)]
                if not some:
                    break
                pending.append(([item.name for item in some], *self._workers.load(some)))
            if not pending:
                return
            names, result, pixels = pending.popleft()
            place = 0
            for name, found in zip(names, result(), strict=True):
                if isinstance(found, ImageError):
                    yield name, found
                    continue
                yield name, Loaded(found, (pixels, place))
                place += 1

    def encode(self, pixels: Sequence[Reference]) -> Callable[[], np.ndarray]:
        """Let a worker encode images that lie in several arrays."""
        arrays: dict[Any, int] = {}
        places = [(arrays.setdefault(array, len(arrays)), place) for array, place in pixels]
        return self._workers.encode(places, [*arrays])

    def measure(self, exact: np.ndarray, manifest: Manifest) -> Loss:
        """Let a worker match exact and stored features."""
        return self._workers.measure(exact, manifest)

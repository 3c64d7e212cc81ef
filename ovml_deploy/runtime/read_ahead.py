"""Decodes images on threads, a little before they are needed, in order."""

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

import numpy as np

from ovml_deploy.errors import ImageError
from ovml_deploy.runtime.images import ImageSource, describe
from ovml_deploy.runtime.threads import available_cpus

_Item = TypeVar("_Item")


def read_ahead(
    images: Iterable[ImageSource],
    decode: Callable[[ImageSource], np.ndarray],
    ahead: int,
    took: Callable[[float], None] | None = None,
) -> Generator[tuple[str, np.ndarray | ImageError], None, None]:
    """Yield each image's name and what ``decode`` gives for it, or its ImageError, in order.

    At most ``ahead`` images are taken before the reader. ``took`` is told, on its thread, how many
    seconds of a processor each took. Closing the generator ends the threads.
    """

    def attempt(image: ImageSource) -> np.ndarray | ImageError:
        start = time.thread_time()
        try:
            return decode(image)
        except ImageError as error:
            return error
        finally:
            if took is not None:
                took(time.thread_time() - start)

    pending: deque[tuple[str, Future[np.ndarray | ImageError]]] = deque()
    source = iter(images)
    with ThreadPoolExecutor(available_cpus(), thread_name_prefix="ovml-decode") as pool:
        try:
            while True:
                for image in islice(source, ahead - len(pending)):
                    pending.append((describe(image), pool.submit(attempt, image)))
                if not pending:
                    return
                name, future = pending.popleft()
                yield name, future.result()
        finally:
            for _, future in pending:
                future.cancel()


def batches(items: Iterable[_Item], size: int) -> Iterator[list[_Item]]:
    """Yield lists of ``size`` items; the last may be shorter."""
    source = iter(items)
    while batch := list(islice(source, size)):
        yield batch

"""Decodes images on threads, a little before they are needed, in order."""

import time
from collections.abc import Callable, Generator, Iterable
from typing import TypeVar

from ovml_deploy.errors import ImageError
from ovml_deploy.runtime.iteration import called_ahead
from ovml_deploy.runtime.threads import available_cpus

_Image = TypeVar("_Image")
_Decoded = TypeVar("_Decoded")


def read_ahead(
    images: Iterable[_Image],
    name: Callable[[_Image], str],
    decode: Callable[[_Image], _Decoded],
    ahead: int,
    took: Callable[[float], None] | None = None,
) -> Generator[tuple[str, _Decoded | ImageError], None, None]:
    """Yield each image's name and what ``decode`` gives for it, or its ImageError, in order.

    At most ``ahead`` images are taken before the reader. ``took`` is told, on its thread, how many
    seconds of a processor each took. Closing the generator ends the threads.
    """

    def attempt(image: _Image) -> tuple[str, _Decoded | ImageError]:
        start = time.thread_time()
        try:
            return name(image), decode(image)
        except ImageError as error:
            return name(image), error
        finally:
            if took is not None:
                took(time.thread_time() - start)

    with called_ahead(attempt, images, ahead, available_cpus(), "ovml-decode") as calls:
        for call in calls:
            yield call.result()

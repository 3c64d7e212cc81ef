"""Threads that decode images, and hand them to the engine's thread past the event loop."""

import asyncio
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import TypeVar

import numpy as np
from PIL import Image

from ovml_deploy.runtime.vocabulary import Vocabulary
from ovml_deploy.serving.batcher import Batcher, Matched

#: What the engine's own thread may decode: never one that takes long, for others would wait for it.
_SMALL = 256 << 10
_JPEG = b"\xff\xd8\xff"

_Given = TypeVar("_Given")
_Found = TypeVar("_Found")


@dataclass
class Decoding:
    """An image on its way to the engine; ``seconds``: what decoding it took."""

    image: bytes | None
    future: "Future[Matched]"
    seconds: float = 0.0

    async def matched(self) -> Matched:
        """Wait for the engine; whoever waits no more frees its place. Raises ImageError."""
        try:
            return await asyncio.wrap_future(self.future)
        finally:
            self.image = None  # a pool keeps what it was told to do until its turn


class Decoders:
    """Decodes with ``decode`` (bytes to uint8 ``[H, W, 3]``) on so many threads."""

    def __init__(
        self, threads: int, decode: Callable[[bytes], np.ndarray], batcher: Batcher
    ) -> None:
        self._decode = decode
        self._batcher = batcher
        self._pool = ThreadPoolExecutor(threads, "ovml-decode")
        self._pool.submit(Image.init)  # loads the formats, or the first image would wait for it

    def submit(self, image: bytes, vocabulary: Vocabulary | None) -> Decoding:
        """Decode an image and queue it; an error of either is its future's."""
        if self._batcher.idle and len(image) <= _SMALL and image.startswith(_JPEG):
            decoding = Decoding(image, Future())
            work = partial(self._pixels, decoding)  # which spares a change of threads
            self._batcher.submit(work, vocabulary, decoding.future)
            return decoding
        decoding = Decoding(image, self._batcher.expect())
        done = self._pool.submit(self._work, decoding, vocabulary)
        done.add_done_callback(lambda done: done.cancelled() and decoding.future.cancel())
        return decoding

    async def decode(self, image: bytes) -> np.ndarray:
        """Decode an image, and no more than that."""
        return await on_thread(self._pool, self._decode, image)

    def close(self) -> None:
        """End the threads; what they did not begin is cancelled."""
        self._pool.shutdown(cancel_futures=True)

    def _work(self, decoding: Decoding, vocabulary: Vocabulary | None) -> None:
        try:
            pixels = self._pixels(decoding)
            self._batcher.submit(pixels, vocabulary, decoding.future)
        except BaseException as error:
            self._batcher.forget(decoding.future, error)

    def _pixels(self, decoding: Decoding) -> np.ndarray:
        if (image := decoding.image) is None:
            raise CancelledError
        start = perf_counter()
        pixels = self._decode(image)
        decoding.seconds = perf_counter() - start
        return pixels


async def on_thread(
    pool: ThreadPoolExecutor, work: Callable[[_Given], _Found], given: _Given
) -> _Found:
    """Do some work on a thread. What was given is let go at once where nobody waits any more.

    A pool keeps what it was told to do until its turn, even if that is cancelled.
    """
    held = [given]
    try:
        return await asyncio.get_running_loop().run_in_executor(pool, lambda: work(held[0]))
    finally:
        held.clear()

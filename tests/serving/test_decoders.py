"""Images on their way from bytes to the engine."""

import asyncio
import gc
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from in_process import Held, until
from stores import SOON

from ovml_deploy.errors import ImageError
from ovml_deploy.serving.batcher import Batcher, Matched
from ovml_deploy.serving.decoders import Decoders, on_thread

JPEG = b"\xff\xd8\xff"


class Slow:
    """Decodes when it is let go; what is no shade of grey cannot be read."""

    def __init__(self, size: tuple[int, int]) -> None:
        self.open = threading.Event()
        self.seen: list[bytes] = []
        self.threads: list[str] = []
        self._size = size

    def __call__(self, image: bytes) -> np.ndarray:
        self.seen.append(image)
        self.threads.append(threading.current_thread().name)
        assert self.open.wait(SOON)
        shade = image.removeprefix(JPEG)[:1]
        if not shade.isdigit():
            raise ImageError(f"{image!r} is no image.")
        return np.full((*self._size, 3), int(shade), dtype=np.uint8)


@pytest.fixture
def slow(held: Held) -> Slow:
    return Slow(held.bundle.preprocessing.size)


@pytest.fixture
def batcher(held: Held) -> Iterator[Batcher]:
    made = Batcher(held, max_delay=0.0)
    yield made
    held.open.set()
    made.close()


@pytest.fixture
def decoders(slow: Slow, batcher: Batcher) -> Iterator[Decoders]:
    made = Decoders(1, slow, batcher)
    yield made
    slow.open.set()
    made.close()


def test_bytes_become_features_or_an_error(held: Held, slow: Slow, decoders: Decoders) -> None:
    slow.open.set()
    held.open.set()

    async def work() -> None:
        sent = [decoders.submit(image, None) for image in (b"3", b"what", b"4")]
        found = await asyncio.gather(*(one.matched() for one in sent), return_exceptions=True)
        assert isinstance(found[1], ImageError)
        for result, decoding, shade in ((found[0], sent[0], 3), (found[2], sent[2], 4)):
            assert not isinstance(result, BaseException)
            pixels = np.full((1, *held.bundle.preprocessing.size, 3), shade, dtype=np.uint8)
            np.testing.assert_allclose(
                result.features, np.asarray(held.encode(pixels))[0], atol=1e-5
            )
            assert decoding.seconds > 0
            assert decoding.image is None

    asyncio.run(work())


def test_who_hangs_up_is_neither_decoded_nor_computed(
    held: Held, slow: Slow, decoders: Decoders
) -> None:
    async def work() -> None:
        begun = decoders.submit(b"1", None)
        waiting = decoders.submit(b"2", None)
        tasks = [asyncio.ensure_future(one.matched()) for one in (begun, waiting)]
        await asyncio.to_thread(until, lambda: slow.seen)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        assert waiting.image is None
        slow.open.set()
        held.open.set()
        await decoders.submit(b"3", None).matched()
        assert slow.seen == [b"1", b"3"]
        assert held.batches == [1]

    asyncio.run(work())


def test_a_small_jpeg_that_comes_alone_is_decoded_by_the_engines_thread(
    held: Held, slow: Slow, batcher: Batcher, decoders: Decoders
) -> None:
    """Not a second one, nor anything else, so that nobody waits for another's decoding."""

    async def alone(image: bytes) -> Matched:
        await asyncio.to_thread(until, lambda: batcher.idle)
        return await decoders.submit(image, None).matched()

    async def work() -> None:
        first = asyncio.ensure_future(decoders.submit(JPEG + b"1", None).matched())
        await asyncio.to_thread(until, lambda: slow.threads)
        second = asyncio.ensure_future(decoders.submit(JPEG + b"2", None).matched())
        await asyncio.to_thread(until, lambda: len(slow.threads) == 2)
        slow.open.set()
        held.open.set()
        await asyncio.gather(first, second)
        assert not held.batches[2:]
        for image in (b"3", JPEG + b"4" * (256 << 10)):  # no JPEG, and no small one
            await alone(image)
        with pytest.raises(ImageError):
            await alone(JPEG + b"x")
        assert (await alone(JPEG + b"5")).batch == 1
        engine, pool = "ovml-engine", "ovml-decode_0"
        assert slow.threads == [engine, pool, pool, pool, engine, engine]

    asyncio.run(work())


def test_what_was_not_begun_is_cancelled_at_the_end(slow: Slow, decoders: Decoders) -> None:
    first = decoders.submit(b"1", None)
    second = decoders.submit(b"2", None)
    until(lambda: slow.seen)
    closing = threading.Thread(target=decoders.close)
    closing.start()
    until(second.future.cancelled)
    assert not first.future.cancelled()
    slow.open.set()
    closing.join(SOON)
    assert not closing.is_alive()


def test_what_was_given_is_let_go_where_nobody_waits_for_it() -> None:
    async def work() -> bool:
        hold, begun = threading.Event(), threading.Event()

        def occupied() -> None:
            begun.set()
            hold.wait()

        pool = ThreadPoolExecutor(1)
        pool.submit(occupied)
        begun.wait()
        image = np.zeros(9)
        gone = weakref.ref(image)
        task = asyncio.ensure_future(on_thread(pool, len, image))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        del image, task
        gc.collect()
        is_gone = gone() is None
        hold.set()
        pool.shutdown()
        return is_gone

    assert asyncio.run(work())

"""Words that requests bring along."""

import asyncio
import threading
from itertools import chain
from typing import Any

import pytest

from ovml_deploy.errors import LabelError, OverloadedError
from ovml_deploy.runtime.engine import Engine
from ovml_deploy.serving.errors import StoppingError
from ovml_deploy.serving.inline import InlineVocabularies


class Slow:
    """An engine whose text encoder waits before each step until it is let on, and remembers steps."""

    def __init__(self, engine: Engine) -> None:
        self.open = threading.Event()
        self.reached = threading.Event()
        self.steps: list[list[str]] = []
        self.bundle = engine.bundle
        self.prepare = engine.prepare
        self.text_encoder = self
        self.check = engine.text_encoder.check
        self._engine = engine

    def embed(self, labels: list[str]):
        self.steps.append(labels)
        self.reached.set()
        self.open.wait()
        return self._engine.text_encoder.embed(labels)


def words(name: str, count: int) -> list[str]:
    return [f"{name} {index}" for index in range(count)]


async def reached(engine: Slow) -> None:
    while not engine.reached.is_set():
        await asyncio.sleep(0.001)


def test_the_same_words_are_embedded_once(engine: Engine) -> None:
    async def work() -> None:
        slow: Any = Slow(engine)
        slow.open.set()
        inline = InlineVocabularies(slow, 100, 20)
        several = await asyncio.gather(*(inline.get(words("same", 40)) for _ in range(5)))
        assert len({id(vocabulary) for vocabulary in several}) == 1
        more = await inline.get([*words("same", 40), "another"])
        assert [*chain(*slow.steps)] == [*words("same", 40), "another"]
        assert more.labels[-1] == "another"
        inline.close()

    asyncio.run(work())


def test_words_that_nobody_waits_for_any_more_hold_up_nobody(engine: Engine) -> None:
    async def work() -> None:
        slow: Any = Slow(engine)
        inline = InlineVocabularies(slow, 1000, 20)
        gone = [asyncio.ensure_future(inline.get(words(f"gone {n}", 500))) for n in range(3)]
        await reached(slow)
        waiting = asyncio.ensure_future(inline.get(["cat"]))
        for task in gone:
            task.cancel()
        await asyncio.gather(*gone, return_exceptions=True)
        slow.open.set()
        assert (await waiting).labels == ("cat",)
        assert [len(step) for step in slow.steps] == [32, 1]  # the first was on its way
        inline.close()

    asyncio.run(work())


def test_one_of_two_that_hangs_up_takes_nothing_from_the_other(engine: Engine) -> None:
    async def work() -> None:
        slow: Any = Slow(engine)
        inline = InlineVocabularies(slow, 100, 20)
        first, second = (asyncio.ensure_future(inline.get(words("two", 50))) for _ in range(2))
        await reached(slow)
        first.cancel()
        slow.open.set()
        assert len(await second) == 50
        inline.close()

    asyncio.run(work())


def test_too_many_at_once_and_too_many_words(engine: Engine) -> None:
    async def work() -> None:
        slow: Any = Slow(engine)
        inline = InlineVocabularies(slow, 3, 20)
        with pytest.raises(LabelError, match="4 labels are too many for a request"):
            await inline.get(words("many", 4))
        with pytest.raises(LabelError, match="has 21 characters"):
            await inline.get(["x" * 21])
        waiting = [asyncio.ensure_future(inline.get([f"word {n}"])) for n in range(32)]
        await asyncio.sleep(0)
        with pytest.raises(OverloadedError, match="32 requests wait"):
            await inline.get(["one more"])
        slow.open.set()
        assert len(await asyncio.gather(*waiting)) == 32
        inline.close()

    asyncio.run(work())


def test_the_end_does_not_wait_for_many_words(engine: Engine) -> None:
    async def work() -> None:
        slow: Any = Slow(engine)
        inline = InlineVocabularies(slow, 1000, 20)
        waiting = asyncio.ensure_future(inline.get(words("end", 1000)))
        await reached(slow)
        closing = asyncio.ensure_future(asyncio.to_thread(inline.close))
        while not inline._closing:
            await asyncio.sleep(0.001)
        slow.open.set()
        await closing
        with pytest.raises(StoppingError):
            await waiting
        assert len(slow.steps) == 1

    asyncio.run(work())

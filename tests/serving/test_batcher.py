"""Batches of many callers on a real engine."""

import threading
import time
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, wait

import numpy as np
import pytest
from in_process import Held
from stores import SOON

from ovml_deploy.errors import DeviceError, OverloadedError
from ovml_deploy.runtime.engine import Engine
from ovml_deploy.runtime.selfcheck import relative_error
from ovml_deploy.runtime.vocabulary import Vocabulary
from ovml_deploy.serving.batcher import Batcher, Matched


@pytest.fixture(scope="module")
def images(engine: Engine) -> np.ndarray:
    size = (16, *engine.bundle.preprocessing.size, 3)
    return np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)


def words(engine: Engine, seed: int, count: int = 9) -> Vocabulary:
    bundle = engine.bundle
    embeddings = np.random.default_rng(seed).normal(0, 0.3, (count, bundle.label_dim))
    labels = tuple(f"label {index}" for index in range(count))
    return Vocabulary("random", labels, embeddings, bundle.text_hash, bundle.prompt_hash)


def submit_all(batcher: Batcher, images: np.ndarray) -> "list[Future[Matched]]":
    return [batcher.submit(image, None) for image in images]


def test_every_caller_gets_its_own_answer(engine: Engine, images) -> None:
    """Whatever is in its batch: other images, other vocabularies, or none."""
    known = [words(engine, 1), words(engine, 2, 30), None]
    batcher = Batcher(engine, max_batch=8)

    def one(call: int) -> float:
        image, vocabulary = images[call % 16], known[call % 3]
        found = batcher.submit(image, vocabulary).result()
        alone = engine.encode(image[None])
        errors = [relative_error(found.features[None], np.asarray(alone))]
        if vocabulary is None:
            assert found.logits is None
            assert found.winners is None
        else:
            logits, winners = engine.match(alone, vocabulary)
            errors.append(relative_error(found.logits[None], logits))
            np.testing.assert_array_equal(found.winners, winners[0])
        return max(errors)

    with ThreadPoolExecutor(12) as pool:
        assert max(pool.map(one, range(144))) < 1e-5
    batcher.close()


def test_images_that_wait_share_a_batch(held: Held, images) -> None:
    seen: list[tuple[int, float]] = []
    batcher = Batcher(held, max_batch=4, max_delay=0.0, observe=lambda *batch: seen.append(batch))
    futures = [batcher.submit(images[0], None)]
    while not held.batches:
        time.sleep(0.001)
    futures += submit_all(batcher, images[:9])
    assert batcher.waiting == 9
    held.open.set()
    found = [future.result() for future in futures]
    assert held.batches == [1, 4, 4, 1]
    assert [size for size, _ in seen] == held.batches
    assert [one.batch for one in found] == [1, *[4] * 8, 1]
    assert all(one.took > 0 for one in found)
    batcher.close()


def after_a_full_batch(held: Held, images, max_delay: float) -> Batcher:
    """A batcher of eight at once, all of whose callers come again as a rule."""
    batcher = Batcher(held, max_batch=8, max_delay=max_delay)
    futures = [batcher.submit(images[0], None)]
    while not held.batches:
        time.sleep(0.001)
    futures += submit_all(batcher, images[:8])
    held.open.set()
    assert [future.result(SOON).batch for future in futures] == [1, *[8] * 8]
    return batcher


def test_a_batch_waits_for_company_but_not_for_long(held: Held, images) -> None:
    batcher = after_a_full_batch(held, images, 0.3)
    together = [future.result(SOON) for future in submit_all(batcher, images[:2])]
    assert [found.batch for found in together] == [2, 2]
    assert all(found.waited >= 0.2 for found in together)
    batcher.close()


def test_half_of_those_who_are_about_are_company_enough(held: Held, images) -> None:
    """The others are decoded while these are computed."""
    batcher = after_a_full_batch(held, images, 10 * SOON)
    coming = [batcher.expect() for _ in range(4)]
    halves = [submit_all(batcher, images[:4])]
    assert [future.result(SOON).batch for future in halves[0]] == [4] * 4
    for image, future in zip(images[4:8], coming, strict=True):
        batcher.submit(image, None, future)
    assert [future.result(SOON).batch for future in coming] == [4] * 4
    batcher.close()


def test_a_batch_waits_for_what_is_expected_a_part_of_the_last_one(held: Held, images) -> None:
    batcher = Batcher(held, max_batch=8, max_delay=0.0)
    slow = batcher.submit(images[0], None)
    time.sleep(1.0)
    held.open.set()
    assert slow.result(SOON).took > 0.5  # so that others are waited for
    coming = [batcher.expect(), batcher.expect()]
    first = batcher.submit(images[0], None)
    time.sleep(0.05)
    assert not first.done()
    batcher.submit(images[1], None, coming[0])
    batcher.forget(coming[1], ValueError("no image"))  # then there is nothing to wait for
    assert [f.result(SOON).batch for f in (first, coming[0])] == [2, 2]
    assert first.result().waited < 0.3
    with pytest.raises(ValueError, match="no image"):
        coming[1].result()
    never = [batcher.expect() for _ in range(3)]
    assert all(future.cancel() for future in never)
    assert batcher.submit(images[2], None).result(SOON).batch == 1  # waited for in vain
    for future in never:
        batcher.forget(future, ValueError("too late"))
        assert future.cancelled()
    batcher.close()


def test_who_comes_alone_does_not_wait(engine: Engine, images) -> None:
    batcher = Batcher(engine, max_batch=8, max_delay=10 * SOON)
    for image in images[:3]:
        assert batcher.submit(image, None).result(SOON).batch == 1
    batcher.close()


def test_a_full_queue_refuses_at_once_and_says_when_to_come_back(held: Held, images) -> None:
    batcher = Batcher(held, max_batch=2, max_delay=0.0, max_queue=4)
    batcher.submit(images[0], None)
    while not held.batches:
        time.sleep(0.001)
    waiting = submit_all(batcher, images[:4])
    with pytest.raises(OverloadedError, match="4 images wait already, and at most 4 may") as full:
        batcher.submit(images[4], None)
    assert 0 < full.value.retry_after <= 60
    assert batcher.waiting == 4
    assert waiting[0].cancel()
    waiting += submit_all(batcher, images[4:5])  # who hung up makes room
    held.open.set()
    wait(waiting)
    with pytest.raises(CancelledError):
        waiting[0].result()
    assert all(future.result().features is not None for future in waiting[1:])
    batcher.close()


def test_one_image_may_go_before_all_others_even_into_a_full_queue(held: Held, images) -> None:
    batcher = Batcher(held, max_batch=1, max_delay=0.0, max_queue=2)
    order: list[str] = []
    batcher.submit(images[0], None)
    while not held.batches:
        time.sleep(0.001)
    waiting = submit_all(batcher, images[1:3])
    waiting.append(batcher.submit_first(images[3]))
    for name, future in zip(("second", "third", "first"), waiting, strict=True):
        future.add_done_callback(lambda _, name=name: order.append(name))
    held.open.set()
    batcher.close()  # when all are done
    assert order == ["first", "second", "third"]


def test_a_failing_batch_fails_alone(held: Held, images) -> None:
    batcher = Batcher(held, max_delay=0.0)
    held.error = DeviceError("out of memory")
    held.open.set()
    with pytest.raises(DeviceError, match="out of memory"):
        batcher.submit(images[0], None).result()
    held.error = None
    assert batcher.submit(images[0], None).result().batch == 1
    assert batcher.alive
    batcher.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_dead_engine_is_seen_and_nobody_waits_for_it(held: Held, images) -> None:
    batcher = Batcher(held, max_batch=1, max_delay=0.0)
    held.error = MemoryError("no more")
    futures = [batcher.submit(image, None) for image in images[:3]]
    held.open.set()
    wait(futures[1:], timeout=30)
    for future in futures[1:]:
        with pytest.raises(DeviceError, match="The engine stopped: no more"):
            future.result()
    assert not batcher.alive
    assert isinstance(batcher.failure, MemoryError)
    with pytest.raises(DeviceError, match="has stopped"):
        batcher.submit(images[0], None)
    with pytest.raises(DeviceError, match="no more"):
        futures[0].result(timeout=30)


@pytest.mark.parametrize("drain", [True, False])
def test_closing_ends_what_waits(held: Held, images, drain: bool) -> None:
    batcher = Batcher(held, max_batch=1, max_delay=0.0)
    futures = [batcher.submit(image, None) for image in images[:3]]
    while not held.batches:
        time.sleep(0.001)
    closing = threading.Thread(target=batcher.close, args=(drain,))
    closing.start()
    time.sleep(0.05)
    held.open.set()
    closing.join(30)
    assert not closing.is_alive()
    assert futures[0].result().batch == 1
    for future in futures[1:]:
        if drain:
            assert future.result().batch == 1
        else:
            with pytest.raises(DeviceError, match="The server stops"):
                future.result()
    with pytest.raises(DeviceError, match="has stopped"):
        batcher.submit(images[0], None)


def test_a_device_that_fails_for_good_ends_the_engine(held: Held, images) -> None:
    """One batch may fail for a passing reason; so many in a row do not."""
    died = threading.Event()
    batcher = Batcher(held, max_batch=1, max_delay=0.0, died=died.set)
    held.open.set()
    held.error = DeviceError("out of memory")
    for _ in range(7):
        assert batcher.submit(images[0], None).exception(SOON) is held.error
    held.error = None
    assert batcher.submit(images[0], None).result(SOON).batch == 1  # it recovered
    held.error = DeviceError("the device is lost")
    for _ in range(8):
        assert not died.is_set()
        assert batcher.submit(images[0], None).exception(SOON) is held.error
    assert died.wait(SOON)
    assert not batcher.alive
    assert batcher.failure is held.error

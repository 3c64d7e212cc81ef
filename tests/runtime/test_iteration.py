"""Batches, and calls made ahead: in order, bounded, lazy, and over when the reader goes away."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from ovml_deploy.runtime import iteration
from ovml_deploy.runtime.iteration import batches, called_ahead


def test_batches() -> None:
    assert [*batches(range(5), 2)] == [[0, 1], [2, 3], [4]]
    assert [*batches([], 2)] == []


class Items:
    """Counts how many items were taken."""

    def __init__(self, count: int) -> None:
        self.count, self.taken = count, 0

    def __iter__(self) -> Iterator[int]:
        for number in range(self.count):
            self.taken += 1
            yield number


def test_calls_come_in_order_whatever_ends_first() -> None:
    second_is_done = threading.Event()

    def call(number: int) -> int:
        if number == 0:
            assert second_is_done.wait(10)
        if number == 1:
            second_is_done.set()
        return 10 * number

    with called_ahead(call, range(20), most=4, threads=2, name="test") as calls:
        assert [future.result() for future in calls] == [10 * number for number in range(20)]


@pytest.mark.parametrize("most", [1, 3])
def test_no_more_than_so_many_items_are_taken_before_the_reader(most: int) -> None:
    items = Items(10)
    with called_ahead(str, items, most=most, threads=2, name="test") as calls:
        for seen, future in enumerate(calls):
            assert future.result() == str(seen)
            assert items.taken == min(10, seen + most)
    assert items.taken == 10


def test_what_has_not_begun_when_the_reader_goes_is_never_called(monkeypatch) -> None:
    begun, go_on = [], threading.Event()

    def call(number: int) -> None:
        begun.append(number)
        assert go_on.wait(10)

    class Pool(ThreadPoolExecutor):
        def shutdown(self, *arguments, **how) -> None:
            go_on.set()  # the first ends, and others would begin
            super().shutdown(*arguments, **how)

    monkeypatch.setattr(iteration, "ThreadPoolExecutor", Pool)
    with called_ahead(call, range(100), most=8, threads=1, name="gone") as calls:
        next(calls)
    assert begun == [0]
    assert not any(thread.name.startswith("gone") for thread in threading.enumerate())


def test_a_call_that_fails_is_one_call() -> None:
    with called_ahead(lambda n: 1 / n, [1, 0, 2], most=3, threads=1, name="test") as calls:
        first, second, third = calls
    assert first.result() == 1
    assert isinstance(second.exception(), ZeroDivisionError)
    assert third.result() == 0.5

"""What long runs go through: items in batches, and calls that are made before they are needed."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from typing import TypeVar

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def batches(items: Iterable[_Item], size: int) -> Iterator[list[_Item]]:
    """Yield lists of ``size`` items; the last may be shorter."""
    source = iter(items)
    while batch := list(islice(source, size)):
        yield batch


@contextmanager
def called_ahead(
    call: Callable[[_Item], _Result], items: Iterable[_Item], most: int, threads: int, name: str
) -> Iterator[Iterator[Future[_Result]]]:
    """Call something for each item on threads: gives the calls, in the items' order.

    At most ``most`` are under way, with the one that the reader has, so that memory stays bounded.
    Items are taken on the reader's thread. Threads have a ``name`` and are gone at the end; calls
    that have not begun then are never made.
    """
    source = iter(items)
    pending: deque[Future[_Result]] = deque()

    def in_order() -> Iterator[Future[_Result]]:
        while True:
            for item in islice(source, most - len(pending)):
                pending.append(pool.submit(call, item))
            if not pending:
                return
            yield pending.popleft()

    with ThreadPoolExecutor(threads, thread_name_prefix=name) as pool:
        try:
            yield in_order()
        finally:
            for future in pending:
                future.cancel()

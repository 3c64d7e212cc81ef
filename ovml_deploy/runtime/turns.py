"""Times several ways of doing the same thing, in turns: a machine that slows down slows them all."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

import numpy as np

_CALLS = 4  # a turn; the first does not count, for threads of the one before may still spin

_Name = TypeVar("_Name")

Turns = dict[_Name, list[list[float]]]


def take_turns(ways: Mapping[_Name, Callable[[], object]], seconds: float) -> Turns[_Name]:
    """Return seconds of the counted calls of each turn, by name; the first turn warms up."""
    found: Turns[_Name] = {name: [] for name in ways}
    end = time.perf_counter() + seconds
    turns = 0
    while time.perf_counter() < end or turns < 3:
        for name, call in ways.items():
            taken = []
            for number in range(_CALLS):
                start = time.perf_counter()
                call()
                if number:
                    taken.append(time.perf_counter() - start)
            if turns:
                found[name].append(taken)
        turns += 1
    return found


def median(turns: list[list[float]]) -> float:
    """Return the median second of all calls."""
    return statistics.median(second for turn in turns for second in turn)


def quantiles(turns: list[list[float]], *shares: float) -> list[float]:
    """Return seconds within which such shares of the calls ended."""
    return [float(q) for q in np.quantile([s for turn in turns for s in turn], shares)]


def ratio(one: list[list[float]], other: list[list[float]]) -> tuple[float, float, float]:
    """Return how many times longer ``one`` takes: the median of the turns, and their quartiles."""
    each = [statistics.median(a) / statistics.median(b) for a, b in zip(one, other, strict=True)]
    low, middle, high = np.quantile(each, (0.25, 0.5, 0.75))
    return float(middle), float(low), float(high)

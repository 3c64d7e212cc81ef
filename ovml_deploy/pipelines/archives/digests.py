"""A set of digests that stays small: what an archive has already, by path and by content."""

import numpy as np

_RECENT = 1 << 16
_KEY = 8


class DigestIndex:
    """Maps digests of ``width`` bytes to numbers, in ``width + 8`` bytes each.

    While sorted runs are merged, which happens ever more rarely, twice that. One thread may add;
    any may look up meanwhile.
    """

    def __init__(self, width: int) -> None:
        self._width = width
        self._recent: dict[bytes, int] = {}
        self._runs: tuple[_Run, ...] = ()

    def __len__(self) -> int:
        return len(self._recent) + sum(len(run.values) for run in self._runs)

    def find(self, digest: bytes) -> int | None:
        """Return a digest's number, or None."""
        number = self._recent.get(digest)
        if number is not None:
            return number
        for run in self._runs:
            if (number := run.find(digest)) is not None:
                return number
        return None

    def add(self, digest: bytes, number: int) -> None:
        """Add a digest that is not in it."""
        self._recent[digest] = number
        if len(self._recent) >= _RECENT:
            raw = np.frombuffer(b"".join(self._recent), np.uint8).reshape(-1, self._width)
            self.add_many(raw, np.fromiter(self._recent.values(), np.int64, len(self._recent)))
            self._recent = {}  # after the run that holds them is there to be read

    def add_many(self, digests: np.ndarray, numbers: np.ndarray) -> None:
        """Add digests ``[n, width]`` (uint8) that are not in it, with numbers ``[n]`` (int64)."""
        run = _Run.of(np.ascontiguousarray(digests), numbers)
        runs = [*self._runs]
        while runs and len(runs[-1].values) < 2 * len(run.values):
            run = runs.pop().merged(run)
        self._runs = (*runs, run)


class _Run:
    """Digests in the order of their first eight bytes."""

    def __init__(self, keys: np.ndarray, rest: np.ndarray, values: np.ndarray) -> None:
        order = np.argsort(keys, kind="stable")
        self.keys, self.rest, self.values = keys[order], rest[order], values[order]

    @classmethod
    def of(cls, digests: np.ndarray, numbers: np.ndarray) -> "_Run":
        keys = digests[:, :_KEY].copy().view(np.uint64)[:, 0]
        return cls(keys, digests[:, _KEY:], numbers)

    def merged(self, other: "_Run") -> "_Run":
        pairs = zip(self._columns(), other._columns(), strict=True)
        return _Run(*(np.concatenate(pair) for pair in pairs))

    def _columns(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return self.keys, self.rest, self.values

    def find(self, digest: bytes) -> int | None:
        key = np.frombuffer(digest[:_KEY], np.uint64)[0]
        place = int(np.searchsorted(self.keys, key))
        while place < len(self.keys) and self.keys[place] == key:
            if self.rest[place].tobytes() == digest[_KEY:]:
                return int(self.values[place])
            place += 1
        return None

import hashlib

import numpy as np

from ovml_deploy.pipelines.archives import digests
from ovml_deploy.pipelines.archives.digests import DigestIndex


def digest(number: int) -> bytes:
    return hashlib.sha256(str(number).encode()).digest()


def test_finds_all_it_was_given_and_nothing_else(monkeypatch) -> None:
    monkeypatch.setattr(digests, "_RECENT", 50)
    index = DigestIndex(32)
    for number in range(1037):
        index.add(digest(number), number)
    assert len(index) == 1037
    assert [index.find(digest(number)) for number in range(1037)] == [*range(1037)]
    assert index.find(digest(2000)) is None


def test_digests_that_begin_alike_are_told_apart() -> None:
    index = DigestIndex(16)
    alike = [b"12345678" + bytes([number]) * 8 for number in range(5)]
    raw = np.frombuffer(b"".join(alike[:4]), np.uint8).reshape(4, 16)
    index.add_many(raw, np.arange(4))
    assert [index.find(one) for one in alike] == [0, 1, 2, 3, None]


def test_takes_as_many_bytes_as_it_says() -> None:
    index = DigestIndex(32)
    raw = np.random.default_rng(0).integers(0, 256, (10_000, 32), dtype=np.uint8)
    index.add_many(raw, np.arange(10_000))
    (run,) = index._runs
    assert sum(array.nbytes for array in (run.keys, run.rest, run.values)) == 10_000 * 40

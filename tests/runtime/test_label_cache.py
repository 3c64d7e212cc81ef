import logging
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ovml_deploy.runtime.backends import create_backend
from ovml_deploy.runtime.bundle import TEXT_ENCODER, Bundle
from ovml_deploy.runtime.label_cache import LabelCache
from ovml_deploy.runtime.text_encoder import TextEncoder

MANY = [f"thing number {i}" for i in range(4585)]


class CountingBackend:
    """ONNX Runtime, counting the prompts that the text graph is given."""

    def __init__(self) -> None:
        self.prompts = 0
        self._backend = create_backend("cpu")

    def load(self, bundle: Bundle, name: str, exact: bool = False):
        graph = self._backend.load(bundle, name)
        assert name == TEXT_ENCODER
        assert exact  # what it gives is kept for every engine

        def counted(inputs):
            self.prompts += len(inputs["token_ids"])
            return graph(inputs)

        return counted


@pytest.fixture
def encode(tiny_bundle: Path, tmp_path: Path):
    """A function: labels -> (embeddings, labels that the graph had to encode), as a new process."""
    bundle = Bundle.open(tiny_bundle)

    def run(labels, folder: Path = tmp_path / "cache"):
        backend = CountingBackend()
        cache = LabelCache(bundle.text_hash, bundle.prompt_hash, folder)
        vocabulary = TextEncoder(bundle, backend, cache).vocabulary(labels)
        return vocabulary.embeddings, backend.prompts / len(bundle.templates)

    return run


def test_ten_labels_added_to_many_cost_ten(encode) -> None:
    first, cost = encode(MANY)
    assert cost == 4585
    added = [f"new {i}" for i in range(10)]
    both, cost = encode([*added[:5], *MANY, *added[5:]])
    assert cost == 10
    np.testing.assert_array_equal(both[5:-5], first)
    assert encode(added[::-1])[1] == 0
    np.testing.assert_array_equal(encode(added[:5])[0], both[:5])


def test_progress_counts_what_is_encoded(tiny_bundle: Path, tmp_path: Path) -> None:
    bundle = Bundle.open(tiny_bundle)
    cache = LabelCache(bundle.text_hash, bundle.prompt_hash, tmp_path)
    encoder = TextEncoder(bundle, create_backend("cpu"), cache)
    encoder.vocabulary(MANY[:40])
    calls: list[tuple[int, int]] = []
    encoder.vocabulary(MANY[:600], progress=lambda *call: calls.append(call))
    assert calls == [(256, 560), (512, 560), (560, 560)]


@pytest.mark.parametrize(
    ("text_hash", "prompt_hash", "found"), [("a", "b", 1), ("x", "b", 0), ("a", "x", 0)]
)
def test_each_encoder_and_pool_has_its_own(tmp_path, text_hash, prompt_hash, found: int) -> None:
    LabelCache("a", "b", tmp_path).put({"cat": np.ones(3, np.float32)})
    assert len(LabelCache(text_hash, prompt_hash, tmp_path).get(["cat"])) == found


def test_values_survive_to_the_bit(tmp_path: Path) -> None:
    values = np.random.default_rng(0).standard_normal((2, 7)).astype(np.float32)
    words = ("it's; DROP TABLE labels", "\u732b")
    cache = LabelCache("a", "b", tmp_path)
    cache.put(dict(zip(words, values, strict=True)))
    found = LabelCache("a", "b", tmp_path).get([*words, "unknown"])
    assert set(found) == set(words)
    for word, value in zip(words, values, strict=True):
        np.testing.assert_array_equal(found[word], value)


def spoil_file(path: Path) -> None:
    path.write_bytes(b"this is no database" * 300)


def spoil_table(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("DROP TABLE labels")
        connection.execute("CREATE TABLE labels (other TEXT)")


def spoil_size(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE labels SET embedding = ?", (b"\0" * 6,))


def shorten(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE labels SET embedding = ?", (b"\0" * 8,))


def fill_with_nan(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        nan = np.full(32, np.nan, np.float32).tobytes()
        connection.execute("UPDATE labels SET embedding = ?", (nan,))


@pytest.mark.parametrize(
    ("spoil", "warned"),
    [
        (spoil_file, True),
        (spoil_table, True),
        (spoil_size, True),
        (shorten, False),
        (fill_with_nan, False),
    ],
)
def test_a_damaged_cache_costs_time_only(encode, tmp_path, caplog, spoil, warned: bool) -> None:
    expected, _ = encode(["cat", "dog"])
    spoil(next((tmp_path / "cache" / "labels").glob("*.sqlite")))
    with caplog.at_level(logging.WARNING):
        found, cost = encode(["cat", "dog"])
    assert cost == 2
    np.testing.assert_array_equal(found, expected)
    assert ("Delete it if it is damaged" in caplog.text) == warned


def test_a_folder_that_cannot_be_written_costs_time_only(encode, caplog) -> None:
    """/proc is read-only to everyone, root included."""
    with caplog.at_level(logging.WARNING):
        _, cost = encode(["cat"], Path("/proc/ovml-deploy"))
    assert cost == 1
    assert "cannot be written" in caplog.text


def test_a_cache_that_may_only_be_read_is_read(encode, tmp_path: Path) -> None:
    encode(["cat", "dog"])
    path = next((tmp_path / "cache" / "labels").glob("*.sqlite"))
    path.chmod(0o400)
    path.parent.chmod(0o500)
    try:
        assert encode(["dog"])[1] == 0
    finally:
        path.parent.chmod(0o700)


def test_a_read_only_cache_of_an_earlier_release_is_read(
    encode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has no table of marks. (Root may write to any file, so the connection is read-only.)"""
    expected, _ = encode(["cat", "dog"])
    path = next((tmp_path / "cache" / "labels").glob("*.sqlite"))
    with sqlite3.connect(path) as connection:
        connection.execute("DROP TABLE marks")
    connect = sqlite3.connect
    monkeypatch.setattr(
        sqlite3, "connect", lambda file, **more: connect(f"file:{file}?mode=ro", uri=True, **more)
    )
    embeddings, cost = encode(["cat", "dog"])
    assert cost == 0
    np.testing.assert_array_equal(embeddings, expected)


WRITE = """
import sys
from pathlib import Path
import numpy as np
from ovml_deploy.runtime.label_cache import LabelCache
cache = LabelCache("a", "b", Path(sys.argv[1]))
for i in range(30):
    cache.put({f"{sys.argv[2]} {i}": np.full(4, i, np.float32), f"all {i}": np.full(4, i)})
    assert f"all {i}" in cache.get([f"all {i}"])
"""


def test_several_processes_share_a_cache(tmp_path: Path) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WRITE, str(tmp_path), str(number)],
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(4)
    ]
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert (process.returncode, errors) == (0, "")
    words = [f"{number} {i}" for number in (0, 1, 2, 3, "all") for i in range(30)]
    found = LabelCache("a", "b", tmp_path).get(words)
    assert len(found) == 150
    assert all(value[0] == int(word.split()[1]) for word, value in found.items())

"""Servers that are killed while vocabularies change, and what the benchmark of it sees."""

import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
KILLS = 3


@pytest.fixture
def kill_server(monkeypatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import kill_server

    return kill_server


@pytest.mark.skipif(sys.platform == "win32", reason="kill -9")
def test_vocabularies_survive_kills(
    kill_server: ModuleType, tiny_bundle: Path, tmp_path: Path
) -> None:
    options = ("--engine", str(tiny_bundle), "--device", "cpu", "--state", str(tmp_path / "state"))
    report = kill_server.torment(lambda: kill_server.Server(*options), KILLS, seed=2)
    assert report.faults == []
    assert report.kills == KILLS
    assert sum(report.did.values()) > 10
    assert any(key.startswith("put, 20") for key in report.did)


class _Answers:
    """A client of a server that says what the test wants."""

    def __init__(self, entries: dict[str, tuple[str, ...]], active: str) -> None:
        self._entries = entries
        self._active = active

    def ask(self, method: str, path: str) -> tuple[int, dict]:
        name = path.rpartition("/")[2]
        if name == "model":
            return 200, {"vocabulary": self._active}
        if name not in self._entries:
            return 404, {}
        texts = self._entries[name]
        return 200, {"state": "ready", "labels": 2, "id": "1", "texts": texts}


@pytest.mark.parametrize(
    ("entries", "active", "faults"),
    [
        ({"a": ("x", "y")}, "words", 0),
        ({"a": ("x", "y"), "b": ("u", "v")}, "b", 0),
        ({}, "words", 1),
        ({"a": ("x", "z")}, "words", 1),
        ({"a": ("x",)}, "words", 2),
        ({"a": ("x", "y")}, "a", 1),
        ({"a": ("x", "y"), "c": ("x", "y")}, "words", 1),
    ],
)
def test_it_sees_what_should_not_be(kill_server: ModuleType, entries, active, faults) -> None:
    may_be = {"a": {("x", "y")}, "b": {None, ("u", "v")}, "c": {None}}
    known = kill_server.Known(may_be, {"words", "b"}, {})
    found: list[str] = []
    kill_server._verify(_Answers(entries, active), known, found)
    assert len(found) == faults, found
    assert known.active == {active}


def test_what_may_be_after_each_answer(kill_server: ModuleType) -> None:
    states = {None}
    with kill_server._change(states, ("x",)) as settle:
        assert states == {None, ("x",)}  # the server may be gone now
        settle(True)
    assert states == {("x",)}
    with kill_server._change(states, ("x",)) as settle:
        settle(False)
    assert states == {("x",)}

"""Vocabularies that are put, activated and deleted while they are used, and kept through kills."""

import json
import logging
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundles import edit_manifest

from ovml_deploy.errors import LabelError, VocabularyError
from ovml_deploy.runtime.engine import Engine
from ovml_deploy.runtime.vocabulary import Vocabulary
from ovml_deploy.serving.vocabularies import Entry, Limits, VocabularyStore

ROOT = Path(__file__).resolve().parents[2]
SOON = 60.0  # seconds after which something hangs
_fresh = count()


class Gate:
    """An engine whose text encoder stops after each 256 new labels until it is let on."""

    def __init__(self, engine: Engine) -> None:
        self.open = threading.Event()
        self.reached = threading.Event()
        self.bundle = engine.bundle
        self.prepare = engine.prepare
        self.text_encoder = self
        self._engine = engine

    def vocabulary(self, labels, name: str, progress: Callable[[int, int], None]) -> Vocabulary:
        def gated(done: int, total: int) -> None:
            progress(done, total)
            self.reached.set()
            assert self.open.wait(SOON)
            progress(done, total)

        return self._engine.text_encoder.vocabulary(labels, name, gated)


@pytest.fixture(scope="module")
def engine(tiny_bundle: Path) -> Engine:
    return Engine.open(tiny_bundle, "cpu")


@pytest.fixture
def gate(engine: Engine) -> Iterator[Any]:
    gate = Gate(engine)
    yield gate
    gate.open.set()


@contextmanager
def opened(engine: Any, folder: Path | None = None, **limits: int) -> Iterator[VocabularyStore]:
    store = VocabularyStore(engine, folder, Limits(**limits))
    try:
        yield store
    finally:
        store.close()


def fresh(number: int = 300) -> list[str]:
    """Labels that no cache knows."""
    batch = next(_fresh)
    return [f"thing {batch} {index}" for index in range(number)]


def put(store: VocabularyStore, name: str, labels) -> Entry:
    store.put(name, labels)
    entry = store.wait(name, SOON)
    assert entry.state == "ready", entry
    return entry


def test_a_put_gives_the_vocabulary_of_its_labels(engine: Engine) -> None:
    with opened(engine) as store:
        assert store.put("mine", ["boat", " cat "]).state in ("embedding", "ready")
        entry = store.wait("mine", SOON)
        expected = engine.text_encoder.vocabulary(["boat", "cat"])
        assert entry == Entry(
            "mine", 1, 1, "ready", 2, 2, 2, expected.id, None, active=False, in_bundle=False
        )
        assert store.get("mine").name == "mine"
        assert store.labels("mine") == ("boat", "cat")
        assert "mine" in store
        assert [entry.name for entry in store.entries()] == ["few", "mine", "others"]


def test_the_bundles_vocabularies_are_there_to_read(engine: Engine) -> None:
    with opened(engine) as store:
        vocabulary, entry = store.active()
        assert entry.name == vocabulary.name == engine.bundle.default_vocabulary == "few"
        assert (entry.version, entry.state, entry.in_bundle, entry.active) == (
            0,
            "ready",
            True,
            True,
        )
        with pytest.raises(
            VocabularyError, match="'few' is part of the bundle and cannot be changed"
        ):
            store.put("few", ["cat"])
        with pytest.raises(
            VocabularyError, match="'few' is part of the bundle and cannot be deleted"
        ):
            store.delete("few")
        assert store.activate("others").active
        assert store.active()[0].labels == store.labels("others")


def test_a_bundle_may_lack_its_default(bundle_copy: Path) -> None:
    (bundle_copy / "vocabularies" / "few.safetensors").unlink()
    with opened(Engine.open(bundle_copy, "cpu")) as store:
        with pytest.raises(VocabularyError, match="'few' was, but it is not there any more"):
            store.active()
        assert store.activate("others").active


def test_the_old_one_is_served_until_the_new_one_is_whole(gate: Any, tmp_path: Path) -> None:
    with opened(gate, tmp_path) as store:
        old = put(store, "mine", ["boat", "cat"])
        store.activate("mine")
        labels = ["boat", *fresh(299)]
        accepted = store.put("mine", labels)
        assert (accepted.state, accepted.version, accepted.newest) == ("embedding", 1, 2)
        assert gate.reached.wait(SOON)
        entry = store.entry("mine")
        assert (entry.state, entry.done, entry.total) == ("embedding", 257, 300)
        assert (entry.version, entry.id, entry.labels) == (1, old.id, 2)
        assert store.active() == (store.get("mine"), entry)
        assert store.labels("mine") == ("boat", "cat")
        assert store.wait("mine", 0.01).state == "embedding"
        gate.open.set()
        entry = store.wait("mine", SOON)
        assert (entry.state, entry.version, entry.done, entry.active) == ("ready", 2, 300, True)
        assert store.active()[0].labels == tuple(labels)
    assert sorted(path.name for path in (tmp_path / "mine").iterdir()) == [
        "2.safetensors",
        "labels.json",
    ]


def test_of_several_puts_the_last_wins(gate: Any, tmp_path: Path) -> None:
    puts = [fresh() for _ in range(4)]
    with opened(gate, tmp_path) as store:
        seen = [store.put("mine", labels).newest for labels in puts]
        assert seen == [1, 2, 3, 4]
        other = fresh(3)
        store.put("other", other)
        gate.open.set()
        assert store.wait("mine", SOON).version == 4
        assert store.labels("mine") == tuple(puts[-1])
        assert store.wait("other", SOON).state == "ready"
    with opened(gate, tmp_path) as store:
        assert store.get("mine").labels == tuple(puts[-1])
        assert store.get("other").labels == tuple(other)


def test_all_is_there_after_a_restart(engine: Engine, tmp_path: Path) -> None:
    with opened(engine, tmp_path) as store:
        put(store, "mine", ["boat", "cat"])
        put(store, "mine", ["boat", "dog"])
        put(store, "gone", ["tree"])
        store.activate("mine")
        store.delete("gone")
        before = store.entries()
    with opened(engine, tmp_path) as store:
        assert store.entries() == before
        vocabulary, entry = store.active()
        assert vocabulary.labels == ("boat", "dog")
        assert (entry.version, entry.id, entry.name) == (2, vocabulary.id, "mine")
        assert put(store, "mine", ["tree"]).version == 3


def test_a_deleted_one_is_gone_and_may_come_again(gate: Any, tmp_path: Path) -> None:
    with opened(gate, tmp_path) as store:
        put(store, "mine", ["cat"])
        store.put("mine", fresh())
        assert gate.reached.wait(SOON)
        store.delete("mine")  # also while it is embedded
        assert "mine" not in store
        assert not (tmp_path / "mine").exists()
        for ask in (store.get, store.entry, store.labels, store.delete, store.activate, store.wait):
            with pytest.raises(
                VocabularyError, match="no vocabulary 'mine'; there are: few, others"
            ):
                ask("mine")
        store.put("mine", ["boat"])
        gate.open.set()
        assert store.wait("mine", SOON).version == 1
        assert store.labels("mine") == ("boat",)
        store.activate("mine")
        with pytest.raises(VocabularyError, match="'mine' is active"):
            store.delete("mine")
    with opened(gate, tmp_path) as store:
        assert store.active()[0].labels == ("boat",)


def test_what_is_embedded_too_late_is_dropped(gate: Any, tmp_path: Path) -> None:
    """Deleted, or put again, between its last label and its file."""

    def prepare(vocabulary: Vocabulary) -> None:
        gate.reached.set()
        assert gate.open.wait(SOON)

    with opened(gate, tmp_path) as store:
        gate.prepare = prepare
        store.put("mine", ["cat"])
        assert gate.reached.wait(SOON)
        store.delete("mine")
        store.put("mine", ["dog"])  # version 1 too, and nobody's but its own
        store.put("other", ["boat"])
        gate.open.set()
        assert store.wait("other", SOON).state == "ready"
        assert (store.wait("mine", SOON).version, store.labels("mine")) == (1, ("dog",))
        gate.open.clear()
        gate.reached.clear()
        store.put("mine", ["tree"])
        assert gate.reached.wait(SOON)
        store.delete("mine")
        gate.open.set()
        put(store, "other", ["cat"])
        assert "mine" not in store
        assert not (tmp_path / "mine").exists()


def test_only_what_is_whole_can_be_activated(gate: Any, tmp_path: Path) -> None:
    with opened(gate, tmp_path) as store:
        store.put("mine", fresh())
        assert gate.reached.wait(SOON)
        for ask in (store.activate, store.get):
            with pytest.raises(VocabularyError, match="'mine' is not ready: 256 of 300 labels"):
                ask("mine")
        assert store.active()[1].name == "few"
        assert not (tmp_path / "active.json").exists()
        gate.open.set()


def test_closing_does_not_wait_and_a_restart_goes_on(engine: Engine, tmp_path: Path) -> None:
    labels = fresh(20_000)
    store = VocabularyStore(engine, tmp_path)
    put(store, "mine", ["cat"])
    store.put("mine", labels)
    while not 0 < store.entry("mine").done < 20_000:
        time.sleep(0.001)
    start = time.monotonic()
    store.close()
    assert time.monotonic() - start < 5
    done = store.entry("mine").done
    assert 0 < done < 20_000
    assert store.get("mine").labels == ("cat",)
    assert store.wait("mine").state == "embedding"  # and does not hang
    for change in (
        lambda: store.put("mine", ["dog"]),
        lambda: store.activate("mine"),
        lambda: store.delete("mine"),
    ):
        with pytest.raises(VocabularyError, match="The server stops"):
            change()
    store.close()
    gate: Any = Gate(engine)
    with opened(gate, tmp_path) as again:
        assert again.get("mine").labels == ("cat",)
        assert gate.reached.wait(SOON)
        assert again.entry("mine").done >= done + 256  # what was done is in the cache
        again.put("mine", labels[:300])
        gate.open.set()
        assert again.wait("mine", SOON).version == 3


def test_a_queued_put_is_done_after_a_restart(gate: Any, engine: Engine, tmp_path: Path) -> None:
    first, second = fresh(), fresh(3)
    store = VocabularyStore(gate, tmp_path)
    store.put("first", first)
    store.put("second", second)
    assert gate.reached.wait(SOON)
    closing = threading.Thread(target=store.close)
    closing.start()
    assert store.wait("first", SOON).state == "embedding"  # closing ends the wait
    gate.open.set()
    closing.join(SOON)
    assert not [*tmp_path.rglob("*.safetensors")]
    with opened(engine, tmp_path) as again:
        assert again.wait("first", SOON).state == again.wait("second", SOON).state == "ready"
        assert again.get("first").labels == tuple(first)
        assert again.get("second").labels == tuple(second)


def test_labels_that_cannot_be_embedded_fail_alone(engine: Engine, tmp_path: Path) -> None:
    with opened(engine, tmp_path) as store:
        put(store, "mine", ["cat"])
        store.put("mine", {"dog": "animals"})
        entry = store.wait("mine", SOON)
        assert (entry.state, entry.version, entry.newest) == ("failed", 1, 2)
        assert "no groups" in str(entry.error)
        assert store.get("mine").labels == ("cat",)
        put(store, "other", ["dog"])
        assert put(store, "mine", ["dog"]).version == 3
        store.put("new", {"dog": "animals"})
        store.wait("new", SOON)
        with pytest.raises(VocabularyError, match=r"'new' failed: 'dog' names the group 'animals'"):
            store.get("new")
        store.delete("new")


def test_groups_are_kept(tuned_bundle: Path, tmp_path: Path) -> None:
    """Through a put that waits, and until labels are embedded for another model."""
    engine = Engine.open(tuned_bundle, "cpu")
    labels = {"cat": None, "hamster": "animals", "fern": "plants"}
    expected = engine.text_encoder.vocabulary(labels)
    assert expected.id != engine.text_encoder.vocabulary([*labels]).id
    VocabularyStore(engine, tmp_path).close()
    with opened(engine, tmp_path) as store:
        assert put(store, "mine", labels).id == expected.id
    path = tmp_path / "mine" / "1.safetensors"
    replace(Vocabulary.load(path), text_hash="0123456789abcdef").save(path)
    with opened(engine, tmp_path) as store:
        assert store.wait("mine", SOON).id == expected.id
    path.with_name("2.safetensors").unlink()
    content = json.loads(path.with_name("labels.json").read_text())
    path.with_name("labels.json").write_text(json.dumps({**content, "version": 7}))
    with opened(engine, tmp_path) as store:
        entry = store.wait("mine", SOON)
        assert (entry.id, entry.version) == (expected.id, 7)


def test_vocabularies_of_another_model_are_embedded_again(
    engine: Engine, bundle_copy: Path, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    with opened(engine, state) as store:
        old = put(store, "mine", ["boat", "cat"])
        store.activate("mine")
    edit_manifest(bundle_copy, lambda manifest: manifest.update(templates=["one {}."]))
    other = Engine.open(bundle_copy, "cpu")
    with opened(other, state) as store:
        entry = store.wait("mine", SOON)
        assert (entry.state, entry.version, entry.active) == ("ready", 2, True)
        assert entry.id == other.text_encoder.vocabulary(["boat", "cat"]).id != old.id
        assert store.active()[0].prompt_hash == other.bundle.prompt_hash
        # those of the bundle cannot be embedded again: they are its makers' business
        assert store.entry("few").state == "failed"
        assert "another prompt pool" in str(store.entry("few").error)


def _cut(home: Path) -> None:
    path = home / "1.safetensors"
    path.write_bytes(path.read_bytes()[:-7])


def _flip(home: Path) -> None:
    path = home / "1.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 0x01
    path.write_bytes(content)


def _only_strange(home: Path) -> None:
    (home / "1.safetensors").unlink()
    (home / "labels.json").unlink()
    (home / "notes.txt").write_text("mine")
    (home / "01.safetensors").write_bytes(b"x")


def _labels(content: str) -> Callable[[Path], None]:
    def damage(home: Path) -> None:
        (home / "1.safetensors").unlink()
        (home / "labels.json").write_text(content)

    return damage


DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "cut": (_cut, "1.safetensors' is not a readable vocabulary"),
    "flipped": (_flip, "1.safetensors' was changed after it was written"),
    "noise": (lambda home: (home / "1.safetensors").write_bytes(b"\xff" * 99), "not a readable"),
    "empty": (lambda home: (home / "1.safetensors").write_bytes(b""), "not a readable"),
    "strange": (_only_strange, "bad holds no vocabulary"),
    "no json": (_labels('{"version": 2, "lab'), "labels.json is damaged"),
    "deep json": (_labels("[" * 100_000), "labels.json is damaged"),
    "no labels": (_labels('{"version": 2, "labels": [], "groups": {}}'), "There are no labels"),
    "no text": (_labels('{"version": 2, "labels": [[1]], "groups": {}}'), "labels.json is damaged"),
    "no number": (_labels('{"version": "2", "labels": ["a"], "groups": {}}'), "version '2'"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_named_and_harms_nothing_else(engine: Engine, tmp_path: Path, kind: str) -> None:
    damage, expected = DAMAGE[kind]
    with opened(engine, tmp_path) as store:
        put(store, "bad", ["cat"])
        put(store, "good", ["dog"])
        store.activate("bad")
    damage(tmp_path / "bad")
    with opened(engine, tmp_path) as store:
        entry = store.entry("bad")
        assert (entry.state, entry.id, entry.active) == ("failed", None, True)
        assert expected in str(entry.error)
        assert str(entry.error).endswith("Put it again, or delete it.")
        assert store.get("good").labels == ("dog",)
        with pytest.raises(VocabularyError, match="'bad' failed: "):
            store.active()  # no other words in its place
        assert put(store, "bad", ["cat", "dog"]).active
        assert store.active()[0].labels == ("cat", "dog")
        store.activate("good")
        store.delete("bad")
        put(store, "lost", ["tree"])
        shutil.rmtree(tmp_path / "lost")
        store.delete("lost")
    with opened(engine, tmp_path) as store:
        assert [entry.name for entry in store.entries()] == ["few", "good", "others"]


def test_an_older_version_is_served_where_the_newest_is_damaged(
    engine: Engine, tmp_path: Path
) -> None:
    with opened(engine, tmp_path) as store:
        put(store, "mine", ["cat"])
        old = (tmp_path / "mine" / "1.safetensors").read_bytes()
        put(store, "mine", ["dog"])
    (tmp_path / "mine" / "1.safetensors").write_bytes(old)
    (tmp_path / "mine" / "2.safetensors").write_bytes(old[:50])
    with opened(engine, tmp_path) as store:
        entry = store.entry("mine")
        assert (entry.state, entry.version, entry.newest) == ("failed", 1, 2)
        assert store.get("mine").labels == ("cat",)


def test_what_is_strange_is_left_alone(engine: Engine, tmp_path: Path, caplog) -> None:
    with opened(engine, tmp_path) as store:
        put(store, "mine", ["cat"])
    strange = [tmp_path / name for name in ("notes.txt", "Upper", "a b", "file", "link", ".hidden")]
    for path in strange[1:3]:
        path.mkdir()
    for path in (strange[0], strange[3], strange[5]):
        path.write_text("mine")
    strange[4].symlink_to(tmp_path / "mine")
    strange.append(tmp_path / "mine" / "notes.txt")
    strange[-1].write_text("mine")
    left = [tmp_path / ".active.json.0123.part", tmp_path / "mine" / ".2.safetensors.4567.part"]
    for path in left:
        path.write_text("half")
    (tmp_path / "empty").mkdir()
    with caplog.at_level(logging.WARNING), opened(engine, tmp_path) as store:
        assert [entry.name for entry in store.entries()] == ["few", "mine", "others"]
        assert store.entry("mine").state == "ready"
        with pytest.raises(VocabularyError, match=r"file' cannot be written \(.*File exists"):
            store.put("file", ["cat"])
        assert "file" not in store
    for path in strange:
        assert f"{path} is no" in caplog.text
        assert path.exists()
    assert not any(path.exists() for path in [*left, tmp_path / "empty"])


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("{", r"active.json is damaged .*Activate one"),
        ('["mine"]', "active.json is damaged"),
        ('{"name": "gone"}', "'gone' was, but it is not there any more"),
    ],
)
def test_a_lost_activation_activates_nothing_else(
    engine: Engine, tmp_path: Path, content: str, expected: str
) -> None:
    (tmp_path / "active.json").write_text(content)
    with opened(engine, tmp_path) as store:
        with pytest.raises(VocabularyError, match=expected):
            store.active()
        assert not any(entry.active for entry in store.entries())
        store.activate("others")
        assert store.active()[1].name == "others"


def test_a_vocabulary_that_was_there_first_hides_a_new_one_of_the_bundle(
    engine: Engine, tmp_path: Path, caplog
) -> None:
    with opened(engine, tmp_path) as store:
        put(store, "mine", ["cat"])
    (tmp_path / "mine").rename(tmp_path / "others")
    with opened(engine, tmp_path) as store:
        assert "'others' of" in caplog.text
        assert store.get("others").labels == ("cat",)
        assert not store.entry("others").in_bundle
        assert put(store, "others", ["dog"]).version == 2
        store.delete("others")
        assert store.entry("others").in_bundle


@pytest.mark.parametrize(
    "name", ["", "Upper", "a/b", "..", "../up", ".hidden", "a b", "x" * 65, "a\n", "ä", "a\x00"]
)
def test_a_name_is_no_path(engine: Engine, tmp_path: Path, name: str) -> None:
    with opened(engine, tmp_path / "state") as store:
        with pytest.raises(VocabularyError, match="cannot be named"):
            store.put(name, ["cat"])
        for ask in (store.get, store.delete, store.activate, store.labels):
            with pytest.raises(VocabularyError, match="There is no vocabulary"):
                ask(name)
    assert [path.name for path in tmp_path.rglob("*")] == ["state", ".lock"]


def test_limits(engine: Engine, tmp_path: Path) -> None:
    with opened(engine, tmp_path, labels=3, label_chars=5, vocabularies=2) as store:
        with pytest.raises(LabelError, match="4 labels are too many: at most 3"):
            store.put("a", ["1", "2", "3", "4"])
        with pytest.raises(
            LabelError, match=r"Label 2 \('123456'\.\.\.\) has 6 characters; at most 5"
        ):
            store.put("a", ["12345", "123456"])
        for labels in ([], ["a", "a"], ["a", ""], "cat", ["a", 7]):
            with pytest.raises(LabelError):
                store.put("a", labels)
        assert "a" not in store
        assert not (tmp_path / "a").exists()
        put(store, "a", ["12345", "2", "3"])
        put(store, "b", ["1"])
        with pytest.raises(VocabularyError, match="There are 2 vocabularies, and at most 2"):
            store.put("c", ["1"])
        put(store, "b", ["2"])
        store.delete("a")
        put(store, "c", ["1"])


def test_a_folder_has_one_owner(engine: Engine, tmp_path: Path) -> None:
    with (
        opened(engine, tmp_path),
        pytest.raises(VocabularyError, match="Another process keeps its vocabularies in"),
    ):
        VocabularyStore(engine, tmp_path)
    with opened(engine, tmp_path):
        pass
    (tmp_path / "file").write_text("x")
    with pytest.raises(VocabularyError, match=r"cannot be kept in .*Name another folder"):
        VocabularyStore(engine, tmp_path / "file")


def test_readers_see_whole_vocabularies_while_others_change_them(engine: Engine) -> None:
    words = {"a": ["cat", "dog"], "b": ["boat", "tree", "bench"]}
    stop = threading.Event()
    torn: list[Any] = []
    seen: set[str] = set()

    def read() -> None:
        while not stop.is_set():
            vocabulary, entry = store.active()
            seen.add(entry.name)
            whole = entry.active and entry.id == vocabulary.id and entry.labels == len(vocabulary)
            if not whole or vocabulary.labels != tuple(words[entry.name]):
                torn.append((entry, vocabulary.labels))

    with opened(engine) as store:
        for name, labels in words.items():
            put(store, name, labels)
        store.activate("a")
        readers = [threading.Thread(target=read) for _ in range(3)]
        for reader in readers:
            reader.start()
        for turn in range(150):
            store.put("ab"[turn % 2], words["ab"[turn % 2]])
            store.activate("ab"[turn % 2])
            store.put("c", ["x"])
            store.delete("c")
        stop.set()
        for reader in readers:
            reader.join(SOON)
    assert not torn
    assert seen == {"a", "b"}


KILLED = """
import json, random, sys
from itertools import count
from pathlib import Path
from ovml_deploy.errors import VocabularyError
from ovml_deploy.runtime.engine import Engine
from ovml_deploy.serving.vocabularies import VocabularyStore
store = VocabularyStore(Engine.open(sys.argv[1], "cpu"), Path(sys.argv[2]))
run = sys.argv[3]
chance = random.Random(int(run))
print("ready", flush=True)
for turn in count():
    what, name = chance.choice(["put", "put", "activate", "delete"]), chance.choice("abc")
    labels = [f"{name} {run} {turn} {i}" for i in range(6)] if what == "put" else []
    print(json.dumps([what, name, labels]), flush=True)
    try:
        if what == "put":
            store.put(name, labels)
        elif what == "activate":
            store.activate(name)
        else:
            store.delete(name)
        print("done", flush=True)
    except VocabularyError:
        print("refused", flush=True)
    if chance.random() < 0.3 and name in store:
        store.wait(name)
"""


def test_a_kill_at_any_moment_loses_nothing(
    engine: Engine, tiny_bundle: Path, tmp_path: Path
) -> None:
    """What was acknowledged holds; of what was not, either the old or the new is there, whole."""
    chance = random.Random(0)
    labels: dict[str, list[str] | None] = dict.fromkeys("abc")
    active = "few"
    seen: dict[str, int] = {}
    for run in range(12):
        process = subprocess.Popen(
            [sys.executable, "-c", KILLED, tiny_bundle, tmp_path / "state", str(run)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        lines = [process.stdout.readline() for _ in range(chance.randrange(80))]
        time.sleep(chance.uniform(0.0, 0.02))
        process.send_signal(signal.SIGKILL)
        lines += process.stdout.read().splitlines()
        process.wait()
        process.stdout.close()
        ever = [[*known] for known in labels.values() if known]
        unsure = None
        for line, answer in zip(lines[::2], [*lines[1::2], ""], strict=False):
            try:
                what, name, words = json.loads(line)
            except ValueError:
                break  # killed while it wrote the line
            ever.append(words)
            if answer.strip() == "refused":
                continue
            if answer.strip() != "done":
                unsure = (what, name, words)
                break
            seen[what] = seen.get(what, 0) + 1
            if what == "activate":
                active = name
            else:
                labels[name] = words or None
        with opened(engine, tmp_path / "state") as store:
            assert not any(entry.state == "failed" for entry in store.entries())
            for name in labels:
                may = [labels[name]]
                if unsure and unsure[1] == name and unsure[0] != "activate":
                    may.append(unsure[2] or None)
                if name in store:
                    for entry in (store.entry(name), store.wait(name, SOON)):
                        if entry.id is not None:
                            assert [*store.labels(name)] in ever
                    vocabulary = store.get(name)
                    expected = engine.text_encoder.embed(vocabulary.labels)
                    np.testing.assert_allclose(vocabulary.embeddings, expected, atol=1e-5)
                    labels[name] = [*vocabulary.labels]
                else:
                    labels[name] = None
                assert labels[name] in may
            now = store.active()[1].name
            assert now == active or (unsure and unsure[:2] == ("activate", now))
            active = now
    assert min(seen[what] for what in ("put", "activate", "delete")) >= 5, seen

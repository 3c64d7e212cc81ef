"""Vocabularies that are put, activated and deleted while they are used."""

import threading
from pathlib import Path
from typing import Any

import pytest
from stores import SOON, fresh, opened, put

from ovml_deploy.errors import LabelError, VocabularyError
from ovml_deploy.runtime.engine import Engine
from ovml_deploy.runtime.vocabulary import Vocabulary
from ovml_deploy.serving.vocabularies import Entry


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


def test_labels_that_are_one_to_the_model_are_refused_at_the_put(engine: Engine, tmp_path) -> None:
    with opened(engine, tmp_path) as store:
        kept = put(store, "mine", ["boat", "cat"])
        with pytest.raises(LabelError, match=r"labels 1, 3 \('owl', 'Owl'\)"):
            store.put("mine", ["owl", "cat", "Owl"])
        assert store.entry("mine").newest == kept.newest
        assert store.labels("mine") == ("boat", "cat")

"""What is kept of vocabularies: through restarts and damage (kills: test_vocabularies_killed.py)."""

import json
import logging
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from bundles import edit_manifest
from stores import SOON, Gate, fresh, opened, put

from ovml_deploy.errors import LabelError, VocabularyError
from ovml_deploy.runtime.engine import Engine
from ovml_deploy.runtime.vocabulary import Vocabulary
from ovml_deploy.serving.errors import StoppingError
from ovml_deploy.serving.vocabularies import VocabularyStore


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
        with pytest.raises(StoppingError, match="The server stops"):
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
    """Labels that were accepted for a prompt-tuned model, and not embedded before this one came."""
    with opened(engine, tmp_path) as store:
        put(store, "mine", ["cat"])
    for name, version in (("mine", 2), ("new", 1)):
        (tmp_path / name).mkdir(exist_ok=True)
        content = {"version": version, "labels": ["dog"], "groups": {"dog": "animals"}}
        (tmp_path / name / "labels.json").write_text(json.dumps(content))
    with opened(engine, tmp_path) as store:
        entry = store.wait("mine", SOON)
        assert (entry.state, entry.version, entry.newest) == ("failed", 1, 2)
        assert "no groups" in str(entry.error)
        assert store.get("mine").labels == ("cat",)
        put(store, "other", ["dog"])
        assert put(store, "mine", ["dog"]).version == 3
        store.wait("new", SOON)
        with pytest.raises(VocabularyError, match=r"'new' failed: 'dog' names the group 'animals'"):
            store.get("new")
        store.delete("new")
        with pytest.raises(LabelError, match="no groups"):
            store.put("new", {"dog": "animals"})
        assert "new" not in store


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
        ("{", r"Which one was cannot be read. Activate one"),
        ('["mine"]', "Which one was cannot be read"),
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

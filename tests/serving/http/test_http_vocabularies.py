"""Vocabularies that are put, activated and deleted over HTTP while the server tags."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from backbones import TUNED
from in_process import Held, Served, served, until
from stores import Gate, fresh

from ovml_deploy.runtime.engine import Engine
from ovml_deploy.serving.settings import Settings
from ovml_deploy.serving.vocabularies import Limits

HOME = "/v1/vocabularies"
WAIT = "?wait=30"


def test_a_vocabulary_from_its_put_to_its_end(server: Served, tagger, images) -> None:
    made = server.put(f"{HOME}/mine{WAIT}", labels=["boat", " cat "])
    assert made.status == 200
    expected = tagger.make_vocabulary(["boat", "cat"])
    entry = {
        "name": "mine", "version": 1, "newest": 1, "state": "ready", "labels": 2, "done": 2,
        "total": 2, "id": expected.id, "error": None, "active": False, "in_bundle": False,
    }  # fmt: skip
    assert made.json == entry
    assert server.get(f"{HOME}/mine").json == {**entry, "texts": ["boat", "cat"]}
    listed = server.get(HOME).json["vocabularies"]
    assert [one["name"] for one in listed] == ["few", "mine", "others"]
    assert entry in listed
    used = {"name": "mine", "version": 1, "id": expected.id, "labels": 2}
    assert server.tag(images[0], "?vocabulary=mine").json["vocabulary"] == used
    assert server.tag(images[0]).json["vocabulary"]["name"] == "few"
    assert server.post(f"{HOME}/mine/activate").json == {**entry, "active": True}
    answer = server.tag(images[0]).json
    assert answer["vocabulary"] == used
    assert {tag["label"] for tag in answer["results"][0]["tags"]} == {"boat", "cat"}
    assert server.get("/v1/model").json["vocabulary"] == "mine"
    again = server.put(f"{HOME}/mine{WAIT}", labels=["tree"]).json
    assert (again["version"], again["newest"], again["active"]) == (2, 2, True)
    assert server.tag(images[0]).json["vocabulary"]["version"] == 2
    refused = server.delete(f"{HOME}/mine")
    assert (refused.status, refused.kind) == (409, "conflict")
    assert server.post(f"{HOME}/few/activate").status == 200
    gone = server.delete(f"{HOME}/mine")
    assert (gone.status, gone.body) == (204, b"")
    for reply in (
        server.get(f"{HOME}/mine"),
        server.delete(f"{HOME}/mine"),
        server.post(f"{HOME}/mine/activate"),
        server.tag(images[0], "?vocabulary=mine"),
    ):
        assert (reply.status, reply.kind) == (404, "unknown_vocabulary")
        assert "There is no vocabulary 'mine'; there are: few, others." in str(reply.json)


def test_a_put_shows_its_progress(engine: Engine, images) -> None:
    gate = Gate(engine)
    with served(_With(engine, text_encoder=gate)) as server:
        try:
            made = server.put(f"{HOME}/mine", labels=["boat", "cat", *fresh(298)])
            assert made.status == 202
            assert (made.json["state"], made.json["total"], made.json["id"]) == (
                "embedding",
                300,
                None,
            )
            assert gate.reached.wait(60)
            entry = server.get(f"{HOME}/mine").json
            assert (entry["state"], entry["version"]) == ("embedding", 1)
            assert 256 <= entry["done"] < 300
            for reply in (
                server.tag(images[0], "?vocabulary=mine"),
                server.post(f"{HOME}/mine/activate"),
            ):
                assert (reply.status, reply.kind) == (409, "not_ready")
                assert "of 300 labels are embedded" in reply.json["error"]["message"]
            late = server.put(f"{HOME}/second?wait=0.1", labels=["dog"])  # waits for the first
            assert (late.status, late.json["state"]) == (202, "embedding")
        finally:
            gate.open.set()
        until(lambda: server.get(f"{HOME}/mine").json["state"] == "ready")
        assert server.tag(images[0], "?vocabulary=mine").status == 200


def test_requests_in_flight_end_on_the_vocabulary_they_began_with(held: Held, images) -> None:
    with served(held) as server, ThreadPoolExecutor(2) as pool:
        held.open.set()
        server.put(f"{HOME}/mine{WAIT}", labels=["boat", "cat"])
        server.post(f"{HOME}/mine/activate")
        held.open.clear()
        held.batches.clear()
        first = pool.submit(server.tag, images[0])
        until(lambda: held.batches)
        server.put(f"{HOME}/mine{WAIT}", labels=["tree"])
        server.post(f"{HOME}/others/activate")
        server.delete(f"{HOME}/mine")
        second = pool.submit(server.tag, images[0])
        until(lambda: server.metric("ovml_images_inside") == 2)
        held.open.set()
        answer = first.result().json
        assert (answer["vocabulary"]["name"], answer["vocabulary"]["version"]) == ("mine", 1)
        assert {tag["label"] for tag in answer["results"][0]["tags"]} == {"boat", "cat"}
        assert second.result().json["vocabulary"]["name"] == "others"


def test_answers_never_mix_vocabularies_while_they_are_swapped(server: Served, images) -> None:
    words = {"a": {"boat", "cat"}, "b": {"tree", "dog", "house"}}
    for name, labels in words.items():
        server.put(f"{HOME}/{name}{WAIT}", labels=sorted(labels))
    server.post(f"{HOME}/a/activate")
    ids = {name: server.get(f"{HOME}/{name}").json["id"] for name in words}
    stop = threading.Event()

    def swap() -> int:
        swaps = 0
        while not stop.is_set():
            server.post(f"{HOME}/{'ba'[swaps % 2]}/activate")
            swaps += 1
        return swaps

    def tag(number: int) -> str:
        answer = server.tag(images[number % 6], "?threshold=0").json
        name = answer["vocabulary"]["name"]
        assert answer["vocabulary"]["id"] == ids[name]
        assert {tag["label"] for tag in answer["results"][0]["tags"]} == words[name]
        return name

    with ThreadPoolExecutor(5) as pool:
        swapping = pool.submit(swap)
        try:
            seen = {*pool.map(tag, range(100))}
        finally:
            stop.set()
        assert swapping.result() > 10
    assert seen == {"a", "b"}
    server.post(f"{HOME}/few/activate")
    assert all(server.delete(f"{HOME}/{name}").status == 204 for name in words)


@pytest.mark.parametrize("method", ["put", "delete"])
def test_those_of_the_bundle_cannot_be_changed(server: Served, method: str) -> None:
    content = {"labels": ["cat"]} if method == "put" else {}
    reply = server.ask(method.upper(), f"{HOME}/others", **content)
    assert (reply.status, reply.kind) == (409, "conflict")
    assert "part of the bundle" in reply.json["error"]["message"]


@pytest.mark.parametrize(
    "name", ["UPPER", "a%20b", "%00", "..", "%2e%2e", "caf%C3%A9", "x" * 65, "a.b", "%F0%9F%90%88"]
)
def test_names_that_cannot_be(server: Served, name: str) -> None:
    reply = server.put(f"{HOME}/{name}", labels=["cat"])
    assert reply.status in (404, 405, 422)
    assert reply.kind in ("vocabulary", "not_found", "method")
    names = [entry["name"] for entry in server.get(HOME).json["vocabularies"]]
    assert names == ["few", "others"]


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        ({"labels": []}, "request"),
        ({"labels": "cat"}, "request"),
        ({"labels": [1]}, "request"),
        ({"labels": None}, "request"),
        ({"labels": ["cat"], "more": 1}, "request"),
        ({"words": ["cat"]}, "request"),
        ({"labels": ["cat", "cat "]}, "labels"),
        ({"labels": [" "]}, "labels"),
        ({"labels": ["a\nb"]}, "labels"),
        ({"labels": ["\ud800"]}, "labels"),
        ({"labels": ["x" * 257]}, "labels"),
        ({"labels": {}}, "labels"),
        ({"labels": {"cat": 1}}, "request"),
    ],
)
def test_labels_that_cannot_be(server: Served, content: dict[str, Any], kind: str) -> None:
    reply = server.put(f"{HOME}/mine", **content)
    assert (reply.status, reply.kind) == (422, kind), reply.body
    assert server.get(f"{HOME}/mine").status == 404


_MANY = 200_000
GREEDY = {
    "labels": {"labels": [1] * 3 * _MANY},
    "groups": {"labels": {f"a{n}": 1 for n in range(_MANY)}},
    "nested groups": {"labels": {f"a{n}": {} for n in range(_MANY)}},
    "fields": {f"a{n}": 1 for n in range(_MANY)},
}


@pytest.mark.parametrize("kind", GREEDY)
def test_labels_with_very_many_faults(server: Served, kind: str) -> None:
    """They are refused at the first few: each fault costs a hundred times what it takes to send."""
    reply = server.put(f"{HOME}/mine", **GREEDY[kind])
    assert (reply.status, reply.kind) == (422, "request")
    assert len(reply.body) < 1000
    assert "more" not in reply.json["error"]["message"]  # as it says of faults beyond three


def test_limits_on_vocabularies(engine: Engine) -> None:
    settings = Settings(limits=Limits(labels=3, label_chars=5, vocabularies=1))
    with served(engine, settings) as server:
        many = server.put(f"{HOME}/mine", labels=["a", "b", "c", "d"])
        assert (many.status, many.kind) == (422, "labels")
        long = server.put(f"{HOME}/mine", labels=["123456"])
        assert (long.status, long.kind) == (422, "labels")
        assert server.put(f"{HOME}/mine{WAIT}", labels=["a", "b", "c"]).status == 200
        full = server.put(f"{HOME}/more", labels=["a"])
        assert (full.status, full.kind) == (409, "conflict")
        assert server.put(f"{HOME}/mine{WAIT}", labels=["a"]).status == 200


@pytest.mark.parametrize("wait", ["-1", "31", "nan", "inf", "soon"])
def test_how_long_to_wait(server: Served, wait: str) -> None:
    reply = server.put(f"{HOME}/mine?wait={wait}", labels=["cat"])
    assert (reply.status, reply.kind) == (422, "request")


def test_groups_of_a_prompt_tuned_model(tuned_bundle) -> None:
    with served(Engine.open(tuned_bundle, "cpu")) as server:
        group = next(iter(TUNED.values()))
        made = server.put(f"{HOME}/mine{WAIT}", labels={"ferry": group, "cloud": None})
        assert (made.status, made.json["state"]) == (200, "ready"), made.body
        assert server.get(f"{HOME}/mine").json["texts"] == ["ferry", "cloud"]
        unknown = server.put(f"{HOME}/other{WAIT}", labels={"ferry": "no such group"})
        assert (unknown.status, unknown.kind) == (422, "labels")
        assert "no such group" in unknown.json["error"]["message"]


def test_the_state_folder_is_named_to_nobody(engine: Engine, tmp_path) -> None:
    folder = tmp_path / "secret"
    (folder / "broken").mkdir(parents=True)
    (folder / "broken" / "labels.json").write_text("{")
    with served(engine, Settings(state=folder)) as server:
        entry = server.get(f"{HOME}/broken")
        assert entry.json["state"] == "failed"
        reply = server.get(f"{HOME}/broken").body + server.post(f"{HOME}/broken/activate").body
        assert b"labels.json" in reply
        assert b"secret" not in reply


class _With:
    """An engine with some parts changed."""

    def __init__(self, engine: Engine, **parts: Any) -> None:
        self._engine = engine
        self.__dict__.update(parts)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)


def test_labels_that_are_one_to_the_model_are_refused_at_once(server: Served, images) -> None:
    """With status 422, all of them named, for a vocabulary and for the labels of one request."""
    labels = ["owl", "cat", "Owl", "CAT"]
    said = "labels 1, 3 ('owl', 'Owl'); labels 2, 4 ('cat', 'CAT')"
    refused = server.put(f"{HOME}/birds{WAIT}", labels=labels)
    assert (refused.status, refused.kind) == (422, "labels")
    assert said in refused.json["error"]["message"]
    assert server.get(f"{HOME}/birds").status == 404
    inline = server.tag(images[0], f"?labels={','.join(labels)}")
    assert (inline.status, inline.kind) == (422, "labels")
    assert said in inline.json["error"]["message"]
    repeated = server.put(f"{HOME}/birds", labels=["cat", "owl", "cat", "owl"])
    assert repeated.status == 422
    assert "Label 3 ('cat') repeats label 1; Label 4 ('owl') repeats label 2" in str(repeated.json)

"""What is sent to be tagged, in each form, and what comes back: what the Tagger says, to 1e-6."""

import base64
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from http_client import part
from in_process import Served, served
from PIL import Image
from raw_files import make_dng

from ovml_deploy.runtime.engine import Engine
from ovml_deploy.runtime.results import Tag
from ovml_deploy.runtime.tagger import Tagger
from ovml_deploy.serving.settings import Settings


def text(image: bytes) -> str:
    return base64.b64encode(image).decode()


def check(found: Sequence[dict[str, Any]], expected: Sequence[Tag]) -> None:
    assert [tag["label"] for tag in found] == [tag.label for tag in expected]
    assert [tag["query"] for tag in found] == [tag.query for tag in expected]
    for name in ("score", "logit"):
        values = [getattr(tag, name) for tag in expected]
        np.testing.assert_allclose([tag[name] for tag in found], values, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("media", ["image/jpeg", "image/png", "application/octet-stream"])
def test_an_image_as_the_body(server: Served, tagger: Tagger, images, media: str) -> None:
    """The type is the client's word; the bytes decide."""
    for image in images:
        reply = server.ask("POST", "/v1/tag", image, {"content-type": media})
        assert reply.status == 200
        assert reply.headers["content-type"] == "application/json"
        (result,) = reply.json["results"]
        check(result["tags"], tagger.tag(image))
        assert (result["name"], result["error"]) == (None, None)
        times = result["times"]
        assert times["batch"] >= 1
        assert min(times["decode_ms"], times["queue_ms"], times["engine_ms"]) >= 0
        used = {"name": "few", "version": 0, "id": tagger.vocabulary.id, "labels": 5}
        assert reply.json["vocabulary"] == used


def test_many_images_in_a_form(server: Served, tagger: Tagger, images) -> None:
    parts = [part("image", image, f"picture {i}.jpg") for i, image in enumerate(images)]
    results = server.upload("/v1/tag", *parts).json["results"]
    assert [result["name"] for result in results] == [f"picture {i}.jpg" for i in range(6)]
    for result, image in zip(results, images, strict=True):
        check(result["tags"], tagger.tag(image))


@pytest.mark.parametrize("start", ["", "data:image/jpeg;base64,"])
def test_many_images_in_json(server: Served, tagger: Tagger, images, start: str) -> None:
    reply = server.post("/v1/tag", images=[start + text(image) for image in images])
    for result, image in zip(reply.json["results"], images, strict=True):
        check(result["tags"], tagger.tag(image))


def test_an_image_that_cannot_be_read_is_its_own_error(server: Served, tagger, images) -> None:
    torn = images[1][: len(images[1]) // 2]
    before = server.metric("ovml_errors_total", kind="image")
    sent = [text(images[0]), text(torn), text(b"no image"), "no base64!", text(images[2])]
    results = server.post("/v1/tag", images=sent).json["results"]
    assert [result["error"] is None for result in results] == [True, False, False, False, True]
    assert "truncated" in results[1]["error"]
    assert "not an image" in results[2]["error"]
    assert "Image 4 is not base64" in results[3]["error"]
    assert all((r["tags"], r["times"]) == ([], None) for r in results[1:4])
    check(results[0]["tags"], tagger.tag(images[0]))
    check(results[4]["tags"], tagger.tag(images[2]))
    assert server.metric("ovml_errors_total", kind="image") == before + 3
    parts = part("image", b"", "empty.jpg"), part("image", images[0], "full.jpg")
    results = server.upload("/v1/encode", *parts).json["results"]
    assert [result["features"] is None for result in results] == [True, False]
    assert results[0]["error"]


def test_an_image_sent_alone_that_cannot_be_read_is_the_requests_error(server: Served) -> None:
    reply = server.tag(b"no image")
    assert (reply.status, reply.kind) == (422, "image")
    assert server.tag(b"").status == 422


OPTIONS = {"vocabulary": "others", "top_k": 2, "threshold": 0.0}


def test_options_by_query_form_and_json(server: Served, tagger: Tagger, images) -> None:
    image = images[0]
    others = tagger.make_vocabulary("others")
    expected = tagger.tag(image, top_k=2, threshold=0.0, vocabulary=others)
    fields = [part(name, str(value).encode()) for name, value in OPTIONS.items()]
    query = "?vocabulary=others&top_k=2&threshold=0"
    for reply in (
        server.tag(image, query),
        server.upload("/v1/tag", *fields, part("image", image, "a.jpg")),
        server.upload(f"/v1/tag{query}", part("image", image, "a.jpg")),
        server.post("/v1/tag", images=[text(image)], **OPTIONS),
        server.post(f"/v1/tag{query}", images=[text(image)]),
        # the body's go before the query's
        server.post("/v1/tag?vocabulary=few&top_k=5", images=[text(image)], **OPTIONS),
    ):
        assert reply.status == 200, reply.body
        assert reply.json["vocabulary"]["name"] == "others"
        check(reply.json["results"][0]["tags"], expected)


def test_a_threshold_leaves_out_what_scores_less(server: Served, tagger: Tagger, images) -> None:
    scores = sorted(tag.score for tag in tagger.tag(images[0], top_k=None, threshold=0.0))
    middle = (scores[2] + scores[3]) / 2
    tags = server.tag(images[0], f"?threshold={middle!r}").json["results"][0]["tags"]
    check(tags, tagger.tag(images[0], threshold=middle))
    assert len(tags) == 2
    assert server.tag(images[0], "?threshold=1").json["results"][0]["tags"] == []


LABELS = ["a cat", "boat", "Straße"]


def test_labels_that_a_request_brings(server: Served, tagger: Tagger, images) -> None:
    vocabulary = tagger.make_vocabulary(LABELS)
    expected = tagger.tag(images[0], vocabulary=vocabulary)
    image = part("image", images[0], "a.jpg")
    for reply in (
        server.tag(images[0], "?labels=a%20cat,boat,Stra%C3%9Fe"),
        server.upload("/v1/tag", part("labels", ",".join(LABELS).encode()), image),
        server.upload("/v1/tag", *(part("labels", w.encode()) for w in LABELS), image),
        server.post("/v1/tag", images=[text(images[0])], labels=LABELS),
    ):
        assert reply.status == 200, reply.body
        used = {"name": "inline", "version": 0, "id": vocabulary.id, "labels": 3}
        assert reply.json["vocabulary"] == used
        check(reply.json["results"][0]["tags"], expected)


def test_encode_then_match_is_tag(server: Served, tagger: Tagger, images) -> None:
    """Features that a client keeps give the same tags as the image, with any words."""
    sent = [text(image) for image in images]
    answer = server.post("/v1/encode", images=sent).json
    assert answer["model"] == tagger.bundle.model_hash
    features = [result["features"] for result in answer["results"]]
    raw = np.frombuffer(base64.b64decode(features[0]["data"]), "<f4").reshape(features[0]["shape"])
    np.testing.assert_allclose(raw, np.asarray(tagger.encode([images[0]]))[0], atol=1e-6)
    for options in ({}, {"vocabulary": "others"}, {"labels": LABELS, "top_k": 1}):
        tagged = server.post("/v1/tag", images=sent, **options).json
        matched = server.post("/v1/match", features=features, **options).json
        assert matched["vocabulary"] == tagged["vocabulary"]
        for one, other in zip(matched["results"], tagged["results"], strict=True):
            check(one["tags"], [Tag(**tag) for tag in other["tags"]])


@pytest.mark.parametrize(
    ("query", "status", "kind"),
    [
        ("?vocabulary=unknown", 404, "unknown_vocabulary"),
        ("?vocabulary=few&labels=cat", 422, "request"),
        ("?top_k=0", 422, "request"),
        ("?top_k=many", 422, "request"),
        ("?top_k=99999999999999999999", 422, "request"),
        ("?threshold=nan", 422, "request"),
        ("?threshold=1.5", 422, "request"),
        ("?labels=", 422, "request"),
        ("?labels=,", 422, "request"),
        ("?labels=cat,cat", 422, "labels"),
        ("?labels=" + "x" * 257, 422, "labels"),
    ],
)
def test_options_that_make_no_sense(
    server: Served, images, query: str, status: int, kind: str
) -> None:
    reply = server.tag(images[0], query)
    assert (reply.status, reply.kind) == (status, kind), reply.body


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("/v1/tag", {"top_k": 1}),
        ("/v1/tag", {"images": []}),
        ("/v1/tag", {"images": [1]}),
        ("/v1/tag", {"images": "text"}),
        ("/v1/tag", {"images": [""], "colour": "red"}),
        ("/v1/tag", {"images": [""], "labels": []}),
        ("/v1/tag", {"images": [""], "labels": "cat"}),
        ("/v1/match", {"features": []}),
        ("/v1/match", {"features": [{"shape": [1, 1], "data": "AAAA"}]}),
        ("/v1/match", {"features": [{"shape": [3, 32], "data": "AAAAAA=="}]}),
        ("/v1/match", {"features": [{"shape": [-1, -1], "data": "AAAAAA=="}]}),
        ("/v1/match", {"features": [{"shape": [10**30, 1], "data": "AAAAAA=="}]}),
        ("/v1/match", {"features": [{"shape": [1], "data": "AAAAAA=="}]}),
        ("/v1/match", {"features": [{"shape": [1, 1], "data": "?"}]}),
    ],
)
def test_bodies_that_make_no_sense(server: Served, path: str, content: dict[str, Any]) -> None:
    reply = server.post(path, **content)
    assert reply.status == 422, reply.body
    assert reply.kind == "request"


_MANY = 600_000
GREEDY = {
    "images: numbers": ("/v1/tag", {"images": [1] * _MANY}),
    "images: empty": ("/v1/encode", {"images": [""] * _MANY}),
    "images: lists": ("/v1/tag", {"images": [[]] * _MANY}),
    "labels": ("/v1/tag", {"images": ["QQ=="], "labels": [1] * _MANY}),
    "unknown fields": ("/v1/tag", {f"a{n}": 1 for n in range(200_000)}),
    "features: numbers": ("/v1/match", {"features": [1] * _MANY}),
    "features: empty": ("/v1/match", {"features": [{"shape": [1, 1], "data": ""}] * 60_000}),
    "features: wrong": ("/v1/match", {"features": [{"shape": ["a"] * 9, "b": 1}] * 40_000}),
    "features: shape": ("/v1/match", {"features": [{"shape": ["a"] * _MANY, "data": ""}]}),
    "features: fields": ("/v1/match", {"features": [{f"a{n}": 1 for n in range(200_000)}]}),
}


@pytest.mark.parametrize("query", ["", "?top_k=1"])
@pytest.mark.parametrize("kind", GREEDY)
def test_bodies_with_very_many_faults(server: Served, kind: str, query: str) -> None:
    """They are refused at the first few: each fault costs a hundred times what it takes to send."""
    path, content = GREEDY[kind]
    body = json.dumps(content).encode()
    assert len(body) > 1.5e6
    reply = server.ask("POST", path + query, body, {"content-type": "application/json"})
    assert (reply.status, reply.kind) == (422, "request")
    assert len(reply.body) < 1000
    assert "more" not in reply.json["error"]["message"]  # as it says of faults beyond three


def test_a_list_of_images_is_counted_before_it_is_read(engine: Engine, monkeypatch) -> None:
    read = []
    monkeypatch.setattr(base64, "b64decode", lambda *args, **kwargs: read.append(args))
    with served(engine) as server:
        assert server.post("/v1/encode", images=["QQ=="] * 1001).status == 422
        features = [{"shape": [1, 1], "data": "QQ=="}] * 1001
        assert server.post("/v1/match", features=features).status == 422
    assert read == []


def test_features_must_be_finite_and_of_this_model(server: Served, tagger: Tagger) -> None:
    shape = [tagger.bundle.features_per_image, tagger.bundle.embed_dim]
    bad = np.full(shape, np.nan, "<f4")
    for array in (bad, np.zeros((shape[0], shape[1] + 1), "<f4"), np.zeros((1, shape[1]), "<f4")):
        data = base64.b64encode(array.tobytes()).decode()
        reply = server.post("/v1/match", features=[{"shape": [*array.shape], "data": data}])
        assert (reply.status, reply.kind) == (422, "request")
        assert "Features must be finite [B, 3, 32]" in reply.json["error"]["message"]


@pytest.mark.parametrize("media", ["text/plain", "text/html", "video/mp4", "", "image"])
def test_other_media_types_are_refused(server: Served, images, media: str) -> None:
    reply = server.ask("POST", "/v1/tag", images[0], {"content-type": media})
    assert (reply.status, reply.kind) == (415, "media_type")
    assert "image/jpeg" in reply.json["error"]["message"]


@pytest.mark.parametrize(
    "body", [b"", b"{", b"null", b"[]", b'"text"', b"\xff\xfe", b"[" * 100_000, b'{"images":' * 99]
)
@pytest.mark.parametrize("query", ["", "?top_k=1"])
def test_json_that_is_none(server: Served, body: bytes, query: str) -> None:
    for path in ("/v1/tag" + query, "/v1/match"):
        reply = server.ask("POST", path, body, {"content-type": "application/json"})
        assert (reply.status, reply.kind) == (422, "request"), reply.body


@pytest.mark.parametrize(
    "media",
    [
        "multipart/form-data",
        "multipart/form-data; boundary=",
        "multipart/form-data; boundary=other",
        "multipart/form-data; boundary=border; charset=nonsense",
        "multipart/form-data; boundary=" + "b" * 300,
    ],
)
@pytest.mark.parametrize(
    "body", [b"", b"nonsense", b"--border\r\n", b"--border\r\nno: colon\r\n\r\nx", b"--border--"]
)
def test_forms_that_are_none(server: Served, media: str, body: bytes) -> None:
    reply = server.ask("POST", "/v1/tag", body, {"content-type": media})
    assert reply.status in (400, 422)
    assert reply.kind in ("form", "request")


def test_a_form_with_too_many_fields(server: Served, images) -> None:
    fields = [part(f"field{i}", b"x") for i in range(20)]
    reply = server.upload("/v1/tag", *fields, part("image", images[0], "a"))
    assert (reply.status, reply.kind) == (400, "form")
    long = part("vocabulary", b"x" * (2 << 20))
    assert server.upload("/v1/tag", long, part("image", images[0], "a")).status == 400
    unknown = part("colour", b"red")
    reply = server.upload("/v1/tag", unknown, part("image", images[0], "a"))
    assert (reply.status, reply.kind) == (422, "request")


def test_limits_on_images_and_labels(engine: Engine, images) -> None:
    settings = Settings(max_images=2, max_inline_labels=3, max_pixels=2500)
    with served(engine, settings) as server:
        reply = server.post("/v1/tag", images=[text(images[1])] * 3)
        assert (reply.status, reply.kind) == (422, "request")
        assert "3 images are too many for a request: at most 2" in reply.json["error"]["message"]
        assert server.post("/v1/tag", images=[text(images[1])] * 2).status == 200
        reply = server.tag(images[1], "?labels=a,b,c,d")
        assert (reply.status, reply.kind) == (422, "labels")
        results = server.post("/v1/tag", images=[text(images[2]), text(images[1])]).json["results"]
        assert "too many pixels (90x33); at most 2,500" in results[0]["error"]
        assert results[1]["error"] is None
        limits = server.get("/v1/model").json["limits"]
        assert (limits["images"], limits["inline_labels"], limits["pixels"]) == (2, 3, 2500)


def test_a_file_name_is_given_back_and_never_used(server: Served, images) -> None:
    names = ["../../etc/passwd", "a\x00b.jpg", "ä\n.jpg", ""]
    for name in names:
        safe = name.replace("\n", " ")
        reply = server.upload("/v1/tag", part("image", images[0], safe))
        if safe:
            assert reply.json["results"][0]["name"] == safe
        else:
            assert reply.status in (200, 422)


def test_answers_are_plain_json(server: Served, images) -> None:
    reply = server.tag(images[0], "?labels=caf%C3%A9,%F0%9F%90%88")
    assert json.loads(reply.body.decode("utf-8")) == reply.json
    assert {"café", "🐈"} == {tag["label"] for tag in reply.json["results"][0]["tags"]}


def test_heic_is_tagged_or_named_with_the_remedy(
    server: Served, tagger: Tagger, monkeypatch
) -> None:
    pytest.importorskip("pi_heif", reason="the extra 'heif' (pi-heif) is not installed")
    image = (Path(__file__).parents[2] / "runtime/heic/turned.heic").read_bytes()
    reply = server.ask("POST", "/v1/tag", image, {"content-type": "image/heic"})
    check(reply.json["results"][0]["tags"], tagger.tag(image))
    monkeypatch.setitem(sys.modules, "pi_heif", None)
    refused = server.ask("POST", "/v1/tag", image, {"content-type": "image/heic"})
    assert (refused.status, refused.json["error"]["kind"]) == (422, "image")
    assert (
        "is a HEIC image. To read it, install: pip install 'ovml-deploy[heif]'; or convert"
        in (refused.json["error"]["message"])
    )
    raw = make_dng(Image.new("RGB", (64, 48)))
    refused = server.ask("POST", "/v1/tag", raw, {"content-type": "application/octet-stream"})
    assert "is a camera RAW file. Send a JPEG of it." in refused.json["error"]["message"]

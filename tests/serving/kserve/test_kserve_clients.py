"""tritonclient, as it is, against ``ovml-deploy serve``: it gets what the Tagger says."""

import base64
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http
from servers import Server, running_server
from triton_clients import MODEL, Triton, over_grpc, over_http, parameters_of
from tritonclient.utils import InferenceServerException

from ovml_deploy.runtime.images import open_image
from ovml_deploy.runtime.results import Tag
from ovml_deploy.runtime.tagger import Tagger

KEY = "0123456789abcdef"


@pytest.fixture(scope="module")
def server(tiny_bundle: Path) -> Iterator[Server]:
    with running_server(tiny_bundle, "--grpc-port", "0") as server:
        yield server


@pytest.fixture(params=["http", "grpc"])
def triton(request: pytest.FixtureRequest, server: Server) -> Iterator[Triton]:
    opened = over_http(server.url) if request.param == "http" else over_grpc(str(server.grpc))
    with opened as client:
        yield client


def check(found: Any, expected: Sequence[Sequence[Tag]], width: int) -> None:
    """Compare an answer with tags, and what fills it up with nothing."""
    labels, scores, queries = (found.as_numpy(name) for name in ("labels", "scores", "queries"))
    assert labels.shape == scores.shape == queries.shape == (len(expected), width)
    assert (scores.dtype, queries.dtype) == (np.float32, np.int32)
    for row, tags in enumerate(expected):
        more = width - len(tags)
        assert [*labels[row]] == [*(tag.label.encode() for tag in tags), *[b""] * more]
        assert [*queries[row]] == [*(tag.query for tag in tags), *[-1] * more]
        np.testing.assert_allclose(
            scores[row], [*(tag.score for tag in tags), *[0.0] * more], atol=1e-6, rtol=1e-5
        )


def preprocessed(tagger: Tagger, images: Sequence[bytes]) -> np.ndarray:
    preprocessing = tagger.engine.bundle.preprocessing
    return np.stack([preprocessing(open_image(image)) for image in images])


def test_images_get_the_taggers_tags(triton: Triton, tagger: Tagger, images) -> None:
    found = triton.infer(triton.images(images), top_k=3)
    check(found, [tagger.tag(image, top_k=3) for image in images], 3)
    assert [*found.as_numpy("errors")] == [b""] * len(images)
    assert found.as_numpy("features") is None
    told = parameters_of(found)
    assert told["vocabulary"] == "few"
    assert int(told["vocabulary_version"]) == 0
    assert told["vocabulary_id"] == tagger.vocabulary.id


def test_pixels_get_the_tags_of_their_images(triton: Triton, tagger: Tagger, images) -> None:
    found = triton.infer(triton.pixels(preprocessed(tagger, images)))
    check(found, [tagger.tag(image) for image in images], 5)


def test_a_bad_image_is_one_bad_item(triton: Triton, tagger: Tagger, images) -> None:
    sent = [images[0], b"no image\0\0", images[1], b"", images[2][:60]]
    found = triton.infer(triton.images(sent), ["errors", "labels", "scores", "queries"])
    good = {0: images[0], 2: images[1]}
    check(found, [tagger.tag(good[row]) if row in good else () for row in range(5)], 5)
    errors = [*found.as_numpy("errors")]
    assert [bool(error) for error in errors] == [False, True, False, True, True]
    assert b"not an image that can be read" in errors[1]


def test_a_vocabulary_by_its_name(triton: Triton, tagger: Tagger, images) -> None:
    others = tagger.make_vocabulary("others")
    found = triton.infer(triton.images(images), vocabulary="others", top_k=2)
    check(found, [tagger.tag(image, top_k=2, vocabulary=others) for image in images], 2)
    assert parameters_of(found)["vocabulary_id"] == others.id


def test_labels_of_the_request(triton: Triton, tagger: Tagger, images) -> None:
    words = tagger.make_vocabulary(("boat", "red car", "big cat"))
    found = triton.infer(triton.images(images), labels="boat, red car ,big cat")
    check(found, [tagger.tag(image, vocabulary=words) for image in images], 3)
    assert parameters_of(found)["vocabulary"] == "inline"


def test_a_threshold(triton: Triton, tagger: Tagger, images) -> None:
    """In text, too: this client's gRPC has no parameters with a fraction."""
    scores = sorted(tag.score for image in images for tag in tagger.tag(image))
    threshold = round(scores[len(scores) // 2], 3)
    given = str(threshold) if triton.over_grpc else threshold
    found = triton.infer(triton.images(images), threshold=given)
    expected = [tagger.tag(image, threshold=threshold) for image in images]
    assert 0 < sum(map(len, expected)) < 5 * len(images)
    check(found, expected, 5)


def test_only_what_was_asked_for_is_sent(triton: Triton, images) -> None:
    found = triton.infer(triton.images(images[:2]), ["scores"])
    response = found.get_response()
    outputs = response["outputs"] if isinstance(response, dict) else response.outputs
    assert len(outputs) == 1
    assert found.as_numpy("scores").shape == (2, 5)
    assert found.as_numpy("labels") is None


@pytest.mark.parametrize("kind", ["images", "pixels"])
def test_features(triton: Triton, tagger: Tagger, images, kind: str) -> None:
    """Alone they are of no vocabulary; an image that cannot be read has zeros."""
    expected = tagger.encode([open_image(image) for image in images])
    if kind == "images":
        given = triton.images([*images, b"no image"])
    else:
        given = triton.pixels(preprocessed(tagger, images))
    found = triton.infer(given, ["features"])
    features = found.as_numpy("features")
    np.testing.assert_allclose(features[: len(images)], expected, atol=1e-5, rtol=1e-4)
    assert not features[len(images) :].any()
    assert parameters_of(found) == {}
    both = triton.infer(triton.images(images[:1]), ["features", "labels"])
    np.testing.assert_allclose(both.as_numpy("features"), expected[:1], atol=1e-5, rtol=1e-4)
    assert both.as_numpy("labels")[0, 0].decode() == tagger.tag(images[0])[0].label


def test_json_instead_of_bytes(server: Server, tagger: Tagger, images) -> None:
    """Images are in base64 then, for JSON has texts only."""
    kind = tritonclient.http
    names = ("labels", "scores", "queries", "errors")
    outputs = [kind.InferRequestedOutput(name, binary_data=False) for name in names]
    encoded = kind.InferInput("image", [2], "BYTES")
    texts = [base64.b64encode(image).decode() for image in images[:2]]
    encoded.set_data_from_numpy(np.array(texts, dtype=object), binary_data=False)
    pixels = preprocessed(tagger, images[:2])
    numbers = kind.InferInput("pixels", pixels.shape, "UINT8")
    numbers.set_data_from_numpy(pixels, binary_data=False)
    with over_http(server.url) as triton:
        for given in (encoded, numbers):
            found = triton.client.infer(MODEL, [given], outputs=outputs)
            assert all("data" in output for output in found.get_response()["outputs"])
            for row, image in enumerate(images[:2]):
                tags = tagger.tag(image)
                assert [*found.as_numpy("labels")[row]] == [tag.label for tag in tags]
                scores = [tag.score for tag in tags]
                np.testing.assert_allclose(found.as_numpy("scores")[row], scores, atol=1e-6)


def test_what_the_server_and_the_model_are(triton: Triton, tagger: Tagger) -> None:
    more = {"as_json": True} if triton.over_grpc else {}
    told = triton.client.get_server_metadata(**more)
    assert told["name"] == "ovml-deploy"
    model = triton.client.get_model_metadata(MODEL, **more)
    assert (model["name"], model["versions"]) == (MODEL, ["1"])
    shapes = {
        tensor["name"]: (tensor["datatype"], [int(size) for size in tensor["shape"]])
        for tensor in (*model["inputs"], *model["outputs"])
    }
    bundle = tagger.engine.bundle
    height, width = bundle.preprocessing.size
    assert shapes == {
        "image": ("BYTES", [-1]),
        "pixels": ("UINT8", [-1, height, width, 3]),
        "labels": ("BYTES", [-1, -1]),
        "scores": ("FP32", [-1, -1]),
        "queries": ("INT32", [-1, -1]),
        "errors": ("BYTES", [-1]),
        "features": ("FP32", [-1, bundle.features_per_image, bundle.embed_dim]),
    }


def test_health(triton: Triton) -> None:
    assert triton.client.is_server_live()
    assert triton.client.is_server_ready()
    assert triton.client.is_model_ready(MODEL)
    assert triton.client.is_model_ready(MODEL, "1")


def test_versions_and_ids(triton: Triton, tagger: Tagger, images) -> None:
    given = [triton.images(images[:1])]
    found = triton.client.infer(MODEL, given, model_version="1", request_id="it is mine")
    check(found, [tagger.tag(images[0])], 5)
    response = found.get_response()
    told = response if isinstance(response, dict) else {"id": response.id}
    assert told["id"] == "it is mine"


@pytest.mark.parametrize(
    ("change", "text", "status", "code"),
    [
        ({"model_name": "others"}, "no model 'others'", 404, "NOT_FOUND"),
        ({"model_version": "2"}, "of version '2'", 404, "NOT_FOUND"),
        ({"parameters": {"vocabulary": "nothing"}}, "'nothing'", 404, "NOT_FOUND"),
        ({"parameters": {"top_k": 0}}, "top_k", 422, "INVALID_ARGUMENT"),
        ({"parameters": {"threshold": "nan"}}, "threshold", 422, "INVALID_ARGUMENT"),
        ({"parameters": {"treshold": "0.5"}}, "'treshold'", 422, "INVALID_ARGUMENT"),
        ({"parameters": {"labels": " , "}}, "labels", 422, "INVALID_ARGUMENT"),
        ({"outputs": "nonsense"}, "no output 'nonsense'", 422, "INVALID_ARGUMENT"),
        ({"inputs": ("picture", [1], "BYTES")}, "no input 'picture'", 422, "INVALID_ARGUMENT"),
        ({"inputs": ("image", [1, 1], "BYTES")}, "of shape [-1]", 422, "INVALID_ARGUMENT"),
        ({"inputs": ("pixels", [1, 8, 8, 3], "UINT8")}, "[1, 8, 8, 3]", 422, "INVALID_ARGUMENT"),
        ({"inputs": ("pixels", [2, 8], "FP32")}, "'FP32' came", 422, "INVALID_ARGUMENT"),
        (
            {"inputs": ("image", [1000], "BYTES")},
            "1000 images are too many",
            422,
            "INVALID_ARGUMENT",
        ),
    ],
)
def test_errors_say_what_was_wrong(
    triton: Triton, images, change: dict[str, Any], text: str, status: int, code: str
) -> None:
    asked: dict[str, Any] = {"model_name": MODEL, "inputs": [triton.images(images[:1])], **change}
    if "outputs" in change:
        asked["outputs"] = [triton.kind.InferRequestedOutput(change["outputs"])]
    if "inputs" in change:
        name, shape, datatype = change["inputs"]
        dtypes = {"BYTES": np.object_, "UINT8": np.uint8, "FP32": np.float32}
        given = triton.kind.InferInput(name, shape, datatype)
        fill = b"x" if datatype == "BYTES" else 0
        given.set_data_from_numpy(np.full(shape, fill, dtype=dtypes[datatype]))
        asked["inputs"] = [given]
    with pytest.raises(InferenceServerException) as raised:
        triton.client.infer(**asked)
    assert text in raised.value.message()
    expected = f"StatusCode.{code}" if triton.over_grpc else str(status)
    assert raised.value.status() == expected


def test_two_inputs_are_one_too_many(triton: Triton, tagger: Tagger, images) -> None:
    both = [triton.images(images[:1]), triton.pixels(preprocessed(tagger, images[:1]))]
    with pytest.raises(InferenceServerException, match="Send one input"):
        triton.client.infer(MODEL, both)


def test_many_at_once_get_their_own(triton: Triton, tagger: Tagger, images) -> None:
    expected = [tagger.tag(image) for image in images]
    rows = [index % len(images) for index in range(24)]
    found = triton.at_once([triton.images([images[row]]) for row in rows])
    for row, answer in zip(rows, found, strict=True):
        check(answer, [expected[row]], 5)


def test_the_key_and_the_end(tiny_bundle: Path, images) -> None:
    """Probes need no key; the server ends well with clients still connected."""
    with running_server(tiny_bundle, "--grpc-port", "0", env={"OVML_API_KEY": KEY}) as server:
        for opened in (over_http, over_grpc):
            where = server.url if opened is over_http else str(server.grpc)
            for headers in (None, {"authorization": "Bearer wrong"}, {"authorization": KEY}):
                with opened(where, headers) as triton:
                    assert triton.client.is_server_ready()
                    with pytest.raises(InferenceServerException, match="needs the API key") as no:
                        triton.infer(triton.images(images[:1]))
                    assert no.value.status() in ("401", "StatusCode.UNAUTHENTICATED")
            for headers in ({"authorization": f"Bearer {KEY}"}, {"x-api-key": KEY}):
                with opened(where, headers) as triton:
                    assert triton.infer(triton.images(images[:1])).as_numpy("labels")[0, 0]
        with over_grpc(str(server.grpc)) as triton:
            assert triton.client.is_server_live()
            server.process.send_signal(signal.SIGTERM)
            assert server.process.wait(60) == 0
        assert server.events("drained")
        assert not [e for e in server.events() if e["level"] in ("error", "critical")]

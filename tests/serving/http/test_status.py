"""Whether the server lives, is ready, what it tags with, and what it counted."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from http_client import part
from in_process import Held, Served, served, until
from prometheus_client.parser import text_string_to_metric_families

from ovml_deploy import __version__
from ovml_deploy.errors import DeviceError
from ovml_deploy.runtime.engine import Engine


def scraped(server: Served) -> dict[tuple[str, ...], float]:
    """All samples by their name and the values of their labels."""
    reply = server.get("/metrics")
    assert reply.headers["content-type"].startswith("text/plain; version=0.0.4")
    families = text_string_to_metric_families(reply.body.decode())
    samples = [sample for family in families for sample in family.samples]
    return {(s.name, *(s.labels[k] for k in sorted(s.labels))): s.value for s in samples}


def test_alive(server: Served) -> None:
    reply = server.get("/healthz")
    assert (reply.status, reply.json) == (200, {"ok": True, "reason": None})


def test_ready_means_that_an_image_went_through_the_engine(held: Held) -> None:
    with served(held) as server, ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(server.get, "/readyz") for _ in range(4)]
        until(lambda: held.batches)
        assert not any(future.done() for future in asked)
        assert server.get("/healthz").status == 200
        held.open.set()
        for future in asked:
            reply = future.result()
            assert (reply.status, reply.json) == (200, {"ok": True, "reason": None})
        assert held.batches == [1]  # one for all


def test_not_ready_while_the_engine_fails_or_errs(
    held: Held, engine: Engine, monkeypatch, caplog: pytest.LogCaptureFixture
) -> None:
    held.open.set()
    monkeypatch.setattr("ovml_deploy.serving.canary._FRESH", 0.0)
    with served(held) as server:
        held.error = DeviceError("failure 700 at /opt/secret")
        reply = server.get("/readyz")
        assert (reply.status, reply.json["ok"]) == (503, False)
        assert "log says why" in reply.json["reason"]  # what the engine said is for its owner alone
        assert "secret" not in reply.json["reason"]
        assert "failure 700 at /opt/secret" in caplog.text
        held.error = None
        until(lambda: server.get("/readyz").status == 200)
        held.encode = lambda pixels: np.asarray(engine.encode(pixels)) * 1.5  # type: ignore[method-assign]
        reply = server.get("/readyz")
        assert reply.status == 503
        assert "answer is wrong" in reply.json["reason"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_no_green_light_over_a_dead_engine(held: Held, images) -> None:
    died = threading.Event()
    held.open.set()
    with served(held, died=died.set) as server:
        assert server.get("/readyz").status == 200
        held.error = MemoryError("no more")
        reply = server.tag(images[0])
        assert (reply.status, reply.kind) == (503, "engine")
        assert died.wait(60)
        held.error = None
        reply = server.get("/readyz")
        assert (reply.status, reply.json) == (
            503,
            {"ok": False, "reason": "The engine has stopped."},
        )
        assert server.tag(images[0]).status == 503
        assert server.get("/healthz").status == 200  # the process is for others to end


def test_not_ready_while_it_stops(server: Served) -> None:
    server.service.stopping = True
    try:
        reply = server.get("/readyz")
        assert (reply.status, reply.json["reason"]) == (503, "The server stops.")
        tagged = server.tag(b"")
        assert (tagged.status, tagged.kind) == (503, "stopping")
        assert tagged.headers["retry-after"] == "1"
    finally:
        server.service.stopping = False
    assert server.get("/readyz").status == 200


def test_metrics_move_as_they_should(engine: Engine, images) -> None:
    with served(engine) as server:
        before = scraped(server)
        assert before["ovml_images_total",] == 0
        server.tag(images[0])
        server.upload("/v1/encode", *(part("image", image, "a") for image in images[:3]))
        server.tag(b"no image")
        server.tag(images[0], "?vocabulary=unknown")
        server.tag(images[0], "?labels=boat")
        server.get("/nothing")
        after = scraped(server)
    assert after["ovml_images_total",] == 5
    assert after["ovml_requests_total", "/v1/tag", "200"] == 2
    assert after["ovml_requests_total", "/v1/tag", "404"] == 1
    assert after["ovml_requests_total", "/v1/tag", "422"] == 1
    assert after["ovml_requests_total", "/v1/encode", "200"] == 1
    assert after["ovml_requests_total", "other", "404"] == 1
    assert after["ovml_request_seconds_count", "/v1/tag"] == 4
    assert after["ovml_errors_total", "unknown_vocabulary"] == 1
    assert after["ovml_errors_total", "not_found"] == 1
    assert after["ovml_errors_total", "image"] == 1  # not again for the request
    assert after["ovml_batch_size_sum",] == 5
    assert 3 <= after["ovml_batch_size_count",] <= 5
    assert after["ovml_queue_seconds_count",] == 5
    stages = {"decode": 5, "embed": 1, "select": 2, "match": 0, "read": 5}
    for stage, count in stages.items():
        assert after["ovml_stage_seconds_count", stage] == count, stage
    assert after["ovml_stage_seconds_count", "encode_and_match"] == after["ovml_batch_size_count",]
    assert after["ovml_images_inside",] == after["ovml_queue_images",] == 0
    few = engine.bundle.default_vocabulary
    known = [key for key in after if key[0] == "ovml_vocabulary_labels"]
    assert {(key[3], key[1]) for key in known} == {(few, "true"), ("others", "false")}
    assert after["process_resident_memory_bytes",] > 0


def test_metrics_do_not_grow_with_what_strangers_ask(server: Served) -> None:
    sizes = []
    for number in range(5):
        server.get(f"/nothing/{number}")
        server.get(f"/v1/vocabularies/none{number}")
        server.ask(f"WORD{number}", "/v1/tag")
        sizes.append(scraped(server).keys())
    assert sizes[-1] == sizes[1]  # the first is not there while it is asked for


def test_the_model(server: Served, engine: Engine) -> None:
    bundle = engine.bundle
    answer = server.get("/v1/model").json
    assert answer["name"] == bundle.path.name
    assert answer["version"] == __version__
    assert answer["model"] == bundle.model_hash
    assert answer["features"] == [bundle.features_per_image, bundle.embed_dim]
    assert answer["image_size"] == list(bundle.preprocessing.size)
    assert answer["resize_mode"] == bundle.preprocessing.resize_mode
    assert (answer["vocabulary"], answer["head"], answer["precision"]) == ("few", "qks", "fp32")
    assert str(bundle.path.parent) not in str(answer)
    assert answer["limits"]["body_bytes"] == server.service.settings.max_body

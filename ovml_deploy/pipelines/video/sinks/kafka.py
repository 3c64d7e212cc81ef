"""Kafka: events as they happen, kept in a topic for programs that read it when they like."""

import json
import os
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from ovml_deploy.errors import MissingDependencyError, UsageError
from ovml_deploy.pipelines.video.outputs import as_json
from ovml_deploy.pipelines.video.records import Event, FrameResult, VideoError

PASSWORD = "OVML_KAFKA_PASSWORD"

_MOST_QUEUED = 10_000


class KafkaSink:
    """Appends results as JSON to a topic of Kafka, or of what speaks its protocol.

    A message's key is its source, so that one camera's messages stay in order. They are delivered
    once and in order (an idempotent producer); while the brokers are away up to 10,000 wait, and
    ``dropped`` counts others.
    """

    def __init__(self, url: str, timeout: float = 10.0) -> None:
        """``url``: kafka://[user@]host[:port][,host[:port]...]/topic[?setting=value&...].

        Settings are librdkafka's (``security.protocol=SASL_SSL``); a user's password is in
        OVML_KAFKA_PASSWORD. Raises UsageError, MissingDependencyError, VideoError where no broker
        answers or the topic cannot be written.
        """
        kafka = _require_confluent()
        settings, self._topic = _settings(url)
        self.dropped = 0
        self._timeout = timeout
        self._reason, self._refused = "", kafka.KafkaException
        try:
            self._producer = kafka.Producer(settings | {"error_cb": self._note})
        except (kafka.KafkaException, ValueError, TypeError) as error:
            raise UsageError(f"{url!r}: {_text(error)}") from error
        try:
            topics = self._producer.list_topics(self._topic, timeout).topics
        except kafka.KafkaException as error:
            self._producer.poll(0)  # says why it could not connect
            reason = self._reason or _text(error)
            where = settings["bootstrap.servers"]
            raise VideoError(f"No Kafka broker takes us at {where}: {reason}") from error
        refusal = topics[self._topic].error
        # a broker that makes topics does so when it is first asked for one, and says this meanwhile
        if refusal is not None and not refusal.retriable():
            raise VideoError(f"The Kafka topic {self._topic!r} cannot be written: {refusal.str()}")

    def write(self, record: Event | FrameResult, epoch: float | None = None) -> None:
        """Append a result, without waiting for the broker."""
        text = json.dumps(as_json(record, epoch), ensure_ascii=False)
        try:
            self._producer.produce(self._topic, text, record.source, on_delivery=self._delivered)
        except (BufferError, self._refused):  # too many wait, or it is longer than brokers take
            self.dropped += 1
        self._producer.poll(0)

    def close(self) -> None:
        """Wait for what is under way, as long as a broker is given to answer."""
        self.dropped += self._producer.flush(self._timeout)

    def _delivered(self, error: Any, message: Any) -> None:
        self.dropped += error is not None

    def _note(self, error: Any) -> None:
        if error.name() != "_ALL_BROKERS_DOWN":  # which follows from what was said before
            self._reason = error.str()


def _settings(url: str) -> tuple[dict[str, Any], str]:
    """Return the settings of a producer, and its topic. Raises UsageError."""
    parts = urlsplit(url)
    topic = unquote(parts.path.strip("/"))
    user, _, hosts = parts.netloc.rpartition("@")
    if parts.scheme != "kafka" or not hosts or not topic or "/" in topic or parts.fragment:
        raise UsageError(f"{url!r} is no topic. Write kafka://HOST:PORT/TOPIC.")
    name, _, password = user.partition(":")
    settings: dict[str, Any] = {
        "bootstrap.servers": hosts,
        "client.id": "ovml-deploy",
        "enable.idempotence": True,
        "message.timeout.ms": 0,  # a message waits until the brokers are back
        "queue.buffering.max.messages": _MOST_QUEUED,
        "enable.metrics.push": False,  # or the client sends its own metrics to brokers that ask
        "log_level": 0,  # what goes wrong is told by exceptions and counts
    }
    if name:
        settings |= {
            "security.protocol": "SASL_SSL",
            "sasl.mechanism": "SCRAM-SHA-512",
            "sasl.username": unquote(name),
            "sasl.password": os.environ.get(PASSWORD, unquote(password)),
        }
    return settings | dict(parse_qsl(parts.query)), topic


def _text(error: Exception) -> str:
    """What an exception of the client says: it carries an error in its first argument."""
    cause = error.args[0] if error.args else error
    return cause.str() if hasattr(cause, "str") else str(cause)


def _require_confluent() -> Any:
    try:
        import confluent_kafka
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            "This needs the package 'confluent-kafka'. Install it: pip install 'ovml-deploy[kafka]'"
        ) from error
    return confluent_kafka

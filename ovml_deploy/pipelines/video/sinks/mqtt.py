"""MQTT: events as they happen, for programs that listen to a broker."""

import json
import os
from threading import Condition
from threading import Event as Signal
from typing import Any
from urllib.parse import unquote, urlsplit

from ovml_deploy.errors import MissingDependencyError, UsageError
from ovml_deploy.pipelines.video.outputs import as_json
from ovml_deploy.pipelines.video.records import Event, FrameResult, VideoError

PASSWORD = "OVML_MQTT_PASSWORD"

_MOST_QUEUED = 10_000
_AT_LEAST_ONCE = 1
_NOT_CONNECTED = 4  # just now, so the message waits


class MqttSink:
    """Publishes results as JSON under a topic: ``.../begin``, ``.../event``, ``.../frame``.

    ``.../status`` (retained) is "online", and "offline" once the connection is gone. Messages are
    delivered at least once; while the broker is away up to 10,000 wait, and ``dropped`` counts others.
    """

    def __init__(self, url: str, timeout: float = 10.0) -> None:
        """``url``: mqtt://[user@]host[:port]/topic (mqtts:// with TLS; password: OVML_MQTT_PASSWORD).

        Raises UsageError, VideoError where no broker takes us, MissingDependencyError.
        """
        mqtt = _require_paho()
        parts = urlsplit(url)
        topic = unquote(parts.path.strip("/"))
        if parts.scheme not in ("mqtt", "mqtts") or not parts.hostname or not topic:
            raise UsageError(
                f"{url!r} is no broker. Write mqtt://HOST/TOPIC or mqtts://HOST/TOPIC."
            )
        if "#" in topic or "+" in topic or parts.fragment:
            raise UsageError(f"{url!r}: a topic that is published to has no '#' and no '+'.")
        self.dropped = 0
        self._topic, self._timeout = topic, timeout
        self._changed = Condition()
        self._under_way: set[int] = set()  # messages by number, until the broker has them
        self._early: set[int] = set()
        self._answer = Signal()
        self._refusal: str | None = None
        self._client = client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
        client.max_queued_messages_set(_MOST_QUEUED)
        client.will_set(f"{topic}/status", "offline", _AT_LEAST_ONCE, retain=True)
        client.on_connect = self._connected
        client.on_publish = self._published
        if parts.username:
            password = os.environ.get(PASSWORD, parts.password or "")
            client.username_pw_set(unquote(parts.username), unquote(password))
        if parts.scheme == "mqtts":
            client.tls_set()
        where = f"{parts.hostname}:{parts.port or (8883 if parts.scheme == 'mqtts' else 1883)}"
        try:
            client.connect(parts.hostname, int(where.rsplit(":", 1)[1]))
        except OSError as error:
            raise VideoError(f"No MQTT broker answers at {where} ({error}).") from error
        client.loop_start()
        if not self._answer.wait(timeout) or self._refusal is not None:
            client.loop_stop()
            reason = self._refusal or f"no answer in {timeout:g} s"
            raise VideoError(f"The MQTT broker at {where} does not take us: {reason}.")

    def write(self, record: Event | FrameResult, epoch: float | None = None) -> None:
        """Publish a result, without waiting for the broker."""
        message = as_json(record, epoch)
        text = json.dumps(message, ensure_ascii=False)
        self._publish(message["type"], text)

    def close(self) -> None:
        """Wait for what is under way, as long as a broker is given to answer, and say good-bye."""
        self._publish("status", "offline", retain=True)
        with self._changed:
            self._changed.wait_for(lambda: not self._under_way, self._timeout)
            self.dropped += len(self._under_way)
        self._client.disconnect()
        self._client.loop_stop()

    def _publish(self, kind: str, text: str, retain: bool = False) -> None:
        info = self._client.publish(f"{self._topic}/{kind}", text, _AT_LEAST_ONCE, retain)
        with self._changed:
            if info.rc not in (0, _NOT_CONNECTED):
                self.dropped += 1
            elif info.mid in self._early:
                self._early.discard(info.mid)
            else:
                self._under_way.add(info.mid)

    def _published(
        self, client: Any, userdata: Any, mid: int, reason: Any, properties: Any
    ) -> None:
        with self._changed:
            if mid not in self._under_way:  # it was quicker than we are
                self._early.add(mid)
            self._under_way.discard(mid)
            self._changed.notify_all()

    def _connected(
        self, client: Any, userdata: Any, flags: Any, reason: Any, properties: Any
    ) -> None:
        if reason.is_failure:
            self._refusal = str(reason)
        else:
            self._publish("status", "online", retain=True)
        self._answer.set()


def _require_paho() -> Any:
    try:
        import paho.mqtt.client
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            "This needs the package 'paho-mqtt'. Install it: pip install 'ovml-deploy[mqtt]'"
        ) from error
    return paho.mqtt.client

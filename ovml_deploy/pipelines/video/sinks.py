"""MQTT: events as they happen, for programs that listen to a broker."""

import json
import os
import time
from collections import deque
from contextlib import suppress
from threading import Event as Signal
from typing import Any
from urllib.parse import unquote, urlsplit

from ovml_deploy.errors import MissingDependencyError, UsageError
from ovml_deploy.pipelines.video.outputs import as_json
from ovml_deploy.pipelines.video.records import Event, FrameResult, VideoError

PASSWORD = "OVML_MQTT_PASSWORD"

_MOST_QUEUED = 10_000
_AT_LEAST_ONCE = 1


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
        self._sent: deque[Any] = deque()
        self._answer = Signal()
        self._refusal: str | None = None
        client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
        client.max_queued_messages_set(_MOST_QUEUED)
        client.will_set(f"{topic}/status", "offline", _AT_LEAST_ONCE, retain=True)
        client.on_connect = self._connected
        if parts.username:
            password = os.environ.get(PASSWORD, parts.password or "")
            client.username_pw_set(unquote(parts.username), unquote(password))
        if parts.scheme == "mqtts":
            client.tls_set()
        self._client = client
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
        info = self._client.publish(f"{self._topic}/{message['type']}", text, _AT_LEAST_ONCE)
        if info.rc not in (0, 4):  # 4: not connected just now, so it waits
            self.dropped += 1
            return
        self._sent.append(info)
        while self._sent and self._sent[0].is_published():
            self._sent.popleft()

    def close(self) -> None:
        """Wait for what is under way, as long as a broker is given to answer, and say good-bye."""
        self._client.publish(f"{self._topic}/status", "offline", _AT_LEAST_ONCE, retain=True)
        end = time.monotonic() + self._timeout
        for info in self._sent:
            with suppress(RuntimeError, ValueError):
                info.wait_for_publish(max(0.0, end - time.monotonic()))
        self.dropped += sum(not info.is_published() for info in self._sent)
        self._sent.clear()
        self._client.disconnect()
        self._client.loop_stop()

    def _connected(
        self, client: Any, userdata: Any, flags: Any, reason: Any, properties: Any
    ) -> None:
        if reason.is_failure:
            self._refusal = str(reason)
        else:
            client.publish(f"{self._topic}/status", "online", _AT_LEAST_ONCE, retain=True)
        self._answer.set()


def _require_paho() -> Any:
    try:
        import paho.mqtt.client
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            "This needs the package 'paho-mqtt'. Install it: pip install 'ovml-deploy[mqtt]'"
        ) from error
    return paho.mqtt.client

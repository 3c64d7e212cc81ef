"""Events through a real broker: Debian's mosquitto."""

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue

import pytest
from films import free_port

from ovml_deploy.errors import UsageError
from ovml_deploy.pipelines.video.records import Event, VideoError
from ovml_deploy.pipelines.video.sinks import MqttSink

pytest.importorskip("paho.mqtt.client", reason="the extra 'mqtt' (paho-mqtt) is not installed")

MOSQUITTO = shutil.which("mosquitto", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
pytestmark = pytest.mark.skipif(MOSQUITTO is None, reason="Debian's mosquitto is not installed")

CAT = Event("cat", 1.0, 3.5, 0.9, 0.8, 5, "v1", "camera")


class Broker:
    def __init__(self, folder: Path, secret: bool = False) -> None:
        self.port, self._folder = free_port(), folder
        settings = [
            f"listener {self.port} 127.0.0.1",
            "log_dest none",
            "user root",
        ]  # not another one
        settings.append(f"allow_anonymous {'false' if secret else 'true'}")
        if secret:
            passwords = folder / "passwords"
            maker = [shutil.which("mosquitto_passwd") or "/usr/bin/mosquitto_passwd", "-b", "-c"]
            subprocess.run([*maker, str(passwords), "hall", "pass word"], check=True)
            settings.append(f"password_file {passwords}")
        (folder / "broker.conf").write_text("\n".join(settings) + "\n")
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen([MOSQUITTO, "-c", str(self._folder / "broker.conf")])
        for _ in range(600):
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                time.sleep(0.1)
        raise AssertionError("the broker did not start")

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(60)


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    broker = Broker(tmp_path)
    yield broker
    broker.stop()


@pytest.fixture
def heard(broker: Broker) -> Iterator[SimpleQueue]:
    """What another program hears: (topic, text)."""
    from paho.mqtt.client import CallbackAPIVersion, Client

    messages: SimpleQueue = SimpleQueue()
    client = Client(CallbackAPIVersion.VERSION2)
    client.on_connect = lambda *_: client.subscribe("#", 1)
    client.on_subscribe = lambda *_: messages.put(("subscribed", ""))
    client.on_message = lambda *args: messages.put((args[-1].topic, args[-1].payload.decode()))
    client.connect("127.0.0.1", broker.port)
    client.loop_start()
    assert messages.get(timeout=60) == ("subscribed", "")
    yield messages
    client.disconnect()
    client.loop_stop()


def test_events_arrive_as_they_happen(broker: Broker, heard: SimpleQueue) -> None:
    sink = MqttSink(f"mqtt://127.0.0.1:{broker.port}/hall/camera%201")
    assert heard.get(timeout=60) == ("hall/camera 1/status", "online")
    sink.write(Event("cat", 1.0, 1.5, 0.7, 0.7, 1, "v1", "camera", ongoing=True))
    topic, text = heard.get(timeout=60)
    assert topic == "hall/camera 1/begin"
    assert json.loads(text)["label"] == "cat"
    sink.write(CAT, epoch=0.0)
    topic, text = heard.get(timeout=60)
    told = json.loads(text)
    assert topic == "hall/camera 1/event"
    assert (told["start"], told["end"], told["end_at"]) == (1, 3.5, "1970-01-01T00:00:03.500+00:00")
    sink.close()
    assert heard.get(timeout=60) == ("hall/camera 1/status", "offline")
    assert sink.dropped == 0


def test_what_happens_while_the_broker_is_away_is_told_later(tmp_path: Path) -> None:
    from paho.mqtt import subscribe

    broker = Broker(tmp_path)
    try:
        sink = MqttSink(f"mqtt://127.0.0.1:{broker.port}/hall", timeout=60)
        broker.stop()
        sink.write(CAT)
        broker.start()
        # whoever comes in time hears it; the retained status says that we are back
        message = subscribe.simple("hall/status", hostname="127.0.0.1", port=broker.port)
        assert message.payload == b"online"
        sink.close()
        assert sink.dropped == 0
    finally:
        broker.stop()


def test_a_broker_that_wants_a_password(tmp_path: Path, monkeypatch) -> None:
    broker = Broker(tmp_path, secret=True)
    try:
        url = f"mqtt://hall@127.0.0.1:{broker.port}/hall"
        monkeypatch.setenv("OVML_MQTT_PASSWORD", "pass word")
        MqttSink(url, timeout=60).close()
        monkeypatch.setenv("OVML_MQTT_PASSWORD", "another")
        with pytest.raises(VideoError, match="does not take us"):
            MqttSink(url, timeout=60)
    finally:
        broker.stop()


def test_addresses_that_are_none(tmp_path: Path) -> None:
    for url in ("mqtt://host", "http://host/topic", "mqtt:///topic", "mqtt://host/a%23"):
        with pytest.raises(UsageError):
            MqttSink(url)
    with pytest.raises(VideoError, match="No MQTT broker answers"):
        MqttSink(f"mqtt://127.0.0.1:{free_port()}/hall")

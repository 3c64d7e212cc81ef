"""The benchmark of hostile inputs, on fewer of them; and that it sees what it looks for."""

import socket
import sys
import threading
from pathlib import Path
from types import ModuleType

import pytest
from servers import running_server

from ovml_deploy.runtime.tagger import Tagger

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
INPUTS = 300


@pytest.fixture
def hostile(monkeypatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import hostile

    return hostile


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_hostile_inputs(hostile: ModuleType, tiny_bundle: Path, tagger: Tagger, images) -> None:
    expected = {image: tagger.tag(image) for image in images}
    name = tagger.vocabulary.name
    with running_server(tiny_bundle, "--device", "cpu") as server:
        report = hostile.abuse(server.url, server.process.pid, expected, name, INPUTS, seed=1)
        assert server.process.poll() is None
        problems = [e for e in server.events() if e["level"] in ("error", "critical")]
        assert not problems, problems[:3]
        outside = [line for line in server.log.splitlines() if "Traceback" in line]
        assert not outside
    assert report.faults == []
    assert report.tagged == INPUTS // 5 + 2
    assert report.inputs >= INPUTS
    assert len({kind for kind, _ in report.answers}) == 20
    assert {answer for _, answer in report.answers} >= {"200", "400", "403", "413", "422"}
    assert report.peak < 2e9  # a bomb that went off would need more


@pytest.mark.parametrize(
    ("answer", "seen"),
    [
        (b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\n\r\n", "500"),
        (b"HTTP/1.1 200 OK\r\n\r\n", "200"),
        (b"", "closed"),
    ],
)
def test_it_sees_how_a_server_answers(hostile: ModuleType, answer: bytes, seen: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            line, _ = listener.accept()
            with line:
                line.recv(100)
                line.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        sent = hostile.Input("any", (b"GET / HTTP/1.1\r\n\r\n",))
        assert hostile.play(listener.getsockname(), sent) == [seen]
        thread.join()
        address = listener.getsockname()
    assert hostile.play(address, sent) == ["refused"]


def test_inputs_are_the_same_for_the_same_seed(hostile: ModuleType, images) -> None:
    one, two, other = (
        hostile.make_inputs(100, seed, "localhost", images, ["few"]) for seed in (1, 1, 2)
    )
    assert one == two != other
    assert len(one) == 100

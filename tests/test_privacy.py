"""Nothing leaves the machine unasked, and files are written only where docs/privacy.md says."""

import re
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from http_client import Client
from servers import running_server
from shell import ROOT
from watched import Watch, strace_works

from ovml_deploy import assets

COMMAND = str(Path(sys.executable).parent / "ovml-deploy")
CAT = next(path for path in assets.sample_photographs() if path.stem == "cat")
BY = ["strace", "hook"]

needs_mini = pytest.mark.skipif(
    not (assets.MINI / "bundle.json").exists(), reason="the embedded model is not built"
)
needs_strace = pytest.mark.skipif(
    not strace_works(), reason="Debian's strace is not installed, or may not trace"
)


@pytest.fixture
def watch(tmp_path: Path) -> Callable[..., Watch]:
    """A function (program, by, **variables) -> Watch, by the best means that this machine has."""

    def make(program: str | Path = COMMAND, by: str | None = None, **variables: str) -> Watch:
        best = "strace" if strace_works() else "hook"
        return Watch(tmp_path / "watched", str(program), by or best, variables)

    return make


@needs_mini
@pytest.mark.parametrize(
    ("arguments", "output"),
    [
        (
            ("tag", CAT, "--labels", "cat", "--device", "openvino", "--precision", "fp32"),
            "cat 1.00",
        ),
        (("doctor",), "verdict"),
        (("index", CAT, "--out", "archive", "--device", "cpu"), "1 images added"),
    ],
    ids=["tag", "doctor", "index"],
)
def test_a_command_stays_on_the_machine(
    watch: Callable[..., Watch], arguments: tuple[object, ...], output: str
) -> None:
    watched = watch()
    done = watched.run(*arguments)
    assert output in done.stdout + done.stderr
    assert watched.violations(watched.home / ".nv") == []  # CUDA's own cache, where there is a GPU


@needs_mini
def test_tag_video_stays_on_the_machine(watch: Callable[..., Watch], short_film: Path) -> None:
    watched = watch()
    done = watched.run("tag-video", short_film, "--labels", "cat", "--device", "cpu")
    assert done.returncode == 0, done.stderr
    assert watched.violations() == []


@needs_mini
def test_a_server_with_a_request_stays_on_the_machine(watch: Callable[..., Watch]) -> None:
    watched = watch(sys.executable)
    state, options = str(watched.out / "state"), ("--device", "cpu")
    with running_server(
        assets.MINI, "--state", state, *options, python=str(watched.script)
    ) as server:
        reply = Client(server.url).tag(CAT.read_bytes(), "?labels=cat,dog")
    assert reply.status == 200, reply.body
    assert watched.violations() == []


@needs_mini
@needs_strace
@pytest.mark.parametrize("device", ["openvino", "cpu"])
def test_tag_image_stays_on_the_machine(watch: Callable[..., Watch], device: str) -> None:
    from cpp import built, require_onnxruntime

    if device == "cpu":
        require_onnxruntime()
    watched = watch(built() / "tag_image")
    done = watched.run("--bundle", assets.MINI, "--device", device, CAT)
    assert "cat" in done.stdout, done.stderr
    assert watched.violations() == []


@needs_mini
@needs_strace
def test_ovmltag_stays_on_the_machine(watch: Callable[..., Watch], short_film: Path) -> None:
    """GStreamer itself keeps a registry of its plugins in the cache of the user."""
    from cpp import require_onnxruntime
    from gstreamer import plugin

    require_onnxruntime()
    watched = watch("gst-launch-1.0", GST_PLUGIN_PATH=str(plugin()))
    tagger = ["ovmltag", f"bundle={assets.MINI}", "device=cpu", "labels=cat"]
    pipeline = [
        "filesrc",
        f"location={short_film}",
        "!",
        "decodebin",
        "!",
        *tagger,
        "!",
        "fakesink",
    ]
    done = watched.run("-m", *pipeline)
    assert "labels=(string)< cat >" in done.stdout, done.stderr
    assert watched.violations(watched.home / ".cache" / "gstreamer-1.0") == []


@pytest.fixture(scope="module")
def short_film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("av", reason="the extra 'video' (av) is not installed")
    from films import film

    return film(tmp_path_factory.mktemp("privacy") / "film.mp4", [("cat", 1)], rate=5)


@pytest.fixture(params=BY)
def by(request: pytest.FixtureRequest) -> str:
    if request.param == "strace" and not strace_works():
        pytest.skip("Debian's strace is not installed, or may not trace")
    return str(request.param)


@pytest.mark.parametrize(
    ("code", "violation"),
    [
        ("socket.getaddrinfo('nobody.invalid', 443)", r"looked up .*(nobody\.invalid|resolv\.conf)"),
        ("socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('192.0.2.1', 9))", "spoke to 192.0.2.1"),
        ("socket.socket(type=socket.SOCK_DGRAM).connect(('192.0.2.1', 9))", "spoke to 192.0.2.1"),
        ("socket.socket().bind(('0.0.0.0', 0))", "spoke to 0.0.0.0"),
        ("(Path.home() / 'id').write_text('1')", "wrote .*/home/id"),
        ("(Path.home() / 'intel').mkdir()", "wrote .*/home/intel"),
        ("open('kept', 'w').close(); os.rename('kept', Path.home() / 'id')", "wrote .*/home/id"),
        ("(os.fork() or (Path.home() / 'id').write_text('1'))", "wrote .*/home/id"),
    ],
)  # fmt: skip
def test_the_watch_reports_what_is_forbidden(
    watch: Callable[..., Watch], by: str, code: str, violation: str
) -> None:
    watched = watch(sys.executable, by)
    watched.run(
        "-c", f"import os, socket; from pathlib import Path\ntry: {code}\nexcept OSError: pass"
    )
    found = watched.violations()
    assert any(re.fullmatch(violation, line) for line in found), found


def test_the_watch_allows_loopback_the_cache_and_the_folders(
    watch: Callable[..., Watch], by: str
) -> None:
    watched = watch(sys.executable, by)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        code = (
            f"import socket, tempfile; socket.create_connection(('127.0.0.1', {port}))\n"
            "from pathlib import Path; cache = Path.home() / '.cache' / 'ovml-deploy'\n"
            "cache.mkdir(parents=True); (cache / 'x').write_text('1'); open('x', 'w').write('1')\n"
            "tempfile.NamedTemporaryFile('w').write('1')"
        )
        done = watched.run("-c", code)
    assert done.returncode == 0, done.stderr
    assert watched.violations() == []


def test_make_test_installs_strace() -> None:
    assert "apt-get install -qq -y strace" in (ROOT / "Makefile").read_text("utf-8")

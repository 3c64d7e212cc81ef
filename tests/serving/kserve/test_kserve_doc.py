"""What docs/kserve.md shows, as typed, but for the ports."""

import re
import shutil
import sys
from pathlib import Path

import pytest
from servers import running_server
from shell import ROOT, run

from ovml_deploy import assets

TEXT = (ROOT / "docs" / "kserve.md").read_text("utf-8")
BLOCKS = dict(re.findall(r"^```(\w+)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL))
COMMAND = "ovml-deploy serve --port 8000 --grpc-port 8001\n"

pytestmark = pytest.mark.skipif(
    not (assets.MINI / "bundle.json").exists(), reason="the embedded model is not built"
)


def test_the_example_over_both(tmp_path: Path) -> None:
    assert BLOCKS["sh"] == COMMAND
    for name in ("cat.jpg", "rocket.jpg"):
        shutil.copy(assets.sample_photographs()[0].with_name(name), tmp_path)
    with running_server(assets.MINI, "--grpc-port", "0") as server:
        changes = {
            "grpc": {"localhost:8001": str(server.grpc)},
            "http": {
                "localhost:8001": server.url.removeprefix("http://"),
                "tritonclient.grpc": "tritonclient.http",
            },
        }
        for change in changes.values():
            program = BLOCKS["python"]
            for old, new in change.items():
                assert old in program
                program = program.replace(old, new)
            (tmp_path / "example.py").write_text(program)
            done = run(f"{sys.executable} example.py", tmp_path)
            assert done.returncode == 0, done.stderr
            assert done.stdout.splitlines() == ["['cat']", "['rocket']"]

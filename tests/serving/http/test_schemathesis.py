"""A real server against its own OpenAPI document, by requests that schemathesis makes up."""

import os
import subprocess
import sys
from pathlib import Path

from http_client import Client
from servers import running_server

KEY = "a key of this test"
SUPPORT = Path(__file__).parents[2] / "support"
EXAMPLES = 40  # of each operation, and of each way to make them up


def test_it_finds_no_violation(tiny_bundle: Path, tmp_path: Path) -> None:
    """All its checks, among them data that must be refused, methods, and wrong keys."""
    env = {"OVML_API_KEY": KEY, "OVML_CACHE": str(tmp_path / "cache")}
    with running_server(tiny_bundle, "--device", "cpu", env=env) as server:
        command = [sys.executable, "-m", "schemathesis.cli", "run", f"{server.url}/openapi.json"]
        options = ["-H", f"Authorization: Bearer {KEY}", "--max-examples", str(EXAMPLES)]
        options += ["--seed", "1", "--continue-on-failure", "--no-color"]
        done = subprocess.run(
            [*command, *options, "--generation-database", "none", "--request-timeout", "60"],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={
                **os.environ,
                "SCHEMATHESIS_HOOKS": "schemathesis_hooks",
                "PYTHONPATH": str(SUPPORT),
            },
        )
        assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2000:]
        assert "No issues found" in done.stdout
        operations = sum(
            method in ("get", "put", "post", "delete")
            for path in Client(server.url)
            .get("/openapi.json", x_api_key=KEY)
            .json["paths"]
            .values()
            for method in path
        )
        assert f"Tested: {operations}" in done.stdout
        assert Client(server.url).get("/readyz").status == 200
        assert not [event for event in server.events() if event["level"] in ("error", "critical")]

"""What is refused before any Ray starts."""

import subprocess
import sys
from pathlib import Path

import pytest

from ovml_deploy.cli import main


def test_another_place_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ("--out", str(tmp_path / "a.csv"))
    for job in (("index", "photos"), ("retag", "archive", "--labels", "cat")):
        assert main([*job, *out, "--on", "moon"]) == 2
        assert "--on is 'moon'; it is 'here' or 'ray'" in capsys.readouterr().err
        assert main([*job, *out, "--on", "ray", "--workers", "0"]) == 2
        assert "workers is 0" in capsys.readouterr().err


def test_without_ray_the_extra_is_named(tiny_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no image")
    command = ["index", str(tmp_path / "a.png"), "--out", str(tmp_path / "archive"), "--on", "ray"]
    code = (
        "import sys; sys.modules['ray'] = None\n"
        "from ovml_deploy.cli import main\n"
        f"sys.exit(main({[*command, '--engine', str(tiny_bundle)]!r}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert "pip install 'ovml-deploy[ray]'" in done.stderr
    assert not (tmp_path / "archive").exists()

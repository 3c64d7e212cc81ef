"""``python -m export.NAME`` without the packages of the extra."""

import os
import subprocess

import pytest

from ovml_deploy.commandline import report_missing_package


@pytest.mark.parametrize("name", ["onnx", "tensorrt", "quantize", "triton"])
def test_a_missing_package_is_one_line(name: str) -> None:
    python = os.environ.get("OVML_RUNTIME_PYTHON")
    if not python:
        pytest.skip("OVML_RUNTIME_PYTHON names no environment without torch ('make test' does)")
    done = subprocess.run(
        [python, "-m", f"export.{name}", "--help"], capture_output=True, text=True
    )
    assert done.returncode == 1
    message = (
        "error: This needs the package 'onnx'. Install it: pip install 'ovml-deploy[export]'\n"
    )
    assert done.stderr == message


def test_other_errors_keep_their_traceback(capsys) -> None:
    seen: list[object] = []
    hook = report_missing_package("export", lambda *arguments: seen.append(arguments))
    error = ValueError("a fault")
    hook(ValueError, error, None)
    assert seen == [(ValueError, error, None)]
    hook(ModuleNotFoundError, ModuleNotFoundError("No module", name="torch"), None)
    assert "'torch'" in capsys.readouterr().err
    assert len(seen) == 1

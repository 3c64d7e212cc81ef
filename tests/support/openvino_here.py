"""A check that OpenVINO runs the embedded model on this processor.

With few instruction sets (``ONEDNN_MAX_CPU_ISA=SSE41``) OpenVINO 2026.4 refuses the model or ends the
process, so it is tried in a process of its own.
"""

import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]
_TRIAL = """
import numpy as np
from ovml_deploy import assets
from ovml_deploy.runtime.engine import Engine
engine = Engine.open(assets.MINI, "openvino", "fp32")
engine.encode(np.zeros((2, *engine.bundle.preprocessing.size, 3), dtype=np.uint8))
"""


@cache
def why_openvino_does_not_run() -> str | None:
    """Return the last line of the error, None if OpenVINO runs."""
    environment = {**os.environ, "PYTHONPATH": str(_ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", _TRIAL], env=environment, capture_output=True, text=True
    )
    if done.returncode == 0:
        return None
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    return lines[-1] if lines else f"its process ended with {done.returncode}"


def require_openvino() -> None:
    """Skip a test where OpenVINO does not run on this processor."""
    if (reason := why_openvino_does_not_run()) is not None:
        pytest.skip(f"OpenVINO does not run here: {reason}")

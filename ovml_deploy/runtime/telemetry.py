"""Imports of the engines' packages with their telemetry switched off (docs/privacy.md).

ONNX Runtime and OpenVINO look up a host and write an identifier of the user as soon as they are
imported. All other modules import them through the two functions below; ruff forbids the plain
import. What the user has chosen before is kept.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any

ORT_VARIABLE = "ORT_DISABLE_TELEMETRY"
RAY_VARIABLE = "RAY_USAGE_STATS_ENABLED"
HUB_VARIABLE = "HF_HUB_DISABLE_TELEMETRY"

_OPENVINO_TELEMETRY = "openvino_telemetry"
_lock = Lock()


def import_onnxruntime() -> Any:
    """Return the module ``onnxruntime``. Raises ImportError."""
    silence_onnxruntime()
    import onnxruntime

    return onnxruntime


def import_openvino() -> Any:
    """Return the module ``openvino``. Raises ImportError.

    The first import of a process happens without ``openvino_telemetry``; afterwards that module can
    be imported as before. OpenVINO keeps its own silent substitute until the process ends.
    """
    with _lock:
        if "openvino" in sys.modules or _opted_in():
            import openvino
        else:
            with _hidden(_OPENVINO_TELEMETRY):
                import openvino
    return openvino


def silence_onnxruntime() -> None:
    """Switch ONNX Runtime's telemetry off for this process and its children.

    ONNX Runtime reads the variable when it is imported; only the value 1 switches telemetry off.
    """
    os.environ.setdefault(ORT_VARIABLE, "1")


def silence_ray() -> None:
    """Switch Ray's usage statistics off for a Ray that this process starts."""
    os.environ.setdefault(RAY_VARIABLE, "0")


def silence_hugging_face() -> None:
    """Switch the telemetry of Hugging Face's packages off. Call it before they are imported."""
    os.environ.setdefault(HUB_VARIABLE, "1")


def _opted_in() -> bool:
    """Return whether the user has run OpenVINO's ``opt_in_out --opt_in``."""
    try:
        return (Path.home() / "intel" / _OPENVINO_TELEMETRY).read_text("utf-8").strip() == "1"
    except (OSError, RuntimeError, ValueError):  # RuntimeError: the user has no home folder
        return False


@contextmanager
def _hidden(name: str) -> Iterator[None]:
    """Make the import of a module fail, and restore ``sys.modules`` at the end."""
    nothing = object()
    before: Any = sys.modules.get(name, nothing)
    sys.modules[name] = None  # type: ignore[assignment]  # Python's own mark of a failed import
    try:
        yield
    finally:
        if before is nothing:
            sys.modules.pop(name, None)
        else:
            sys.modules[name] = before

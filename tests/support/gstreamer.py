"""Runs GStreamer with ovmltag in it, in processes of their own."""

import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cpp import built, require_toolchain
from shell import ROOT

#: Where Debian's Python bindings lie.
DEBIAN = "/usr/lib/python3/dist-packages"


def _ok(*command: str) -> bool:
    return shutil.which(command[0]) is not None and (
        subprocess.run(command, capture_output=True).returncode == 0
    )


@functools.cache
def missing() -> tuple[str, ...]:
    """Debian's packages that ovmltag or its tests need and that are not installed."""
    found = {
        "libgstreamer1.0-dev": _ok("pkg-config", "--exists", "gstreamer-1.0 >= 1.20"),
        "libgstreamer-plugins-base1.0-dev": _ok("pkg-config", "--exists", "gstreamer-app-1.0"),
        "gstreamer1.0-tools": _ok("gst-inspect-1.0", "--version"),
        "gstreamer1.0-plugins-good": _ok("gst-inspect-1.0", "--exists", "qtdemux"),
        "gstreamer1.0-libav": _ok("gst-inspect-1.0", "--exists", "avdec_h264"),
        "python3-gst-1.0": (Path(DEBIAN) / "gi" / "overrides" / "Gst.py").exists(),
    }
    return tuple(package for package, there in found.items() if not there)


@functools.cache
def plugin(kind: str = "test") -> Path:
    """Return the folder of ovmltag and tag_stream; skips where they cannot be built."""
    require_toolchain()
    if missing():
        pytest.skip(f"ovmltag is not built and tried without Debian's {' '.join(missing())}")
    return built(kind) / "gst"


def environment(kind: str = "test") -> dict[str, str]:
    """The environment in which GStreamer finds the element; its registry stays beside it."""
    folder = plugin(kind)
    registry = folder / "registry.bin"
    return {**os.environ, "GST_PLUGIN_PATH": str(folder), "GST_REGISTRY": str(registry)}


@dataclass(frozen=True)
class Played:
    """What a pipeline gave: ``frames`` with ``pts`` and ``tags``, their ``pixels``, and the bus."""

    frames: list[dict[str, Any]]
    pixels: np.ndarray
    messages: list[dict[str, Any]]
    errors: list[str]

    def named(self, name: str) -> list[dict[str, Any]]:
        return [message for message in self.messages if message["name"] == name]


def play(pipeline: str, steps: Sequence[dict[str, Any]] = (), times: int = 1) -> Played:
    """Play a pipeline, as ``gst_player.py`` says."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        job = {"pipeline": pipeline, "steps": list(steps), "times": times}
        (folder / "job.json").write_text(json.dumps(job))
        program = ROOT / "tests" / "support" / "gst_player.py"
        command = [sys.executable, str(program), str(folder / "job.json"), str(folder)]
        done = subprocess.run(command, env=environment(), capture_output=True, text=True)
        assert done.returncode == 0, (pipeline, done.returncode, done.stderr[-4000:])
        told = json.loads((folder / "told.json").read_text())
        return Played(pixels=np.load(folder / "pixels.npy"), **told)

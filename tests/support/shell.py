"""Runs lines and snippets of the documents as a user does: in fresh processes, with named extras only."""

import os
import subprocess
import sys
from pathlib import Path

from extras import HIDING, extras_for, hiding

ROOT = Path(__file__).parents[2]


def run(
    line: str, folder: Path, extras: frozenset[str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run one line in a shell that finds this environment's commands.

    ``extras``: those of the project that it may use; default: what its command needs.
    """
    return _run(["bash", "-c", line], folder, extras or extras_for(line))


def run_snippet(
    code: str, folder: Path, *extras: str, arguments: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    """Run Python code in a process of its own that finds only the packages of these extras."""
    return _run([sys.executable, "-c", code, *arguments], folder, frozenset(extras))


def _run(
    command: list[str], folder: Path, extras: frozenset[str] | None
) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}
    if extras is not None:
        environment["PYTHONPATH"] = f"{HIDING}{os.pathsep}{ROOT}"
        environment |= hiding(extras)
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)

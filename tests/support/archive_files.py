"""Small images of all kinds of sources, what an archive holds, and a command that is killed."""

import io
import os
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]


def make_images(folder: Path, count: int, broken: Collection[int] = ()) -> list[Path]:
    """Write different small PNG files; those in ``broken`` are cut short."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(7)
    paths = []
    for number in range(count):
        path = folder / f"{number:04d}.png"
        pixels = random.integers(0, 256, (24, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
        if number in broken:
            path.write_bytes(path.read_bytes()[:200])
        paths.append(path)
    return paths


def make_tar(path: Path, members: Sequence[tuple[str, bytes]], mode: str = "w") -> Path:
    """Write a tar of such names and contents."""
    with tarfile.open(path, mode) as tar:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def content(archive: Path) -> dict[str, bytes]:
    """All that an archive holds, byte for byte."""
    return {path.name: path.read_bytes() for path in archive.iterdir() if path.name[0] != "."}


def kill_when(condition: Callable[[], bool], out: Path, *arguments: object) -> None:
    """Run the command and kill it (-9) once ``condition`` is true.

    On a busy machine it may end before that is seen; then what it made, ``out``, goes, and it runs
    again.
    """
    for _ in range(10):
        if _killed(condition, *arguments):
            return
        shutil.rmtree(out) if out.is_dir() else out.unlink()
    raise AssertionError("it always ended before it could be killed")


def _killed(condition: Callable[[], bool], *arguments: object) -> bool:
    command = [sys.executable, "-m", "ovml_deploy.cli", *map(str, arguments)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, **quiet)
    while process.poll() is None and not condition():
        time.sleep(0.001)
    process.kill()
    code = process.wait()
    assert code in (-9, 0), f"it failed by itself ({code})"
    return code == -9

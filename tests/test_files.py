"""Files and folders appear whole or not at all."""

import hashlib
import os
import random
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ovml_deploy.files import sha256_file, write_atomically, write_folder_atomically

ROOT = Path(__file__).resolve().parents[1]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def leftovers(folder: Path) -> list[str]:
    return [name for name in names(folder) if name.startswith(".")]


def write_and_fail(write: Callable[..., Any], path: Path, error: BaseException) -> None:
    """Write half of what should be there, then raise."""
    with write(path) as temporary:
        half = temporary / "half" if temporary.is_dir() else temporary
        half.write_bytes(b"half")
        raise error


def test_a_file_is_written_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "file.bin"
    for content in (b"one", b"two"):
        with write_atomically(path) as temporary:
            assert temporary.parent == path.parent
            temporary.write_bytes(content)
        assert path.read_bytes() == content
    assert names(path.parent) == ["file.bin"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("exists", [True, False])
def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, error, exists: bool) -> None:
    path = tmp_path / "file.bin"
    if exists:
        path.write_bytes(b"old")
    with pytest.raises(type(error)):
        write_and_fail(write_atomically, path, error)
    assert (path.read_bytes() == b"old") if exists else not path.exists()
    assert not leftovers(tmp_path)


def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    """A real limit of the kernel: in a process that may write 64 KiB, 1 MiB does not fit."""
    path = tmp_path / "file.bin"
    path.write_bytes(b"old")
    code = (
        "import resource, signal, sys\n"
        "from ovml_deploy.files import write_atomically\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))\n"
        "with write_atomically(sys.argv[1]) as temporary:\n"
        "    temporary.write_bytes(bytes(1 << 20))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, path], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "File too large" in done.stderr
    assert path.read_bytes() == b"old"
    assert not leftovers(tmp_path)


KILLED = """
import sys
from pathlib import Path
from ovml_deploy.files import write_atomically, write_folder_atomically
target, folder = Path(sys.argv[1]), sys.argv[2] == "folder"
print("ready", flush=True)
for round in range(1, 1_000_000):
    byte = bytes([round % 256])
    if folder:
        with write_folder_atomically(target) as temporary:
            for name in "abc":
                (temporary / name).write_bytes(byte * 200_000)
    else:
        with write_atomically(target) as temporary:
            with open(temporary, "wb") as file:
                for _ in range(20):
                    file.write(byte * 10_000)
"""


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_kill_in_the_middle_never_tears(tmp_path: Path, kind: str) -> None:
    chance = random.Random(0)
    seen = set()
    for attempt in range(8):
        target = tmp_path / str(attempt) / "target"
        process = subprocess.Popen(
            [sys.executable, "-c", KILLED, target, kind], cwd=ROOT, stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(chance.uniform(0.01, 0.15))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        files = sorted(target.iterdir()) if kind == "folder" and target.exists() else [target]
        contents = [file.read_bytes() for file in files if file.exists()]
        if not contents:
            continue  # killed before the first was complete (or, a folder, between two renames)
        whole = contents[0][:1] * (600_000 if kind == "folder" else 200_000)
        assert b"".join(contents) == whole
        seen.add(contents[0][:1])
    assert seen, "every process was killed before it wrote anything"


def test_permissions_follow_the_umask(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        with write_atomically(tmp_path / "file") as temporary:
            temporary.write_bytes(b"x")
        with write_folder_atomically(tmp_path / "folder"):
            pass
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640
    assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == 0o750


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "file").write_bytes(b"old")
    (tmp_path / "link").symlink_to(tmp_path / "real" / "file")
    (tmp_path / "folder").symlink_to(tmp_path / "real")
    with write_atomically(tmp_path / "link") as temporary:
        temporary.write_bytes(b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "file").read_bytes() == b"new"
    with write_folder_atomically(tmp_path / "folder") as temporary:
        (temporary / "other").write_bytes(b"newer")
    assert (tmp_path / "folder").is_symlink()
    assert names(tmp_path / "real") == ["other"]
    assert names(tmp_path) == ["folder", "link", "real"]


def test_a_folder_is_written_and_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "bundle"
    for files in (["a", "b"], ["c"]):
        with write_folder_atomically(path) as temporary:
            for name in files:
                (temporary / name).write_text(name)
            (temporary / "inner").mkdir()
            (temporary / "inner" / "file").write_text("x")
        assert names(path) == [*files, "inner"]
    assert names(tmp_path) == ["bundle"]


@pytest.mark.parametrize("exists", [True, False])
def test_a_folder_that_fails_leaves_the_old_one(tmp_path: Path, exists: bool) -> None:
    path = tmp_path / "bundle"
    if exists:
        path.mkdir()
        (path / "old").write_text("old")
    with pytest.raises(ValueError, match="parity"):
        write_and_fail(write_folder_atomically, path, ValueError("parity failed"))
    assert (names(path) == ["old"]) if exists else not path.exists()
    assert not leftovers(tmp_path)


def test_a_failing_swap_brings_the_old_folder_back(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "bundle"
    path.mkdir()
    (path / "old").write_text("old")
    rename = os.rename

    def fails(source, target) -> None:
        if str(source).endswith(".part"):
            raise OSError(5, "Input/output error")
        rename(source, target)

    monkeypatch.setattr(os, "rename", fails)
    with pytest.raises(OSError, match="Input/output"), write_folder_atomically(path) as temporary:
        (temporary / "new").write_text("new")
    assert names(path) == ["old"]
    assert not leftovers(tmp_path)


def test_a_folder_does_not_replace_a_file(tmp_path: Path) -> None:
    path = tmp_path / "bundle"
    path.write_text("a file")
    with pytest.raises(NotADirectoryError, match="bundle"), write_folder_atomically(path):
        pass
    assert path.read_text() == "a file"
    assert names(tmp_path) == ["bundle"]


def test_sha256(tmp_path: Path) -> None:
    content = random.Random(0).randbytes(3_000_000)
    (tmp_path / "file").write_bytes(content)
    assert sha256_file(tmp_path / "file") == hashlib.sha256(content).hexdigest()

"""Files that appear whole or not at all, and their hashes."""

import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def may_be_written(path: str | os.PathLike[str]) -> bool:
    """Whether a file can be written there: to be asked before the work whose result it holds."""
    try:
        real = Path(os.path.realpath(path))
        folder = next(parent for parent in real.parents if parent.exists())
        return not real.is_dir() and folder.is_dir() and os.access(folder, os.W_OK)
    except OSError:  # in a folder that may not be looked into
        return False


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Wait for the exclusive lock of a file and hold it; the folder is created. Raises OSError.

    The system releases the lock when the process ends. Where there are no such locks, do not wait.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as lock:
        with suppress(ImportError):
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def broken_link(path: str | os.PathLike[str]) -> str | None:
    """Return what is wrong with a path that is a link without a target, or None for other paths."""
    link = Path(path)
    if not link.is_symlink() or link.exists():
        return None
    return (
        f"a broken link to {os.fspath(link.readlink())!r}; restore its target, or remove the link."
    )


@contextmanager
def write_atomically(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success fsync it and rename it into place.

    After an exception (a full disk, a kill) ``path`` is as it was before. OSError passes through.
    """
    target, temporary = _beside(path)
    try:
        temporary.touch(exist_ok=False)
        mode = temporary.stat().st_mode
        yield temporary
        temporary.chmod(mode)  # safetensors keeps its files to their owner
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, target)
        fsync_folder(target.parent)
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()


@contextmanager
def write_folder_atomically(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary folder beside ``path``; on success it takes the place of ``path``.

    A folder that was there before is replaced only once the new one is complete.
    """
    target, temporary = _beside(path)
    if target.exists() and not target.is_dir():
        raise NotADirectoryError(f"{str(target)!r} is a file, so no folder can take its place")
    retired = temporary.with_suffix(".old")
    try:
        temporary.mkdir()
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file():
                file.chmod(temporary.stat().st_mode & 0o666)
                with open(file, "rb+") as opened:
                    os.fsync(opened.fileno())
        if target.exists():
            os.rename(target, retired)
        os.rename(temporary, target)
        fsync_folder(target.parent)
    except BaseException:
        if retired.exists() and not target.exists():
            os.rename(retired, target)
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(retired, ignore_errors=True)


def sha256_file(path: str | os.PathLike[str]) -> str:
    """Return the hexadecimal SHA-256 of a file, read in pieces."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _beside(path: str | os.PathLike[str]) -> tuple[Path, Path]:
    """The real target (a link stays a link) and an unused name in its folder."""
    target = Path(os.path.realpath(path))
    target.parent.mkdir(parents=True, exist_ok=True)
    return target, target.with_name(f".{target.name}.{secrets.token_hex(6)}.part")


def fsync_folder(folder: Path) -> None:
    """Make what was created, renamed or removed in a folder last. Raises OSError."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

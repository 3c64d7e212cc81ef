"""File permissions that hold for root, too."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_NOBODY = 65534


@contextmanager
def unprivileged(folder: Path) -> Iterator[None]:
    """Run as a user who is not root, in ``folder``; its paths must be relative."""
    before, user = Path.cwd(), os.geteuid()
    mode = folder.stat().st_mode
    os.chdir(folder)
    folder.chmod(0o777)
    if user == 0:
        os.seteuid(_NOBODY)
    try:
        yield
    finally:
        os.seteuid(user)
        folder.chmod(mode)
        os.chdir(before)

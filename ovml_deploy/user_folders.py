"""The user's folders: a cache of what can be computed again, and data that cannot.

Whatever is learned about this machine belongs here. Neither the package's folder nor a bundle from
elsewhere is a place for it.
"""

import logging
import os
from collections.abc import Callable
from pathlib import Path

import platformdirs

logger = logging.getLogger(__name__)

_APP = "ovml-deploy"
_reported: set[Path | None] = set()


class NoFolderError(OSError):
    """The user has no home folder, and no variable names another place."""


def cache_folder() -> Path:
    """Return ``$OVML_CACHE``, else ``ovml-deploy`` in the user's cache folder; it may not exist.

    Raises NoFolderError where the user has neither.
    """
    if chosen := os.environ.get("OVML_CACHE"):
        return Path(os.path.expanduser(chosen))  # noqa: PTH111  (it leaves "~" where there is no home)
    return _of_user(platformdirs.user_cache_path, "OVML_CACHE")


def cache_file(kind: str, name: str) -> Path | None:
    """Return ``KIND/NAME`` in the cache folder; without such a folder log that, and return None."""
    try:
        return cache_folder() / kind / name
    except NoFolderError as error:
        go_on_without_cache(error)
        return None


def data_folder() -> Path:
    """Return ``ovml-deploy`` in the user's data folder; it may not exist. Raises NoFolderError."""
    return _of_user(platformdirs.user_data_path, "XDG_DATA_HOME")


def go_on_without_cache(error: Exception, file: Path | None = None, verb: str = "written") -> None:
    """Log that the cache cannot be used: once per process and cache folder.

    ``file``: the file of the cache that failed, ``FOLDER/KIND/NAME``; None without a cache folder.
    ``verb``: what failed, "read" or "written".
    """
    folder = None if file is None else file.parents[1]
    if folder in _reported:
        return
    _reported.add(folder)
    if file is None:
        logger.warning("Nothing is cached: %s.", error)
    else:
        logger.warning(
            "The cache file %s cannot be %s (%s), so its content is computed again each time. "
            "Delete it if it is damaged, or set OVML_CACHE to another folder.",
            *(file, verb, error),
        )


def _of_user(find: Callable[..., Path], variable: str) -> Path:
    try:
        folder = find(_APP, appauthor=False)
    except RuntimeError:  # no HOME, and no entry in the password database
        folder = Path()
    if not folder.is_absolute():  # older releases of platformdirs return "~/.cache/..."
        home = os.environ.get("HOME")
        raise NoFolderError(
            f"the user has no home folder (HOME is {'not set' if home is None else repr(home)}); "
            f"set {variable} to a folder that can be written"
        )
    return folder

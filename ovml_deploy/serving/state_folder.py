"""The folder in which a server keeps its vocabularies, whole whenever the server is killed.

``NAME/labels.json`` holds the labels last accepted, ``NAME/VERSION.safetensors`` what was made of
them, and ``active.json`` the name of the active vocabulary. Labels of a version that has no file yet
are still to be embedded.
"""

import json
import logging
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO

from ovml_deploy.errors import LabelError, VocabularyError
from ovml_deploy.files import fsync_folder, write_atomically
from ovml_deploy.runtime.bundle import Bundle
from ovml_deploy.runtime.labels import LabelSource, split_groups
from ovml_deploy.runtime.vocabulary import Vocabulary
from ovml_deploy.serving.errors import StateError

logger = logging.getLogger(__name__)

#: What may name a vocabulary.
NAME = re.compile(r"^[a-z0-9_-]{1,64}$")
_VERSION = re.compile(r"([1-9][0-9]*)\.safetensors")
_LABELS, _ACTIVE, _LOCK = "labels.json", "active.json", ".lock"
_WHAT_TO_DO = "Put it again, or delete it."


@dataclass(frozen=True, eq=False)
class Request:
    """Labels that were accepted under a version, and the groups of those that have one."""

    version: int
    labels: tuple[str, ...]
    groups: Mapping[str, str] = field(default_factory=dict)

    @property
    def source(self) -> LabelSource:
        """The labels as the text encoder takes them."""
        if not self.groups:
            return self.labels
        return {label: self.groups.get(label) for label in self.labels}


@dataclass(frozen=True, eq=False)
class Slot:
    """A name at one moment: the version last asked for, what is served, what is wanted since."""

    newest: int = 0
    version: int = 0
    vocabulary: Vocabulary | None = None
    wanted: Request | None = None
    done: int = 0
    error: str | None = None

    @property
    def state(self) -> str:
        """What became of the version last asked for: "embedding", "ready" or "failed"."""
        if self.error is not None:
            return "failed"
        return "ready" if self.wanted is None else "embedding"

    @property
    def labels(self) -> tuple[str, ...]:
        """Those that are served, or where none are, those that are wanted."""
        if self.vocabulary is not None:
            return self.vocabulary.labels
        return () if self.wanted is None else self.wanted.labels


def check_name(name: str) -> None:
    """Raise VocabularyError for what cannot name a vocabulary, and so no folder."""
    if NAME.fullmatch(name) is None:
        raise VocabularyError(
            f"A vocabulary cannot be named {name[:80]!r}. Use 1 to 64 of a-z, 0-9, '-' and '_'."
        )


class StateFolder:
    """Reads and writes the folder, which belongs to one process until it is closed.

    What cannot be read or written is a StateError.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._lock = open(path / _LOCK, "ab")  # noqa: SIM115 - held until close()
        except OSError as error:
            raise StateError(
                f"Vocabularies cannot be kept in {str(path)!r} ({error}). Name another folder."
            ) from error
        _take(self._lock, path)

    def close(self) -> None:
        """Let another process have the folder."""
        self._lock.close()

    def read(self, bundle: Bundle) -> dict[str, Slot]:
        """Return what is there; what is damaged or strange is logged, and fails alone."""
        try:
            return self._read(bundle)
        except OSError as error:
            raise StateError(f"{str(self.path)!r} cannot be read ({error}).") from error

    def _read(self, bundle: Bundle) -> dict[str, Slot]:
        slots: dict[str, Slot] = {}
        for path in sorted(self.path.iterdir()):
            if _removed(path) or path.name in (_LOCK, _ACTIVE):
                continue
            if NAME.fullmatch(path.name) is None or path.is_symlink() or not path.is_dir():
                logger.warning("%s is no vocabulary of the server, and is left alone.", path)
                continue
            try:
                slot = _read_slot(path, bundle)
            except OSError as error:
                slot = Slot(error=f"{path} cannot be read ({error}). {_WHAT_TO_DO}")
            if slot is None:
                continue
            slots[path.name] = slot
            if slot.error is not None:
                logger.warning("The vocabulary %r failed: %s", path.name, slot.error)
        return slots

    def save_request(self, name: str, request: Request) -> None:
        """Keep labels that are to be embedded."""
        home = self.path / name
        content = {
            "version": request.version,
            "labels": request.labels,
            "groups": dict(request.groups),
        }
        try:
            is_new = not home.exists()
            with write_atomically(home / _LABELS) as temporary:
                temporary.write_text(json.dumps(content), "utf-8")
            if is_new:
                fsync_folder(self.path)
        except OSError as error:
            raise _not_written(home, error) from error

    def save(self, name: str, version: int, vocabulary: Vocabulary) -> None:
        """Keep a vocabulary, then forget the older ones of its name."""
        home = self.path / name
        vocabulary.save(home / f"{version}.safetensors")
        with suppress(OSError):  # the newest counts, whatever else is there
            for number, path in _versions(home).items():
                if number < version:
                    path.unlink()

    def delete(self, name: str) -> None:
        """Forget a vocabulary. After a kill it is there whole, or not at all."""
        home, gone = self.path / name, self.path / f".{name}.part"
        try:
            shutil.rmtree(gone, ignore_errors=True)
            with suppress(FileNotFoundError):  # somebody else removed it
                home.rename(gone)  # at once: of its files alone, an older version might be left
            fsync_folder(self.path)
        except OSError as error:
            raise _not_written(home, error) from error
        shutil.rmtree(gone, ignore_errors=True)  # the next start removes what is left

    def activate(self, name: str) -> None:
        """Keep the name of the active vocabulary."""
        try:
            with write_atomically(self.path / _ACTIVE) as temporary:
                temporary.write_text(json.dumps({"name": name}), "utf-8")
        except OSError as error:
            raise _not_written(self.path / _ACTIVE, error) from error

    def active(self) -> str | None:
        """Return the name of the active vocabulary, None where none was ever activated."""
        path = self.path / _ACTIVE
        try:
            return str(json.loads(path.read_bytes())["name"])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise StateError(f"{path} is damaged ({error!r}).") from error


def _read_slot(home: Path, bundle: Bundle) -> Slot | None:
    """Return what a vocabulary's folder holds; None for what a kill left of nothing."""
    known = [path for path in home.iterdir() if not _removed(path)]
    if not known:
        home.rmdir()
        return None
    versions = _versions(home)
    for path in known:
        if path.name != _LABELS and path not in versions.values():
            logger.warning("%s is no file of the server, and is left alone.", path)
    problems: list[str] = []
    request = _read_request(home / _LABELS, problems)
    version, vocabulary = _read_newest(versions, home.name, problems)
    newest = max(versions, default=0)
    wanted = None
    if request is not None and request.version > newest:
        newest, wanted = request.version, request
    if vocabulary is not None and (reason := _misfit(vocabulary, bundle)) is not None:
        logger.warning("The vocabulary %r is embedded again: %s", home.name, reason)
        if wanted is None:
            newest += 1
            same = request is not None and request.labels == vocabulary.labels
            wanted = Request(newest, vocabulary.labels, request.groups if request and same else {})
        version, vocabulary = 0, None
    if wanted is not None:
        for problem in problems:  # all of it will be replaced
            logger.warning("%s", problem)
        return Slot(newest, version, vocabulary, wanted)
    if vocabulary is None and not problems:
        problems.append(f"{home} holds no vocabulary.")
    error = f"{' '.join(problems)} {_WHAT_TO_DO}" if problems else None
    return Slot(newest, version, vocabulary, error=error)


def _read_request(path: Path, problems: list[str]) -> Request | None:
    try:
        content = json.loads(path.read_bytes())
        groups = content["groups"]
        labels, groups = split_groups({text: groups.get(text) for text in content["labels"]})
        version = content["version"]
        if type(version) is not int or version < 1:
            raise ValueError(f"version {version!r}")
        return Request(version, labels, groups)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        problems.append(f"{path} is damaged ({error!r}).")
    except LabelError as error:
        problems.append(f"{path} is damaged: {error}")
    return None


def _read_newest(
    versions: Mapping[int, Path], name: str, problems: list[str]
) -> tuple[int, Vocabulary | None]:
    """Return the newest vocabulary that can be read, and its version."""
    for number in sorted(versions, reverse=True):
        try:
            vocabulary = replace(Vocabulary.load(versions[number]), name=name)
        except VocabularyError as error:
            problems.append(str(error))
            continue
        _ = vocabulary.id  # takes a while, which nobody shall wait for later
        return number, vocabulary
    return 0, None


def _misfit(vocabulary: Vocabulary, bundle: Bundle) -> str | None:
    try:
        vocabulary.check_fits(bundle)
    except VocabularyError as error:
        return str(error)
    return None


def _versions(home: Path) -> dict[int, Path]:
    found = ((_VERSION.fullmatch(path.name), path) for path in home.iterdir())
    return {int(match[1]): path for match, path in found if match is not None}


def _removed(path: Path) -> bool:
    """Remove what a kill left half written, or half removed; whether it was that."""
    if not (path.name.startswith(".") and path.name.endswith(".part")):
        return False
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
    return True


def _take(lock: IO[bytes], path: Path) -> None:
    """Take the folder's lock, which the system drops with the process, however that ends."""
    try:
        import fcntl
    except ImportError:
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.close()
        raise StateError(
            f"Another process keeps its vocabularies in {str(path)!r}. Stop it, or name another folder."
        ) from error


def _not_written(path: Path, error: OSError) -> StateError:
    return StateError(
        f"{str(path)!r} cannot be written ({error}). Free some space, or see to its permissions."
    )

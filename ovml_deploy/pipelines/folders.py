"""Search for the images that a command line names: files, folders and patterns.

A search counts what it passes over, and lists what it cannot read. Links to folders are followed
once: a folder that is reached by its own name is not searched again through a link.
"""

import glob
import os
import stat
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ovml_deploy.errors import UsageError
from ovml_deploy.files import broken_link
from ovml_deploy.pipelines.passed_over import Kind, PassedOver, Rules, suffix_of
from ovml_deploy.pipelines.patterns import Pattern
from ovml_deploy.runtime.image_formats import HEIF_SUFFIXES, RAW_SUFFIXES

_PILLOW_SUFFIXES = frozenset(
    {".avif", ".bmp", ".gif", ".ico", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm"}
    | {".png", ".ppm", ".tif", ".tiff", ".webp"}
)
#: Suffixes of images, in lower case: only such files of a folder are read.
SUFFIXES = _PILLOW_SUFFIXES | HEIF_SUFFIXES | RAW_SUFFIXES


@dataclass(frozen=True)
class Unreadable:
    """A folder or link that could not be followed, and why, with its path."""

    path: str
    reason: str


@dataclass
class Found:
    """Outcome of a search.

    ``images``: paths in order. ``unreadable``: what may hold images and could not be read.
    ``passed_over``: counts of the rest. ``folders``: those that were read.
    """

    images: list[str] = field(default_factory=list)
    unreadable: list[Unreadable] = field(default_factory=list)
    passed_over: PassedOver = field(default_factory=PassedOver)
    folders: list[str] = field(default_factory=list)

    @property
    def reasons(self) -> list[str]:
        """Why each of ``unreadable`` could not be read."""
        return [each.reason for each in self.unreadable]


def find_images(names: Iterable[str], exclude: Sequence[str] = ()) -> Found:
    """Find images in order: files as they are, folders searched, patterns expanded.

    A named file is kept even if it does not exist, so that it is reported as one bad image.
    ``exclude``: as for :class:`Rules`; named files are not excluded. Raises UsageError where a folder
    or pattern holds no image, or nothing is named.
    """
    found = Found()
    named = False
    for name in names:
        named = True
        path = Path(name)
        before = len(found.images) + len(found.unreadable)
        if is_folder(name):
            _Search(found, exclude).folder(str(path))
            if len(found.images) + len(found.unreadable) == before:
                raise UsageError(
                    f"The folder {name!r} holds no images ({_suffixes()}){_so(found)}."
                )
        elif not os.path.lexists(path) and glob.has_magic(name):
            _Search(found, exclude).pattern(name)
            if len(found.images) + len(found.unreadable) == before:
                raise UsageError(f"No file matches the pattern {name!r}{_so(found)}.")
        else:
            found.images.append(name)
    if not named:
        raise UsageError("No images are named. Give files, folders or patterns.")
    found.images = list(dict.fromkeys(found.images))
    return found


def find_inside(folder: str | Path, exclude: Sequence[str] = ()) -> Found:
    """Find all images in a folder and its subfolders, sorted; there may be none."""
    found = Found()
    _Search(found, exclude).folder(str(folder))
    return found


def find_files(pattern: str, exclude: Sequence[str] = ()) -> Found:
    """Find the files that match a pattern, whatever they are, sorted; there may be none."""
    found = Found()
    _Search(found, exclude).pattern(pattern)
    return found


def is_folder(name: str) -> bool:
    """Whether a path is a folder; not where that cannot be found out."""
    return os.path.isdir(name)  # noqa: PTH112 -- Path.is_dir raises for lack of permission


@dataclass(frozen=True)
class _Link:
    """A link to a folder: ``path`` as searched, ``inside`` its path below the folder searched."""

    path: str
    inside: str
    pattern: Pattern | None


class _Search:
    """One search in a folder, which adds to ``found``."""

    def __init__(self, found: Found, exclude: Sequence[str]) -> None:
        self._found, self._rules = found, Rules(exclude)
        self._images: list[str] = []
        self._visited: set[tuple[int, int, frozenset[int]]] = set()
        self._roots: list[str] = []
        self._links: deque[_Link] = deque()

    def folder(self, folder: str) -> None:
        """Search a folder for images."""
        self._all(folder, None)

    def pattern(self, pattern: str) -> None:
        """Search for the files that match a pattern."""
        base, parts = Pattern.split(pattern)
        if os.path.lexists(base):
            self._all(str(base), parts)

    def _all(self, folder: str, pattern: Pattern | None) -> None:
        self._walk(folder, "", pattern)
        followed = False
        while self._links:  # last, so that a folder is found by its own name first
            link = self._links.popleft()
            if self._key(link.path, link.pattern) in self._visited:
                self._found.passed_over.add(Kind.LINKS)
            elif self._is_above(link.path):
                self._found.passed_over.add(Kind.ABOVE)
            else:
                followed = True
                self._walk(link.path, link.inside, link.pattern)
        if followed:
            self._images.sort(key=lambda path: path.split(os.sep))  # noqa: PTH206
        self._found.images += self._images

    def _walk(self, folder: str, inside: str, pattern: Pattern | None) -> None:
        self._roots.append(os.path.realpath(folder))
        waiting = [self._entries(folder, inside, pattern)]
        while waiting:  # a stack: folders may be nested deeper than Python's recursion
            deeper = next(waiting[-1], None)
            if deeper is None:
                waiting.pop()
            else:
                waiting.append(self._entries(*deeper))

    def _entries(
        self, folder: str, inside: str, pattern: Pattern | None
    ) -> Iterator[tuple[str, str, Pattern | None]]:
        """Take a folder's files, and yield its subfolders in their place."""
        try:
            key = self._key(folder, pattern)
            if key in self._visited:  # mounted twice
                self._found.passed_over.add(Kind.LINKS)
                return
            with os.scandir(folder) as entries:
                ordered = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            reason = f"{folder}: the folder cannot be read ({error.strerror})."
            self._found.unreadable.append(Unreadable(folder, reason))
            return
        self._visited.add(key)
        self._found.folders.append(folder)
        prefix = "" if folder == os.curdir else os.path.join(folder, "")
        for entry in ordered:
            deeper = self._entry(
                entry,
                prefix + entry.name,
                f"{inside}/{entry.name}" if inside else entry.name,
                pattern,
            )
            if deeper is not None:
                yield deeper

    def _entry(
        self, entry: os.DirEntry[str], path: str, inside: str, pattern: Pattern | None
    ) -> tuple[str, str, Pattern | None] | None:
        """Take a file; return a subfolder that is to be searched."""
        name, passed_over = entry.name, self._found.passed_over
        below, matches = None, suffix_of(name) in SUFFIXES
        if pattern is not None:
            match = pattern.match(name)
            below, matches = match.inside, match.file
            if match.hidden and not matches and below is None:
                passed_over.add(*(self._rules.reason(name, inside) or (Kind.HIDDEN, "")))
                return None
            if not matches and below is None:
                if match.other_case:
                    passed_over.add(Kind.CASE)
                return None
        reason = self._rules.reason(name, inside)
        if reason is not None and (
            reason[0] is Kind.EXCLUDED or pattern is None or not pattern.names(name)
        ):
            passed_over.add(*reason)
            return None
        mode = self._mode(entry, path, pattern is not None and matches)
        if mode is None:
            return None
        if stat.S_ISDIR(mode):
            if pattern is not None and below is None:
                passed_over.add(Kind.FOLDERS)
            elif entry.is_symlink():
                self._links.append(_Link(path, inside, below))
            else:
                return path, inside, below
        elif not stat.S_ISREG(mode):
            passed_over.add(Kind.NOT_IMAGES, "devices, pipes or sockets")
        elif matches:
            self._images.append(path)
        elif pattern is None:
            passed_over.add_file(name)
        return None

    def _mode(self, entry: os.DirEntry[str], path: str, matches: bool) -> int | None:
        """Return the type of a file or folder, without a system call unless it is a link.

        Takes a broken link and returns None: one that is named like an image is tried as one.
        """
        try:
            if entry.is_symlink():
                return Path(path).stat().st_mode
            if entry.is_dir(follow_symlinks=False):
                return stat.S_IFDIR
            return stat.S_IFREG if entry.is_file(follow_symlinks=False) else 0
        except OSError as error:
            suffix = suffix_of(entry.name)
            if matches or suffix in SUFFIXES:
                self._images.append(path)
            elif suffix:
                self._found.passed_over.add_file(entry.name)
            else:  # perhaps a folder of images on a drive that is not mounted
                reason = broken_link(path) or f"cannot be read ({error.strerror})."
                self._found.unreadable.append(Unreadable(path, f"{path}: {reason}"))
            return None

    def _key(self, folder: str, pattern: Pattern | None) -> tuple[int, int, frozenset[int]]:
        status = Path(folder).stat()
        return status.st_dev, status.st_ino, pattern.states if pattern else frozenset()

    def _is_above(self, link: str) -> bool:
        target = os.path.join(os.path.realpath(link), "")
        return any(os.path.join(root, "").startswith(target) for root in self._roots)


def _suffixes() -> str:
    return f"{', '.join(sorted(_PILLOW_SUFFIXES | HEIF_SUFFIXES))}, or camera RAW"


def _so(found: Found) -> str:
    """What was passed over instead, for a message."""
    lines = found.passed_over.lines()
    return f"; passed over: {'; '.join(lines)}" if lines else ""

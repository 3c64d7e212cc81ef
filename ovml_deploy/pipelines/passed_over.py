"""Counts of the files and folders that a search passes over, and the rules that choose them."""

import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from enum import Enum
from fnmatch import translate

_SHOWN = 8
_PLAIN_SUFFIX = re.compile(r"\.[a-z0-9_-]{1,12}")

#: Names that photo tools, network storage and systems leave in folders of photos, in lower case.
_TOOL_NAMES = frozenset(
    {"@eadir", "@recycle", "@recently-snapshot", "#recycle", "#snapshot", ".@__thumb"}
    | {"$recycle.bin", "system volume information", "lost+found", "thumbs.db", "desktop.ini"}
    | {".ds_store", ".thumbnails", ".thumb", "__macosx", ".dtrash", ".picasaoriginals"}
    | {"picasa.ini", ".picasa.ini"}
)
_TOOL_PREFIXES = ("._", ".trash", ".trashed-")
_TOOL_SUFFIXES = (".lrdata",)

#: Formats that a person may take for an image and that are not read.
_UNREAD = frozenset(
    {".ai", ".eps", ".exr", ".hdr", ".indd", ".jxl", ".jxr", ".pdf", ".psb", ".psd", ".svg"}
    | {".svgz", ".wdp", ".xcf"}
)


class Kind(Enum):
    """Why a search passes something over, as it is printed behind the count."""

    TOOLS = "left by photo tools or the system"
    HIDDEN = "hidden (names that start with a dot)"
    EXCLUDED = "by --exclude"
    NOT_IMAGES = "not named like an image"
    UNREAD = "in a format that is not read; convert it to JPEG, PNG or TIFF"
    LINKS = "linked, to a folder that is searched under another name"
    ABOVE = "linked, to a folder above the one searched"
    FOLDERS = "matched by a pattern but a folder; name it, or use **, to search it"
    CASE = "matched by a pattern only in another case"
    BESIDE = "beside the label subfolders, so without a label"
    ARCHIVE_LINKS = "linked inside a tar"


class PassedOver:
    """Counts of what was passed over, by kind and detail."""

    def __init__(self) -> None:
        self._counts: dict[Kind, Counter[str]] = {}

    def add(self, kind: Kind, detail: str = "", count: int = 1) -> None:
        """Count something; ``detail``: what of its kind it is, such as a suffix."""
        self._counts.setdefault(kind, Counter())[detail] += count

    def add_file(self, name: str) -> None:
        """Count a file whose name is not that of an image."""
        suffix = suffix_of(name)
        if suffix in _UNREAD:
            self.add(Kind.UNREAD, suffix)
        elif not suffix:
            self.add(Kind.NOT_IMAGES, "without a suffix")
        else:  # control characters never reach the terminal
            self.add(Kind.NOT_IMAGES, suffix if _PLAIN_SUFFIX.fullmatch(suffix) else "others")

    def update(self, other: "PassedOver") -> None:
        """Add the counts of another search."""
        for kind, counts in other._counts.items():
            self._counts.setdefault(kind, Counter()).update(counts)

    def __len__(self) -> int:
        return sum(counts.total() for counts in self._counts.values())

    def lines(self) -> list[str]:
        """Return one line by kind, such as ``3 not named like an image (2 .txt, 1 .mov)``."""
        lines = []
        for kind in Kind:
            if counts := self._counts.get(kind):
                details = [f"{count:,} {what}" for what, count in counts.most_common() if what]
                more = ", ..." if len(details) > _SHOWN else ""
                shown = f" ({', '.join(details[:_SHOWN])}{more})" if details else ""
                lines.append(f"{counts.total():,} {kind.value}{shown}")
        return lines


class Rules:
    """Decide by its name whether a file or folder is passed over.

    ``exclude``: patterns, case ignored. One without a slash is compared with each name, one with a
    slash with the path below the folder that is searched.
    """

    def __init__(self, exclude: Sequence[str] = ()) -> None:
        patterns = [pattern.rstrip("/") for pattern in exclude if pattern.strip("/")]
        self._names = _any_of(p for p in patterns if "/" not in p)
        self._paths = _any_of(p.removeprefix("/") for p in patterns if "/" in p)

    def reason(self, name: str, inside: str) -> tuple[Kind, str] | None:
        """Return why ``name`` is passed over, or None; ``inside``: its path below the folder."""
        if (tool := _tool(name)) is not None:
            return Kind.TOOLS, tool
        if (self._names and self._names.match(name)) or (self._paths and self._paths.match(inside)):
            return Kind.EXCLUDED, ""
        return (Kind.HIDDEN, "") if name[0] == "." else None

    def reason_in_path(self, path: str) -> tuple[Kind, str] | None:
        """Return why a member of a tar is passed over, for any part of its path, or None."""
        inside = ""
        for name in path.split("/"):
            if name in ("", ".", ".."):
                continue
            inside = f"{inside}/{name}" if inside else name
            if (reason := self.reason(name, inside)) is not None:
                return reason
        return None


def suffix_of(name: str) -> str:
    """Return a file name's suffix in lower case with its dot, or nothing."""
    return os.path.splitext(name)[1].lower()  # noqa: PTH122 -- ten times as fast as pathlib


def _tool(name: str) -> str | None:
    folded = name.lower()
    if folded in _TOOL_NAMES:
        return name
    if folded.startswith(_TOOL_PREFIXES):
        return "._*" if folded.startswith("._") else ".Trash*"
    if folded.endswith(_TOOL_SUFFIXES):
        return "*.lrdata"
    return None


def _any_of(patterns: Iterable[str]) -> re.Pattern[str] | None:
    joined = "|".join(translate(pattern) for pattern in patterns)
    return re.compile(joined, re.IGNORECASE) if joined else None

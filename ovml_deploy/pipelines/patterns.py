"""Patterns of file names, matched part by part while folders are walked."""

import re
from dataclasses import dataclass
from fnmatch import translate
from functools import lru_cache
from glob import has_magic
from pathlib import Path

_ANY_DEPTH = "**"


@dataclass(frozen=True)
class Match:
    """What a pattern says of a name in a folder.

    ``file``: a file of this name matches. ``other_case``: only in another case. ``inside``: the
    pattern's state in a folder of this name; None where nothing in it can match. ``hidden``: the
    name would match if it did not start with a dot.
    """

    file: bool
    other_case: bool
    inside: "Pattern | None"
    hidden: bool


@dataclass(frozen=True)
class Pattern:
    """A glob pattern below a folder, at one folder: ``states`` are positions in ``parts``.

    As in a shell, ``*`` matches no name that starts with a dot; ``**`` stands for any number of
    folders.
    """

    parts: tuple[str, ...]
    states: frozenset[int]

    @classmethod
    def split(cls, pattern: str) -> "tuple[Path, Pattern]":
        """Return the folder before the first wildcard, and the pattern below it."""
        parts = Path(pattern).parts
        first = next(index for index, part in enumerate(parts) if has_magic(part))
        return Path(*parts[:first]), cls._at(parts[first:], {0})

    def match(self, name: str) -> Match:
        """Compare a name with the parts that may come next."""
        last = len(self.parts) - 1
        file = other_case = hidden = False
        following = set()
        for state in self.states:
            part = self.parts[state]
            fits = part == _ANY_DEPTH or _compiled(part, False).match(name) is not None
            if not fits:
                other_case |= state == last and _compiled(part, True).match(name) is not None
            elif name[0] == "." and part[0] != ".":
                hidden = True
            else:
                file |= state == last
                following.add(state if part == _ANY_DEPTH else state + 1)
        following.discard(len(self.parts))
        inside = self._at(self.parts, following) if following else None
        return Match(file, other_case and not file, inside, hidden)

    def names(self, name: str) -> bool:
        """Whether one of the parts that may come next is this name, or starts with a dot like it."""
        parts = [self.parts[state] for state in self.states]
        return name in parts or (name[0] == "." and any(part[0] == "." for part in parts))

    @classmethod
    def _at(cls, parts: tuple[str, ...], states: set[int]) -> "Pattern":
        """Add the states that are reached where ``**`` stands for no folder."""
        for state in sorted(states):
            while parts[state] == _ANY_DEPTH and state + 1 < len(parts):
                state += 1
                states.add(state)
        return cls(parts, frozenset(states))


@lru_cache(256)
def _compiled(part: str, any_case: bool) -> re.Pattern[str]:
    return re.compile(translate(part), re.IGNORECASE if any_case else 0)

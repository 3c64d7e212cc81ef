"""Hides packages from a Python process: those that ``$OVML_TESTS_HIDDEN`` lists, separated by commas.

Python imports this module at start-up if its folder is on PYTHONPATH. See ``extras.py``.
"""

import os
import sys
from typing import Any

_HIDDEN = frozenset(filter(None, os.environ.get("OVML_TESTS_HIDDEN", "").split(",")))


class _Filter:
    """A finder that does not find hidden packages, and else asks another finder."""

    def __init__(self, finder: Any) -> None:
        self._finder = finder

    def __getattr__(self, name: str) -> Any:
        return getattr(self._finder, name)

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name.partition(".")[0] in _HIDDEN:
            return None
        return self._finder.find_spec(name, path, target)


if _HIDDEN:
    sys.meta_path[:] = [_Filter(finder) for finder in sys.meta_path]  # type: ignore[misc]

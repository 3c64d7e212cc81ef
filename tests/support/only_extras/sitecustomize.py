"""Hides packages from a Python process: modules and distributions that environment variables list.

Python imports this module at start-up if its folder is on PYTHONPATH. See ``extras.py``.
"""

import os
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def _listed(variable: str) -> frozenset[str]:
    return frozenset(filter(None, os.environ.get(variable, "").split(",")))


_HIDDEN = _listed("OVML_TESTS_HIDDEN")
_HIDDEN_DISTRIBUTIONS = _listed("OVML_TESTS_HIDDEN_DISTRIBUTIONS")
_SITE = {os.path.realpath(sysconfig.get_path(name)) for name in ("purelib", "platlib")}


def _is_in_site_packages(spec: Any) -> bool:
    """Return False for a copy that another package brings in a folder of its own, as Ray does."""
    place = next(iter(spec.submodule_search_locations or ()), None) or spec.origin or ""
    return os.path.realpath(Path(place).parent) in _SITE


class _Filter:
    """A finder that does not find hidden packages, and else asks another finder."""

    def __init__(self, finder: Any) -> None:
        self._finder = finder

    def __getattr__(self, name: str) -> Any:
        return getattr(self._finder, name)

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        spec = self._finder.find_spec(name, path, target)
        if spec is not None and name in _HIDDEN and _is_in_site_packages(spec):
            return None
        return spec

    def find_distributions(self, *context: Any) -> Iterator[Any]:
        for found in getattr(self._finder, "find_distributions", lambda *_: ())(*context):
            name = found.metadata["Name"] or ""
            if name.lower().replace("_", "-").replace(".", "-") not in _HIDDEN_DISTRIBUTIONS:
                yield found


if _HIDDEN:
    sys.meta_path[:] = [_Filter(finder) for finder in sys.meta_path]  # type: ignore[misc]

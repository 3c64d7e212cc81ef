"""The packages that an installation with some of the project's extras has, and no others.

The tests' environment holds every extra. A documented command must run with those that its page names,
so it runs in a process that does not find the others' packages.
"""

import re
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
#: A folder whose ``sitecustomize`` hides what two variables list.
HIDING = Path(__file__).parent / "only_extras"
_HIDDEN = "OVML_TESTS_HIDDEN"
_HIDDEN_DISTRIBUTIONS = "OVML_TESTS_HIDDEN_DISTRIBUTIONS"

#: What each command needs, besides a backend.
_NEEDS = {
    "ovml-deploy serve": "serve",
    "ovml-deploy index": "archives",
    "ovml-deploy retag": "archives",
    "ovml-deploy tag-video": "video",
    "ovml-deploy train": "train",
    "python -m export.": "export",
}
#: The same for options.
_OPTIONS = {
    "--mqtt": "mqtt",
    "--kafka": "kafka",
    "--on ray": "ray",
    "--device openvino": "openvino",
    ".parquet": "archives",
    "python -m export.tensorrt": "tensorrt-rtx",
    "--provider openai": "knowledge",
}


def extras_for(line: str) -> frozenset[str] | None:
    """Return the extras that a documented line needs, None if it is no command of this project."""
    if not re.match(r"(ovml-deploy|python -m export\.)", line):
        return None
    found = {extra for part, extra in _NEEDS.items() if line.startswith(part)}
    return frozenset({"cpu"} | found | {extra for part, extra in _OPTIONS.items() if part in line})


@cache
def hiding(extras: frozenset[str]) -> dict[str, str]:
    """Return the variables that hide all packages that these extras do not bring."""
    kept = _closure(extras)
    owners = metadata.packages_distributions()
    modules = [
        module
        for module, names in owners.items()
        if not kept.intersection(map(canonicalize_name, names))
    ]
    others = {canonicalize_name(name) for names in owners.values() for name in names} - kept
    return {_HIDDEN: ",".join(modules), _HIDDEN_DISTRIBUTIONS: ",".join(others)}


def _closure(extras: frozenset[str]) -> set[str]:
    """Return the distributions that the project and these extras require, and what those require."""
    kept: set[str] = {"ovml-deploy", "pip", "setuptools"}
    seen: set[tuple[str, frozenset[str]]] = set()
    waiting = list(_own_requirements(extras))
    while waiting:
        requirement = waiting.pop()
        name, wanted = canonicalize_name(requirement.name), frozenset(requirement.extras)
        if (name, wanted) in seen:
            continue
        seen.add((name, wanted))
        if name == "ovml-deploy":
            waiting.extend(_own_requirements(wanted))
            continue
        kept.add(name)
        waiting.extend(_requirements(name, wanted))
    return kept


def _own_requirements(extras: frozenset[str]) -> Iterator[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    yield from map(Requirement, project["dependencies"])
    for extra in extras:
        yield from map(Requirement, project["optional-dependencies"][extra])


def _requirements(name: str, extras: frozenset[str]) -> Iterator[Requirement]:
    try:
        lines = metadata.requires(name) or []
    except metadata.PackageNotFoundError:  # of another platform, or TensorRT's enterprise edition
        return
    for line in lines:
        requirement = Requirement(line)
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            yield requirement

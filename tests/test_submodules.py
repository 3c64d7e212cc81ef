"""Submodules are imported where they are used, not by chance through another module."""

import ast
import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from importlib.machinery import all_suffixes
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = [
    path
    for folder in ("ovml_deploy", "export", "benchmarks")
    for path in (ROOT / folder).rglob("*.py")
]


#: Not imported for this test, since that takes seconds: both import their public submodules.
_SLOW = {"torch", "ray"}


def _imports(tree: ast.AST) -> tuple[dict[str, str], set[str]]:
    """Return the module of each name, and all modules imported by their full name."""
    aliases: dict[str, str] = {}
    modules: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                modules.add(alias.name)
                first = alias.name.partition(".")[0]
                aliases[alias.asname or first] = alias.name if alias.asname else first
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            modules.add(node.module)
            for alias in node.names:
                modules.add(f"{node.module}.{alias.name}")
            if node.module == "ovml_deploy.pipelines.archives.arrow":  # it gives pyarrow as pa
                aliases.update(
                    {alias.name: "pyarrow" for alias in node.names if alias.name == "pa"}
                )
    return aliases, modules


@cache
def _is_submodule(name: str) -> bool:
    """Look for the submodule's file, without an import of its package."""
    top, *parts = name.split(".")
    spec = importlib.util.find_spec(top)
    for root in (spec and spec.submodule_search_locations) or ():
        place = Path(root, *parts)
        modules = (place.with_name(place.name + suffix) for suffix in all_suffixes())
        if (place / "__init__.py").is_file() or any(module.is_file() for module in modules):
            return True
    return False


def unimported(source: str) -> Iterator[str]:
    """Yield each ``package.submodule`` used as an attribute without an import of it."""
    tree = ast.parse(source)
    aliases, modules = _imports(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            package = aliases.get(node.value.id)
            if package is None:
                continue
            name = f"{package}.{node.attr}"
            known = any(module == name or module.startswith(f"{name}.") for module in modules)
            if not known and _is_submodule(name):
                yield name


def test_the_check_finds_the_kind() -> None:
    pytest.importorskip("pyarrow")
    assert list(unimported("import pyarrow as pa\npa.compute.add(1, 2)")) == ["pyarrow.compute"]
    assert list(unimported("import concurrent\nconcurrent.futures")) == ["concurrent.futures"]
    assert not list(unimported("import concurrent.futures\nconcurrent.futures.wait"))
    assert not list(unimported("import sys\nsys.path"))


def _absent(package: str, submodules: set[str]) -> set[str]:
    """Return the submodules that are no attributes after an import of their package alone."""
    parts = sorted(name.removeprefix(f"{package}.") for name in submodules)
    code = f"import {package} as p; print(*(n for n in {parts!r} if not hasattr(p, n)), sep='\\n')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {f"{package}.{part}" for part in done.stdout.split()}


def test_every_submodule_is_imported_where_it_is_used() -> None:
    uses = {
        (str(path.relative_to(ROOT)), name)
        for path in MODULES
        for name in unimported(path.read_text("utf-8"))
    }
    packages = {name.partition(".")[0] for _, name in uses} - _SLOW
    names = {package: {n for _, n in uses if n.startswith(f"{package}.")} for package in packages}
    missing = set().union(*(_absent(package, names[package]) for package in packages))
    assert not sorted(use for use in uses if use[1] in missing)

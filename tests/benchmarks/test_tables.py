"""Tables of the benchmarks, in print and in documents."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
MARK = re.compile(r"<!-- table: (.+?) -->\n(.*?)<!-- end -->", re.DOTALL)


@pytest.fixture
def tables() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tables", ROOT / "benchmarks/tables.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_table_replaces_the_one_under_its_title(tables: ModuleType, tmp_path: Path) -> None:
    document = tmp_path / "page.md"
    document.write_text(
        "a\n<!-- table: one -->\nold\n<!-- end -->\nb\n<!-- table: two -->\n<!-- end -->\nc\n"
    )
    tables.show("one", [["x", "y"], [r"1\g", "2"]], document)
    tables.show("two", [["z"], ["3"]], document)
    assert document.read_text() == (
        "a\n<!-- table: one -->\n| x | y |\n|---|---|\n| 1\\g | 2 |\n<!-- end -->\nb\n"
        "<!-- table: two -->\n| z |\n|---|\n| 3 |\n<!-- end -->\nc\n"
    )


def test_a_table_without_a_place_is_an_error(tables: ModuleType, tmp_path: Path) -> None:
    document = tmp_path / "page.md"
    document.write_text("no marks\n")
    with pytest.raises(ValueError, match="0 places for the table 'one'"):
        tables.show("one", [["x"]], document)
    assert document.read_text() == "no marks\n"


def test_the_accuracy_page_has_all_its_tables() -> None:
    found = dict(MARK.findall((ROOT / "docs/accuracy.md").read_text("utf-8")))
    scripts = "".join(
        (ROOT / "benchmarks" / f"{n}.py").read_text() for n in ("accuracy", "ablations")
    )
    assert {"margins", "claims", "photographs", "tags of the shipped bundle"} <= set(found)
    for title, table in found.items():
        assert table.count("\n|") >= 2, f"the table {title!r} is empty: make accuracy"
        known = title in scripts or title in ("photographs", "mosaics", "cut-outs", "drawings")
        assert known, f"nothing makes the table {title!r}"

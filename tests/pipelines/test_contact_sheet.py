from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ovml_deploy.errors import ImageError, UsageError
from ovml_deploy.pipelines.contact_sheet import Panel, contact_sheet
from ovml_deploy.runtime.results import Tag

BAR = (47, 129, 247)


def tag(label: str, score: float) -> Tag:
    return Tag(label, score, 0.0, 0)


@pytest.fixture
def red(tmp_path: Path) -> str:
    path = tmp_path / "red.png"
    Image.new("RGB", (300, 220), (255, 0, 0)).save(path)
    return str(path)


def count(sheet: Image.Image, colour: tuple[int, int, int]) -> int:
    return int((np.asarray(sheet) == colour).all(axis=2).sum())


@pytest.mark.parametrize(
    ("panels", "columns", "rows"), [(1, 1, 1), (4, 4, 1), (5, 4, 2), (3, 2, 2)]
)
def test_panels_stand_in_rows(red: str, panels: int, columns: int, rows: int) -> None:
    sheet = contact_sheet([Panel(red, {"words": [tag("cat", 0.5)]})] * panels, max(columns, 1))
    one = contact_sheet([Panel(red, {"words": [tag("cat", 0.5)]})])
    assert sheet.mode == "RGB"
    assert sheet.width - 16 == columns * (one.width - 16)
    assert sheet.height - 16 == rows * (one.height - 16)
    assert count(sheet, (255, 0, 0)) == panels * 300 * 220


def test_bars_are_as_long_as_scores(red: str) -> None:
    lengths = [
        count(contact_sheet([Panel(red, {"words": [tag("", score)]})]), BAR)
        for score in (0.25, 0.5, 1.0)
    ]
    assert lengths[0] < lengths[1] < lengths[2]
    assert abs(lengths[2] / lengths[1] - 2) < 0.05


def test_every_vocabulary_and_label_is_drawn(red: str) -> None:
    """Any label can be drawn: long, of another script, or with a line of its own."""
    few = contact_sheet([Panel(red, {"first": [tag("cat", 0.5)]})])
    labels = [tag("cat", 0.5), tag("\u732b [red] caf\u00e9", 0.4), tag("long " * 40, 0.3)]
    many = contact_sheet([Panel(red, {"first": labels, "second": labels[:1]})])
    assert many.height > few.height
    assert count(many, BAR) > count(few, BAR)


def test_small_and_thin_images_fit(tmp_path: Path) -> None:
    Image.new("RGB", (1, 400), (255, 0, 0)).save(tmp_path / "thin.png")
    sheet = contact_sheet([Panel(str(tmp_path / "thin.png"), {"words": []})])
    assert count(sheet, (255, 0, 0)) == 220


def test_nothing_to_draw_is_an_error(red: str) -> None:
    with pytest.raises(UsageError, match="0 panels in 4 columns"):
        contact_sheet([])
    with pytest.raises(UsageError, match="1 panels in 0 columns"):
        contact_sheet([Panel(red, {"words": []})], 0)
    with pytest.raises(ImageError, match="no such file"):
        contact_sheet([Panel("absent.jpg", {"words": []})])

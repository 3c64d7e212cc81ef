"""Draws images with their tags beneath them, as one picture."""

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from ovml_deploy.errors import UsageError
from ovml_deploy.runtime.images import open_image
from ovml_deploy.runtime.results import Tag

_PICTURE = (300, 220)
_MARGIN = 16
_LINE = 22
_BACKGROUND, _INK, _MUTED, _BAR, _TRACK = "#ffffff", "#1b1f24", "#656d76", "#2f81f7", "#e7ecf1"


@dataclass(frozen=True)
class Panel:
    """One image and, by vocabulary name, its tags."""

    source: str
    tags: dict[str, Sequence[Tag]]


def contact_sheet(panels: Sequence[Panel], columns: int = 4) -> Image.Image:
    """Return an RGB picture of ``panels`` in rows of ``columns``, tags with their scores as bars."""
    if not panels or columns < 1:
        raise UsageError(f"{len(panels)} panels in {columns} columns make no picture.")
    columns = min(columns, len(panels))
    lines = max(sum(1 + len(tags) for tags in panel.tags.values()) for panel in panels)
    width, height = _PICTURE[0] + _MARGIN, _PICTURE[1] + lines * _LINE + 2 * _MARGIN
    rows = -(-len(panels) // columns)
    sheet = Image.new("RGB", (columns * width + _MARGIN, rows * height + _MARGIN), _BACKGROUND)
    for index, panel in enumerate(panels):
        row, column = divmod(index, columns)
        _draw(sheet, panel, _MARGIN + column * width, _MARGIN + row * height)
    return sheet


def _draw(sheet: Image.Image, panel: Panel, left: int, top: int) -> None:
    image = open_image(panel.source)
    image.thumbnail(_PICTURE)
    sheet.paste(image, (left + (_PICTURE[0] - image.width) // 2, top))
    draw = ImageDraw.Draw(sheet)
    y = top + _PICTURE[1] + _LINE // 3
    for name, tags in panel.tags.items():
        draw.text((left, y), name, fill=_MUTED, font=_font(13))
        y += _LINE
        for tag in tags:
            _draw_tag(draw, tag, left, y)
            y += _LINE


def _draw_tag(draw: ImageDraw.ImageDraw, tag: Tag, left: int, y: int) -> None:
    bar = left + _PICTURE[0] // 2
    length = _PICTURE[0] // 2 - 40
    draw.text((left, y), tag.label, fill=_INK, font=_font(15))
    draw.rectangle((bar, y + 5, bar + length, y + 13), fill=_TRACK)
    draw.rectangle((bar, y + 5, bar + round(length * tag.score), y + 13), fill=_BAR)
    draw.text((bar + length + 6, y), f"{tag.score:.2f}", fill=_MUTED, font=_font(13))


def _font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)

"""Prepares cut-outs: Debian's Tux Paint stamps (photographic) and emoji in three drawn styles.

A cut-out is kept where its English name is a noun for something in the taxonomy. Each is written
as a PNG named by its WordNet offset, one folder for each style. Nothing of it is committed or
shipped: the stamps are GPL, and openmoji, the style kept for testing, is CC-BY-SA.
"""

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from ovml_deploy.errors import DataError, MissingDependencyError
from ovml_deploy.files import write_folder_atomically
from ovml_deploy.training.mini.taxonomy import Taxonomy
from ovml_deploy.training.wordnet import NounIndex

STAMPS_FOLDER = Path("/usr/share/tuxpaint/stamps")
STAMPS = "stamps"
#: Drawn styles: two to train on, one that is only tested on.
TRAIN_STYLES, TEST_STYLE = ("noto", "fluent-emoji-flat"), "openmoji"

_ARTICLE = re.compile(r"^(a|an|the|some)\s+")
_NOT_PHOTOGRAPHS = ("cartoon", "toys", "symbols")
_SENSES = 2  # a rarer meaning is hardly the one that was drawn
_DRAWN_SIZE = 192


def make_cutouts(folder: Path, icons: Path, taxonomy: Taxonomy, index: NounIndex) -> None:
    """Write ``folder/STYLE/OFFSET_name.png`` for every style, unless the folder is there.

    ``icons/STYLE/icons.json`` are the icon sets of the npm packages ``@iconify-json/STYLE``. Raises
    DataError or MissingDependencyError for what is absent.
    """
    if folder.is_dir():
        return
    with write_folder_atomically(folder) as target:
        _write_stamps(target / STAMPS, taxonomy, index)
        for style in (*TRAIN_STYLES, TEST_STYLE):
            _write_icons(target / style, icons / style / "icons.json", taxonomy, index)


def find_meaning(phrase: str, taxonomy: Taxonomy, index: NounIndex) -> str | None:
    """Return the offset of what a phrase's last words name, the longest name first, or None.

    "Seville orange" is an orange, "brown bear" a brown bear. Plurals count as well.
    """
    words = _ARTICLE.sub("", phrase.lower().strip(" .!")).replace("-", " ").split()
    for start in range(len(words)):
        tail = " ".join(words[start:])
        for noun in (tail, tail.removesuffix("s"), tail.removesuffix("es")):
            for sense in index.senses.get(noun, ())[:_SENSES]:
                if sense in taxonomy and taxonomy.is_visible(sense):
                    return sense
    return None


def _write_stamps(folder: Path, taxonomy: Taxonomy, index: NounIndex) -> None:
    if not STAMPS_FOLDER.is_dir():
        raise MissingDependencyError(
            f"The cut-outs are not at {STAMPS_FOLDER}. Install them: "
            "apt-get install tuxpaint-stamps-default"
        )
    folder.mkdir(parents=True)
    for path, name in _photographic_stamps():
        offset = find_meaning(name, taxonomy, index)
        if offset is not None:
            with Image.open(path) as image:
                image.convert("RGBA").save(folder / f"{offset}_{path.stem}.png")


def _photographic_stamps() -> Iterator[tuple[Path, str]]:
    """Yield each stamp that is no drawing and no mirror image, with its English name."""
    for path in sorted(STAMPS_FOLDER.rglob("*.png")):
        drawn = not set(_NOT_PHOTOGRAPHS).isdisjoint(path.parts)
        description = path.with_suffix(".txt")
        if not drawn and not path.stem.endswith(("_mirror", "_flip")) and description.is_file():
            yield path, description.read_text("utf-8", errors="replace").splitlines()[0]


def _write_icons(folder: Path, icons: Path, taxonomy: Taxonomy, index: NounIndex) -> None:
    if not icons.is_file():
        raise DataError(
            f"There is no icon set {icons}. 'make mini' fetches it: npm pack "
            f"@iconify-json/{folder.name}"
        )
    folder.mkdir(parents=True)
    content = json.loads(icons.read_text("utf-8"))
    for name, icon in content["icons"].items():
        senses = index.senses.get(name.replace("-", " "), ())[:1]
        if senses and senses[0] in taxonomy and taxonomy.is_visible(senses[0]):
            width = icon.get("width", content.get("width", 16))
            height = icon.get("height", content.get("height", 16))
            path = folder / f"{senses[0]}_{name}.png"
            _render(icon["body"], width, height).save(path)


def _render(body: str, width: float, height: float) -> Image.Image:
    try:
        import resvg_py
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            "Drawing the icons needs 'resvg-py', which is not installed. Install it: "
            "pip install 'ovml-deploy[mini]'"
        ) from error
    header = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">'
    png = resvg_py.svg_to_bytes(
        svg_string=f"{header}{body}</svg>", width=_DRAWN_SIZE, height=_DRAWN_SIZE
    )
    return Image.open(io.BytesIO(bytes(png))).convert("RGBA")

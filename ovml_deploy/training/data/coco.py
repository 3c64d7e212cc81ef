"""COCO instances, as a file or in the official folders.

COCO is exhaustive over its categories: one without an instance in an image is negative. Images
without any annotation are kept, and so is the order of the categories.
"""

import json
from pathlib import Path
from typing import Any

from ovml_deploy.errors import DataError
from ovml_deploy.training.data.dataset import Dataset, Record
from ovml_deploy.training.data.text_files import existing_folder, read_text

_INSTANCES = "instances_{}.json"


def coco_parts(folder: Path) -> tuple[str, ...]:
    """Return the parts of a folder that holds ``annotations/instances_PART.json``."""
    found = (folder / "annotations").glob(_INSTANCES.format("*"))
    return tuple(sorted(path.stem.removeprefix("instances_") for path in found))


def read_coco_part(folder: Path, part: str, images: Path | None) -> Dataset:
    """Read ``annotations/instances_PART.json`` with the images of the folder ``PART``."""
    source = folder / "annotations" / _INSTANCES.format(part)
    return read_coco(source, existing_folder(images or folder / part))


def read_coco(source: Path, folder: Path) -> Dataset:
    """Read COCO instances whose image names start at ``folder``. Raises DataError."""
    try:
        content = json.loads(read_text(source))
    except (ValueError, RecursionError) as error:  # also for numbers and nesting beyond all reason
        raise DataError(f"{str(source)!r} is not JSON: {error}.") from error
    images, categories, annotations = (
        _section(content, name, source) for name in ("images", "categories", "annotations")
    )
    if not images:
        raise DataError(f"{str(source)!r} names no images.")
    if not categories:
        raise DataError(f"{str(source)!r} names no categories.")
    names = _by_id(categories, "name", "category", source)
    files = _by_id(images, "file_name", "image", source)
    present: dict[Any, dict[str, None]] = {image: {} for image in files}
    for annotation in annotations:
        image = _field(annotation, "image_id", "annotation", source)
        category = _field(annotation, "category_id", "annotation", source)
        for what, identifier, known in (("image", image, files), ("category", category, names)):
            if identifier not in known:
                raise DataError(
                    f"{str(source)!r}: annotation {annotation.get('id', '?')!r} names the {what} "
                    f"{identifier!r}, which is absent."
                )
        present[image][names[category]] = None
    records = tuple(Record(folder / file, tuple(present[i]), None) for i, file in files.items())
    return Dataset(source, records, tuple(dict.fromkeys(names.values())), lists_labels=True)


def _section(content: Any, name: str, source: Path) -> list[Any]:
    section = content.get(name) if isinstance(content, dict) else None
    if not isinstance(section, list):
        raise DataError(f"{str(source)!r} is not COCO instances: it has no list {name!r}.")
    return section


def _by_id(entries: list[Any], key: str, what: str, source: Path) -> dict[Any, str]:
    values: dict[Any, str] = {}
    for entry in entries:
        identifier = _field(entry, "id", what, source)
        value = str(_field(entry, key, what, source)).strip()
        if not value:
            raise DataError(f"{str(source)!r}: {what} {identifier!r} has an empty {key!r}.")
        if identifier in values:
            raise DataError(f"{str(source)!r}: two of its {what} entries have id {identifier!r}.")
        values[identifier] = value
    return values


def _field(entry: Any, key: str, what: str, source: Path) -> Any:
    value = entry.get(key) if isinstance(entry, dict) else None
    if not isinstance(value, (str, int)):
        raise DataError(f"{str(source)!r}: this {what} needs {key!r}: {str(entry)[:80]}.")
    return value

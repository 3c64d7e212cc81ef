"""PASCAL VOC's image classification layout (VOC2007 and later years).

``ImageSets/Main/CLASS_PART.txt`` says of every image of a part whether it shows the class: 1 yes,
-1 no, 0 only objects marked "difficult", which the challenge leaves out: here unknown. Images are
``JPEGImages/ID.jpg``. (VOC2007 development kit, section 4.1.)
"""

import re
from pathlib import Path

from ovml_deploy.errors import DataError
from ovml_deploy.training.data.dataset import Dataset, Record
from ovml_deploy.training.data.text_files import check_counts, existing_folder, read_lines

_CLASS_FILE = re.compile(r"(?P<label>.+)_(?P<part>train|trainval|val|test)\.txt")
#: VOC's file names run words together; a text encoder wants them apart, as the kit's text has them.
_WORDS = {
    "diningtable": "dining table",
    "pottedplant": "potted plant",
    "tvmonitor": "tv monitor",
}


def voc_parts(folder: Path) -> tuple[str, ...]:
    """Return the parts that ``ImageSets/Main`` has class files of."""
    return tuple(sorted({part for _, part in _class_files(folder)}))


def read_voc_part(folder: Path, part: str, images: Path | None) -> Dataset:
    """Read the class files of one part; classes in alphabetical order. Raises DataError."""
    photographs = existing_folder(images or folder / "JPEGImages")
    files = {label: path for (label, of), path in _class_files(folder).items() if of == part}
    first = next(iter(files.values()))
    identifiers = [identifier for identifier, _ in _read_class(first)]
    positive: list[list[str]] = [[] for _ in identifiers]
    negative: list[list[str]] = [[] for _ in identifiers]
    for label, path in files.items():
        rows = _read_class(path)
        check_counts(path, len(rows), first, len(identifiers))
        for index, (identifier, value) in enumerate(rows):
            if identifier != identifiers[index]:
                raise DataError(
                    f"{str(path)!r}, line {index + 1}: image {identifier!r}, where {str(first)!r} "
                    f"has {identifiers[index]!r}. The class files of a part list the same images."
                )
            if value:
                (positive if value > 0 else negative)[index].append(label)
    records = tuple(
        Record(photographs / f"{identifier}.jpg", tuple(shown), tuple(absent))
        for identifier, shown, absent in zip(identifiers, positive, negative, strict=True)
    )
    return Dataset(Path(f"{folder}:{part}"), records, tuple(files), lists_labels=True)


def _class_files(folder: Path) -> dict[tuple[str, str], Path]:
    """Class files by label and part."""
    found = {}
    for path in sorted((folder / "ImageSets" / "Main").glob("*_*.txt")):
        if match := _CLASS_FILE.fullmatch(path.name):
            label = match["label"]
            found[_WORDS.get(label, label), match["part"]] = path
    return found


def _read_class(path: Path) -> list[tuple[str, int]]:
    rows = []
    for number, line in enumerate(read_lines(path), start=1):
        identifier, _, value = line.partition(" ")
        if value.strip() not in ("1", "0", "-1"):
            raise DataError(
                f"{str(path)!r}, line {number}: {line!r} is not an image and 1, 0 or -1."
            )
        rows.append((identifier, int(value)))
    if not rows:
        raise DataError(f"{str(path)!r} names no images.")
    return rows

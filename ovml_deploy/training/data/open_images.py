"""Open Images (V4 to V7): image-level labels with their official file names.

``PART-annotations-human-imagelabels.csv`` (ImageID,Source,LabelName,Confidence) holds what people
verified: 1 is positive, 0 negative, everything else unknown, and so is a label that they judged both
ways. ``PART-annotations-machine-imagelabels.csv`` holds a classifier's guesses with fractions for
confidence: positive from a threshold upwards, else unknown. ``class-descriptions.csv`` names the
labels' MIDs; MIDs that it does not name are left out, and those that share a name are one label.
Images are ``PART/ID.jpg``, or ``train_0/0...jpg`` to ``train_f`` as the archives unpack.
"""

import csv
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from ovml_deploy.errors import DataError
from ovml_deploy.training.data.dataset import Dataset, Record
from ovml_deploy.training.data.text_files import existing_folder, read_text

MACHINE_CONFIDENCE = 0.5

_LABEL_FILE = re.compile(
    r"(oidv\d+-)?(?P<part>train|validation|val|test)-annotations-(?P<by>human|machine)"
    r"-imagelabels(-boxable)?\.csv"
)
_COLUMNS = ("ImageID", "LabelName", "Confidence")
_FOLDERS = ("train", "validation", "val", "test")


def open_images_parts(folder: Path) -> tuple[str, ...]:
    """Return the parts there are label files of: "train", "test-machine", ..."""
    return tuple(sorted(_label_files(folder)))


def read_open_images_part(folder: Path, part: str, images: Path | None) -> Dataset:
    """Read a part; of a machine's labels those from ``PART@CONFIDENCE`` up. Raises DataError."""
    name, _, confidence = part.partition("@")
    threshold = _threshold(part, confidence)
    source = _label_files(folder)[name]
    names = _read_descriptions(folder)
    image_path = _image_path(folder, name.removesuffix("-machine"), images)
    seen: dict[str, dict[str, bool | None]] = {}
    for image, mid, value, where in _read_rows(source):
        label = names.get(mid)
        verdict = _verdict(value, threshold, where)
        labels = seen.setdefault(image, {})
        if label is not None and verdict is not None:
            labels[label] = verdict if labels.get(label, verdict) is verdict else None
    records = tuple(
        Record(
            image_path(image),
            tuple(label for label, verdict in labels.items() if verdict is True),
            tuple(label for label, verdict in labels.items() if verdict is False),
        )
        for image, labels in seen.items()
    )
    mentioned = {label for labels in seen.values() for label in labels}
    if not mentioned:
        raise DataError(
            f"{str(source)!r} names no label that the class descriptions in {str(folder)!r} have"
            + (f" with a confidence of {threshold} or more." if threshold is not None else ".")
        )
    ordered = tuple(label for label in dict.fromkeys(names.values()) if label in mentioned)
    return Dataset(Path(f"{folder}:{part}"), records, ordered, aliases=names)


def _label_files(folder: Path) -> dict[str, Path]:
    """Label files by part, from the folder itself or the part's own folder below it."""
    places = [*folder.glob("*-imagelabels*.csv")]
    for name in _FOLDERS:  # not searched: it may hold a million images
        for by in ("human", "machine"):
            places.append(folder / name / f"{name}-annotations-{by}-imagelabels.csv")
    found: dict[str, Path] = {}
    for path in sorted(place for place in places if place.is_file()):
        if match := _LABEL_FILE.fullmatch(path.name):
            part = "validation" if match["part"] == "val" else match["part"]
            found.setdefault(part if match["by"] == "human" else f"{part}-machine", path)
    return found


def _threshold(part: str, confidence: str) -> float | None:
    """The least confidence of a machine's label; None for people's."""
    machine = part.partition("@")[0].endswith("-machine")
    if not confidence and "@" not in part:
        return MACHINE_CONFIDENCE if machine else None
    try:
        value = float(confidence)
    except ValueError:
        value = -1.0
    if not machine or not 0 < value <= 1:
        raise DataError(
            f"{part!r} is no part: a machine's labels may have a least confidence in (0, 1] after "
            "an @, as in train-machine@0.7; people's have none."
        )
    return value


def _verdict(value: float, threshold: float | None, where: str) -> bool | None:
    """Whether a label is there; None where that is unknown."""
    if threshold is not None:
        return True if value >= threshold else None
    if value not in (0.0, 1.0):
        raise DataError(f"{where}: people's confidence is 0 or 1, not {value}.")
    return value == 1.0


def _read_rows(source: Path) -> Iterator[tuple[str, str, float, str]]:
    """Image, MID, confidence and place of every row; line by line, for there are 28 million."""
    with open(source, encoding="utf-8-sig", errors="replace", newline="") as file:
        rows = csv.reader(file)
        checked = _well_formed(rows, source)
        header = next(checked, [])
        missing = [name for name in _COLUMNS if name not in header]
        if missing:
            raise DataError(f"{str(source)!r} has no column {missing[0]!r}; it has {header}.")
        image, mid, confidence = (header.index(name) for name in _COLUMNS)
        for row in checked:
            where = f"{str(source)!r}, line {rows.line_num}"
            if len(row) != len(header):
                raise DataError(f"{where}: {len(row)} cells instead of {len(header)}.")
            try:
                value = float(row[confidence])
            except ValueError:
                raise DataError(f"{where}: {row[confidence]!r} is no confidence.") from None
            yield row[image], row[mid], value, where


def _well_formed(rows: Iterator[list[str]], source: Path) -> Iterator[list[str]]:
    """Pass rows on. Raises DataError where a stray quote has swallowed the lines after it."""
    try:
        yield from rows
    except csv.Error as error:
        raise DataError(f"{str(source)!r} is not a CSV file: {error}.") from error


def _read_descriptions(folder: Path) -> dict[str, str]:
    """Names by MID."""
    files = [p for p in sorted(folder.glob("*class-descriptions*.csv")) if "boxable" not in p.name]
    if len(files) != 1:
        raise DataError(
            f"{str(folder)!r} needs one file of names, class-descriptions.csv or the like; it has "
            f"{len(files)}."
        )
    names = {}
    for row in _well_formed(csv.reader(read_text(files[0]).splitlines()), files[0]):
        if len(row) < 2 or not row[1].strip():
            raise DataError(f"{str(files[0])!r}: {row} is not a MID and a name.")
        if row[0] != "LabelName":  # the header of V6 and V7
            names[row[0].strip()] = row[1].strip()
    return names


def _image_path(folder: Path, part: str, images: Path | None) -> Callable[[str], Path]:
    """A function that gives the path of an image's ID."""
    if images is None and not (folder / part).is_dir() and (folder / f"{part}_0").is_dir():
        return lambda identifier: folder / f"{part}_{identifier[:1]}" / f"{identifier}.jpg"
    photographs = existing_folder(images or folder / part)
    return lambda identifier: photographs / f"{identifier}.jpg"

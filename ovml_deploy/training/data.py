"""Multi-label data: the official CSV layout and COCO instances, and the seen/unseen split.

A target is 1 (positive), 0 (negative) or -1 (unknown). What a file leaves unsaid:

- A CSV whose negatives are missing or empty in every row is annotated exhaustively, as NUS-WIDE:
  a label that is not positive is negative.
- Otherwise its negatives are explicit, as Open Images': a label that a row names neither positive
  nor negative is unknown for that row, even where the row names no negative at all.
- COCO is exhaustive over its categories: one without an instance in an image is negative.
"""

import csv
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ovml_deploy.errors import DataError

POSITIVE, NEGATIVE, UNKNOWN = 1, 0, -1

_SEPARATOR = "|"
_IMAGE_COLUMN = "image_path"
_POSITIVE_COLUMNS = ("posi_labels", "seen_posi_labels", "unseen_posi_labels")
_NEGATIVE_COLUMNS = ("nega_labels", "seen_nega_labels", "unseen_nega_labels")
#: Open Images rows list thousands of negatives; csv's own limit of 128 KiB is too small.
_FIELD_LIMIT = 64 * 1024 * 1024


@dataclass(frozen=True)
class Record:
    """One image and its labels; ``negative`` is None where every other label is negative."""

    path: Path
    positive: tuple[str, ...]
    negative: tuple[str, ...] | None


@dataclass(frozen=True)
class Dataset:
    """Records in file order, and the labels of the file: by first mention, or COCO's order.

    ``lists_labels``: the file itself says which labels were looked for (COCO's categories).
    """

    source: Path
    records: tuple[Record, ...]
    labels: tuple[str, ...]
    lists_labels: bool = False

    def targets(self, labels: Sequence[str]) -> np.ndarray:
        """Return targets int8 ``[N, K]`` of the records for ``labels`` (K of them).

        Labels of the records that are not among ``labels`` are left out. A label outside a list
        of categories is unknown, not negative: nobody looked for it.
        """
        column = {label: index for index, label in enumerate(labels)}
        closed = np.full(len(labels), NEGATIVE, dtype=np.int8)
        if self.lists_labels:
            own = set(self.labels)
            closed[[index for label, index in column.items() if label not in own]] = UNKNOWN
        targets = np.full((len(self.records), len(labels)), UNKNOWN, dtype=np.int8)
        for row, record in zip(targets, self.records, strict=True):
            if record.negative is None:
                row[:] = closed
            else:
                row[[column[label] for label in record.negative if label in column]] = NEGATIVE
            row[[column[label] for label in record.positive if label in column]] = POSITIVE
        return targets


@dataclass(frozen=True)
class Split:
    """Labels to train on (seen) and labels kept for evaluation only (unseen)."""

    seen: tuple[str, ...]
    unseen: tuple[str, ...] = ()

    @property
    def labels(self) -> tuple[str, ...]:
        """All labels, seen ones first."""
        return self.seen + self.unseen


def read_dataset(path: str | Path, images: str | Path | None = None) -> Dataset:
    """Read COCO instances (``.json``) or the official CSV (any other name).

    Relative image paths start at ``images``, or else at the file's own folder. Raises DataError.
    """
    source = Path(path)
    if not source.is_file():
        raise DataError(f"There is no data file {str(source)!r}.")
    folder = Path(images) if images is not None else source.parent
    if not folder.is_dir():
        raise DataError(f"There is no image folder {str(folder)!r}.")
    if source.suffix.lower() == ".json":
        return _read_coco(source, folder)
    return _read_csv(source, folder)


def read_unseen(path: str | Path) -> tuple[str, ...]:
    """Read unseen labels from a UTF-8 text file, one a line. Raises DataError."""
    source = Path(path)
    if not source.is_file():
        raise DataError(f"There is no file of unseen labels {str(source)!r}.")
    labels = tuple(line.strip() for line in _read_text(source).split("\n") if line.strip())
    if not labels:
        raise DataError(f"{str(source)!r} names no label; leave --unseen away to train on all.")
    return tuple(dict.fromkeys(labels))


def make_split(train: Dataset, val: Dataset | None, unseen: Iterable[str] = ()) -> Split:
    """Split the labels of the training and validation data.

    Seen are the training data's labels but for ``unseen``. A label that only the validation data
    name cannot be learnt, so it is unseen too. Raises DataError.
    """
    named = dict.fromkeys(train.labels + (val.labels if val is not None else ()))
    held_back = tuple(dict.fromkeys(unseen))
    strange = [label for label in held_back if label not in named]
    if strange:
        raise DataError(
            f"{_some(strange)} of the unseen labels occur in no data file. Correct their spelling "
            "or take them out of the list."
        )
    seen = tuple(label for label in train.labels if label not in set(held_back))
    if not seen:
        raise DataError(
            f"{str(train.source)!r} leaves no label to train on: {len(train.labels)} labels, "
            f"{len(held_back)} of them unseen."
        )
    known = set(train.labels)
    late = tuple(label for label in named if label not in known and label not in set(held_back))
    return Split(seen, held_back + late)


def _read_csv(source: Path, folder: Path) -> Dataset:
    rows = list(_csv_rows(source))
    explicit = any(negative for _, _, negative in rows)
    records = tuple(
        Record(folder / path, positive, negative if explicit else None)
        for path, positive, negative in rows
    )
    if not records:
        raise DataError(f"{str(source)!r} names no images: there are no rows below the header.")
    mentioned = (label for record in records for label in _mentioned(record))
    labels = tuple(dict.fromkeys(mentioned))
    if not labels:
        raise DataError(f"{str(source)!r} names no labels: every label cell is empty.")
    return Dataset(source, records, labels)


def _mentioned(record: Record) -> tuple[str, ...]:
    return record.positive + (record.negative or ())


def _csv_rows(source: Path) -> Iterator[tuple[str, tuple[str, ...], tuple[str, ...]]]:
    limit = csv.field_size_limit(_FIELD_LIMIT)
    try:
        reader = csv.DictReader(io.StringIO(_read_text(source), newline=""))
        header = [name.strip() for name in reader.fieldnames or ()]
        reader.fieldnames = header
        positives = [name for name in _POSITIVE_COLUMNS if name in header]
        negatives = [name for name in _NEGATIVE_COLUMNS if name in header]
        if _IMAGE_COLUMN not in header or not positives:
            missing = _IMAGE_COLUMN if _IMAGE_COLUMN not in header else _POSITIVE_COLUMNS[0]
            raise DataError(
                f"{str(source)!r} has no column {missing!r}; its columns are {header}. The header "
                "of the official layout is image_path,posi_labels,nega_labels."
            )
        for row in reader:
            where = f"{str(source)!r}, line {reader.line_num}"
            path = (row[_IMAGE_COLUMN] or "").strip()
            if not path:
                raise DataError(f"{where}: the image path is empty.")
            yield path, *_row_labels(row, positives, negatives, where)
    except csv.Error as error:
        raise DataError(f"{str(source)!r} is not a CSV file: {error}.") from error
    finally:
        csv.field_size_limit(limit)


def _row_labels(
    row: dict[str, str | None], positives: list[str], negatives: list[str], where: str
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    if None in row:  # DictReader's key for cells beyond the header
        raise DataError(f"{where}: more cells than the header has. Quote paths that hold a comma.")
    positive = _labels([row[name] for name in positives], where)
    negative = _labels([row[name] for name in negatives], where)
    both = set(positive) & set(negative)
    if both:
        raise DataError(f"{where}: {_some(sorted(both))} is both positive and negative.")
    return positive, negative


def _labels(cells: list[str | None], where: str) -> tuple[str, ...]:
    labels: list[str] = []
    for cell in cells:
        if cell is None or not cell.strip():
            continue
        labels += [label.strip() for label in cell.split(_SEPARATOR)]
        if "" in labels:
            raise DataError(f"{where}: an empty label in {cell!r}; remove the stray '|'.")
    return tuple(dict.fromkeys(labels))


def _read_coco(source: Path, folder: Path) -> Dataset:
    try:
        content = json.loads(_read_text(source))
    except json.JSONDecodeError as error:
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


def _read_text(source: Path) -> str:
    try:
        return source.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{str(source)!r} is not UTF-8 (byte {error.start}). Save it as UTF-8, e.g. with "
            "iconv -f LATIN1 -t UTF-8."
        ) from error
    except OSError as error:
        raise DataError(f"{str(source)!r} cannot be read: {error}.") from error


def _some(labels: Sequence[str]) -> str:
    shown = ", ".join(repr(label) for label in labels[:5])
    return shown if len(labels) <= 5 else f"{shown} and {len(labels) - 5} more"

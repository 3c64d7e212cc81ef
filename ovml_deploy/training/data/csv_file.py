"""The CSV layout of the QKS release.

What a row leaves unsaid:

- A CSV whose negatives are missing or empty in every row is annotated exhaustively, as NUS-WIDE:
  a label that is not positive is negative.
- Otherwise its negatives are explicit, as Open Images': a label that a row names neither positive
  nor negative is unknown for that row, even where the row names no negative at all.
"""

import csv
import io
from collections.abc import Iterator
from pathlib import Path

from ovml_deploy.errors import DataError
from ovml_deploy.training.data.dataset import Dataset, Record
from ovml_deploy.training.data.text_files import read_text, some

_SEPARATOR = "|"
_IMAGE_COLUMN = "image_path"
_POSITIVE_COLUMNS = ("posi_labels", "seen_posi_labels", "unseen_posi_labels")
_NEGATIVE_COLUMNS = ("nega_labels", "seen_nega_labels", "unseen_nega_labels")
#: Open Images rows list thousands of negatives; csv's own limit of 128 KiB is too small.
_FIELD_LIMIT = 64 * 1024 * 1024


def read_csv(source: Path, folder: Path) -> Dataset:
    """Read a CSV whose relative image paths start at ``folder``. Raises DataError."""
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
        reader = csv.DictReader(io.StringIO(read_text(source), newline=""))
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
        raise DataError(f"{where}: {some(sorted(both))} is both positive and negative.")
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

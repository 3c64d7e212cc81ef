"""Label files: text with a label a line, JSON, and CSV with one column."""

import csv
import io
import json
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ovml_deploy.errors import LabelError
from ovml_deploy.runtime.labels import PlacedLabels, Places, check_labels, listed
from ovml_deploy.runtime.text_decoding import decode_text

logger = logging.getLogger(__name__)

_MOST_BYTES = 2 << 30
_AS_TEXT = "Write a UTF-8 text file with one label a line."
_AS_JSON = (
    'Write a list of texts, ["cat", "dog"], or labels with groups, {"cat": "animal", "car": null}.'
)

_LINE_BREAK = re.compile(r"\r\n|\n|\r")
_MARK = "\ufeff"  # a byte order mark inside the text, where files were joined
_COMMENT = re.compile(r"#+(\s|$)")
_BULLET = re.compile(r"[-*\u2022] ")
_QUOTED = re.compile(r"([\"']).+\1$")

#: A CSV's first row of one cell is its header if the cell is one of these words.
_HEADERS = frozenset(
    word + s for word in ("label", "name", "class", "tag", "keyword") for s in ("", "s", "es")
) | {"category", "categories"}
_GROUP_HEADER = ("label", "group")

#: How files begin that are no label files.
_BINARY = (
    (b"PK\x03\x04", "a ZIP archive or an Office document"),
    (b"\xd0\xcf\x11\xe0", "an Office document"),
    (b"%PDF", "a PDF document"),
    (b"{\\rtf", "an RTF document"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"\x89PNG", "a PNG image"),
    (b"GIF8", "a GIF image"),
    (b"RIFF", "a WebP image or other media"),
    (b"II*\x00", "a TIFF image"),
    (b"MM\x00*", "a TIFF image"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"PAR1", "a Parquet file"),
    (b"SQLite format 3", "an SQLite database"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"version https://git-lfs", "a Git LFS pointer instead of the file; run git lfs pull"),
)
_REFUSED_ENDINGS = {
    ".jsonl": "JSON Lines",
    ".ndjson": "JSON Lines",
    ".yaml": "YAML",
    ".yml": "YAML",
    ".toml": "TOML",
    ".xml": "XML",
    ".html": "HTML",
    ".htm": "HTML",
    ".onnx": "an ONNX graph",
}


@dataclass(frozen=True)
class _Entry:
    """A label as it stands in a file, its group or None, and the number of its line or entry."""

    label: str
    group: str | None
    number: int


def read_labels(path: str | Path) -> tuple[str, ...]:
    """Read a label file whose labels name no groups.

    Formats and errors as for :func:`read_grouped_labels`; a group is a LabelError, too.
    """
    labels = read_grouped_labels(path)
    grouped = [
        labels.places.name(position)
        for position, group in enumerate(labels.values(), start=1)
        if group is not None
    ]
    if grouped:
        raise LabelError(
            f"{path}: {listed(grouped)}: a group is named, after a TAB or in a second column. Groups "
            "are not read here; remove them."
        )
    return tuple(labels)


def read_grouped_labels(path: str | Path) -> PlacedLabels:
    """Read a label file, by its ending; return each label's group, or None.

    ``.json``: a list of texts, or an object of labels and groups (a text or null). ``.csv``: one
    column, whose first row may be a header such as ``label``; or two columns with the header
    ``label,group``. Any other ending is text: one label a line, for a prompt-tuned model
    ``forklift<TAB>vehicle``; blank lines and comments (``# ...``) are passed over. The text is UTF-8,
    or UTF-16 or UTF-32 with a byte order mark.

    Raises LabelError where the file is missing or of another kind, and as :func:`check_labels`.
    """
    try:
        unit, entries = _read(Path(path))
        places = Places(unit, [entry.number for entry in entries], str(path))
        labels = check_labels((entry.label for entry in entries), places)
    except LabelError as error:
        raise LabelError(f"{path}: {error}") from error
    groups = (entry.group for entry in entries)
    return PlacedLabels(dict(zip(labels, groups, strict=True)), places)


def _read(path: Path) -> tuple[str, list[_Entry]]:
    ending = path.suffix.lower()
    text = _text(path, ending)
    if ending == ".json":
        return "entry", list(_from_json(text))
    if ending == ".csv":
        return "line", _from_csv(text, path)
    return "line", _from_lines(text, path)


def _text(path: Path, ending: str) -> str:
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise LabelError(
                f"The file has more than {_MOST_BYTES >> 30} GiB. Split the vocabulary."
            )
        content = path.read_bytes()
    except OSError as error:
        raise LabelError(f"The label file cannot be read: {error.strerror}.") from error
    kind = next((kind for start, kind in _BINARY if content.startswith(start)), None)
    kind = kind or _REFUSED_ENDINGS.get(ending)
    if kind is None and content[:512].lstrip()[:5].lower() in (b"<!doc", b"<html", b"<?xml"):
        kind = "an HTML or XML page"
    if kind is not None:
        raise LabelError(f"This is {kind}, not a label file. {_AS_TEXT}")
    try:
        text = decode_text(content)
    except ValueError as error:
        raise LabelError(f"The label file {error}") from error
    if "\0" in text:
        raise LabelError(
            "The file holds NUL bytes: it is binary, or UTF-16 without a byte order mark. "
            f"{_AS_TEXT}"
        )
    return text


class _Object(list[tuple[Any, Any]]):
    """The members of a JSON object, repeated ones included."""


def _from_json(text: str) -> Iterator[_Entry]:
    try:
        value = json.loads(text, object_pairs_hook=_Object)
    except (ValueError, RecursionError) as error:
        raise LabelError(f"The file is not JSON ({error}). {_AS_TEXT}") from error
    if isinstance(value, _Object):
        members = list(value)
        if members and all(label.isdecimal() for label, _ in members):
            raise LabelError(f"The file maps numbers to labels. {_AS_JSON}")
    elif isinstance(value, list):
        members = [(label, None) for label in value]
    else:
        raise LabelError(f"The file holds {_kind(value)}. {_AS_JSON}")
    for number, (label, group) in enumerate(members, start=1):
        if not isinstance(label, str):
            raise LabelError(f"Entry {number} is {_kind(label)}. {_AS_JSON}")
        if not isinstance(group, str | None):
            raise LabelError(f"The group of entry {number} is {_kind(group)}. {_AS_JSON}")
        yield _Entry(label, (group or "").strip() or None, number)


def _kind(value: Any) -> str:
    kinds = {bool: "a truth value", str: "one text", list: "a list", _Object: "an object"}
    return "null" if value is None else kinds.get(type(value), f"the number {value!r:.40}")


def _from_csv(text: str, path: Path) -> list[_Entry]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows: list[tuple[list[str], int]] = []
    line = 1
    try:
        for row in reader:
            cells = [cell.strip().strip(_MARK) for cell in row]
            while cells and not cells[-1]:
                cells.pop()  # of trailing commas
            if cells:
                rows.append((cells, line))
            line = reader.line_num + 1
    except csv.Error as error:
        raise LabelError(f"Line {line} is not CSV ({error}). {_AS_TEXT}") from error
    header = [cell.lower() for cell in rows[0][0]] if rows else []
    grouped = tuple(header) == _GROUP_HEADER
    if grouped or (len(header) == 1 and header[0] in _HEADERS):
        logger.warning("%s: the header %r was passed over.", path, ",".join(rows[0][0]))
        del rows[0]
    for cells, line in rows:
        columns = max(len(cells), *(1 + cell.count(";") + cell.count("\t") for cell in cells))
        if columns > 1 + grouped:
            raise LabelError(
                f"Line {line} has {columns} columns. A CSV file of labels has one column, or two with "
                "the header label,group. A label with commas stands in quotation marks."
            )
    return [_Entry(cells[0], cells[1] if len(cells) > 1 else None, line) for cells, line in rows]


def _from_lines(text: str, path: Path) -> list[_Entry]:
    lines = [
        (line, number)
        for number, raw in enumerate(_LINE_BREAK.split(text), start=1)
        if (line := raw.strip().lstrip(_MARK).strip())
    ]
    rest = [(line, number) for line, number in lines if not _COMMENT.match(line)]
    _refuse_other_formats(rest)
    if passed := len(lines) - len(rest):
        comments = "1 comment line was" if passed == 1 else f"{passed:,} comment lines were"
        logger.warning("%s: %s passed over.", path, comments)
    entries = []
    for line, number in rest:
        label, _, group = line.partition("\t")
        if "\t" in group.strip():
            columns = 1 + line.count("\t")
            raise LabelError(
                f"Line {number} has {columns} columns. A line holds a label, and after a TAB its group."
            )
        entries.append(_Entry(label, group.strip() or None, number))
    return entries


def _refuse_other_formats(lines: Sequence[tuple[str, int]]) -> None:
    """Raise LabelError for lines that are JSON, CSV, a bullet list, or doubtful comments."""
    if not lines:
        return
    if lines[0][0][0] in "[{" and _is_json("\n".join(line for line, _ in lines)):
        raise LabelError("The file holds JSON. Name it .json, or write one label a line.")
    first = lines[0][0]
    if len(lines) == 1 and (parts := len(re.findall("[,;|]", first))):
        raise LabelError(
            f"The file's only line has {parts + 1} parts: {first[:80]!r}. Write one label a line; a "
            'single label with commas can stand in a .json file: ["a, b"].'
        )
    for wrong, what, remedy in (
        (
            _numbers(lines, lambda line: line.endswith(",")),
            "end with a comma",
            "Remove the commas.",
        ),
        (
            _numbers(lines, lambda line: line.startswith("#")),
            "begin with '#'",
            "Write a comment as '# text'; a label that begins with '#' can stand in a .json file.",
        ),
    ):
        if wrong:
            raise LabelError(f"Lines that {what}: {listed(wrong)}. {remedy}")
    for pattern, what, remedy in (
        (_BULLET, "is a bullet list or YAML", "Remove the bullets"),
        (_QUOTED, "has a label in quotation marks on each line", "Name it .csv"),
    ):
        if all(pattern.match(line) for line, _ in lines):
            raise LabelError(f"The file {what}. {remedy}, or write one label a line.")


def _numbers(lines: Sequence[tuple[str, int]], wrong: Callable[[str], bool]) -> list[str]:
    return [f"{number} ({line[:40]!r})" for line, number in lines if wrong(line)]


def _is_json(text: str) -> bool:
    try:
        return isinstance(json.loads(text), list | dict)
    except (ValueError, RecursionError):
        return False

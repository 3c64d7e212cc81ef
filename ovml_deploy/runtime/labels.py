"""Labels: what may be one, and how they are read from a file."""

import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from ovml_deploy.errors import LabelError

MAX_LABEL_CHARS = 256
MAX_LABELS = 5_000_000

_LINE_BREAK = re.compile(r"\r\n|\n|\r")


def check_labels(labels: Iterable[str]) -> tuple[str, ...]:
    """Return labels stripped of outer space, in order.

    Raises LabelError for none, too many, an empty, over-long, duplicate or unprintable one.
    """
    if isinstance(labels, str):
        raise LabelError(f"Labels must be a list; {labels!r} is one text. Write [{labels!r}].")
    seen: dict[str, int] = {}
    for position, label in enumerate(labels, start=1):
        if not isinstance(label, str):
            raise LabelError(
                f"Label {position} is {label!r}, a {type(label).__name__}; labels are text."
            )
        text = label.strip()
        _check_label(text, position)
        if text in seen:
            raise LabelError(
                f"Label {position} ({text!r}) repeats label {seen[text]}. Remove one of them."
            )
        seen[text] = position
        if position > MAX_LABELS:
            raise LabelError(f"More than {MAX_LABELS:,} labels; split the vocabulary.")
    if not seen:
        raise LabelError("There are no labels. Give at least one.")
    return tuple(seen)


def read_labels(path: str | Path) -> tuple[str, ...]:
    """Read a UTF-8 text file with one label a line (blank lines are passed over).

    Raises LabelError where it is missing, not UTF-8, or a label is not acceptable.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise LabelError(
            f"The label file {str(path)!r} cannot be read: {error.strerror}."
        ) from error
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise LabelError(
            f"The label file {str(path)!r} is not UTF-8 (line {line}, byte {error.start}). Convert it, "
            "for example: iconv -f LATIN1 -t UTF-8."
        ) from error
    try:
        return check_labels(line for line in _LINE_BREAK.split(text) if line.strip())
    except LabelError as error:
        raise LabelError(f"{path}: {error}") from error


def _check_label(text: str, position: int) -> None:
    if not text:
        raise LabelError(f"Label {position} is empty. Remove it.")
    if len(text) > MAX_LABEL_CHARS:
        raise LabelError(
            f"Label {position} ({text[:40]!r}...) has {len(text):,} characters; at most "
            f"{MAX_LABEL_CHARS} are allowed. A label is a name, not a document."
        )
    if text.isprintable():
        return
    for character in text:  # most of what isprintable() rejects, such as joiners, is fine
        # surrogates cannot be encoded; controls and line breaks spoil tables, CSV and logs
        if unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp"):
            raise LabelError(
                f"Label {position} ({text!r}) holds the unprintable character {character!r}. Remove it."
            )

"""Labels: what may be one, and how they are read from a file."""

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ovml_deploy.errors import LabelError

MAX_LABEL_CHARS = 256
MAX_LABELS = 5_000_000

#: Labels; or labels with the group of each (None: of no group), which only a prompt-tuned model has.
LabelSource = Sequence[str] | Mapping[str, str | None]

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


def split_groups(labels: LabelSource) -> tuple[tuple[str, ...], dict[str, str]]:
    """Return the labels as :func:`check_labels` does, and the groups of those that name one.

    Raises LabelError, also for a group that is no text.
    """
    checked = check_labels(labels)
    groups: dict[str, str] = {}
    if isinstance(labels, Mapping):
        for label, group in zip(checked, labels.values(), strict=True):
            if group is None:
                continue
            if not isinstance(group, str) or not group.strip():
                raise LabelError(
                    f"The group of {label!r} is {group!r}. Name one of the model's, or None."
                )
            groups[label] = group.strip()
    return checked, groups


def read_labels(path: str | Path) -> tuple[str, ...]:
    """Read a UTF-8 text file with one label a line (blank lines are passed over).

    Raises LabelError where it is missing, not UTF-8, or a label is not acceptable.
    """
    text = _read_text(path)
    try:
        return check_labels(line for line in _LINE_BREAK.split(text) if line.strip())
    except LabelError as error:
        raise LabelError(f"{path}: {error}") from error


def read_grouped_labels(path: str | Path) -> dict[str, str | None]:
    """Read a label file whose lines may name a group after a TAB: ``forklift<TAB>vehicle``.

    Returns each label's group, or None. Raises LabelError as :func:`read_labels`.
    """
    text = _read_text(path)
    try:
        return parse_grouped_labels(text)
    except LabelError as error:
        raise LabelError(f"{path}: {error}") from error


def parse_grouped_labels(text: str) -> dict[str, str | None]:
    """Return the labels of a label file's text, each with its group, or None. Raises LabelError."""
    lines = (line.strip() for line in _LINE_BREAK.split(text))
    parts = [line.partition("\t") for line in lines if line]
    labels = check_labels(label for label, _, _ in parts)
    return {
        label: group.strip() or None for label, (_, _, group) in zip(labels, parts, strict=True)
    }


def format_grouped_labels(labels: Mapping[str, str | None]) -> str:
    """Return the text of which :func:`parse_grouped_labels` makes ``labels`` again."""
    return "\n".join(
        label if group is None else f"{label}\t{group}" for label, group in labels.items()
    )


def _read_text(path: str | Path) -> str:
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise LabelError(
            f"The label file {str(path)!r} cannot be read: {error.strerror}."
        ) from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise LabelError(
            f"The label file {str(path)!r} is not UTF-8 (line {line}, byte {error.start}). Convert it, "
            "for example: iconv -f LATIN1 -t UTF-8."
        ) from error


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

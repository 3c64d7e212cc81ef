"""Labels: the rules for one label and for a list of labels."""

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ovml_deploy.errors import LabelError

MAX_LABEL_CHARS = 256
MAX_LABELS = 5_000_000

#: Labels; or labels with the group of each (None: of no group), which only a prompt-tuned model has.
LabelSource = Sequence[str] | Mapping[str, str | None]

_MOST_LISTED = 200


@dataclass(frozen=True)
class Places:
    """Where labels stand, for messages: by default their positions, counted from 1.

    ``unit``: "label", or for a file "line" or "entry"; ``numbers``: the number of each label there;
    ``source``: the file.
    """

    unit: str = "label"
    numbers: Sequence[int] | None = None
    source: str = ""

    def number(self, position: int) -> int:
        """Return the number of the label at a position, which counts from 1."""
        return position if self.numbers is None else self.numbers[position - 1]

    def name(self, position: int) -> str:
        """Return the place of a label as words: "label 3"."""
        return f"{self.unit} {self.number(position)}"


class PlacedLabels(dict[str, str | None]):
    """Labels that were read from a file: label -> group or None, and their ``places`` there."""

    def __init__(self, labels: Mapping[str, str | None], places: Places) -> None:
        super().__init__(labels)
        self.places = places


def places_of(labels: LabelSource) -> Places:
    """Return where labels stand: in their file, if they come from one."""
    return labels.places if isinstance(labels, PlacedLabels) else Places()


def check_labels(labels: Iterable[str], places: Places | None = None) -> tuple[str, ...]:
    """Return labels stripped of outer space, in order.

    Raises LabelError for none, too many, an empty, over-long or unprintable label, and for repeated
    labels, which are all listed. ``places``: where the labels stand, for these messages.
    """
    if isinstance(labels, str):
        raise LabelError(f"Labels must be a list; {labels!r} is one text. Write [{labels!r}].")
    at = places or Places()
    seen: dict[str, int] = {}
    repeated: list[tuple[int, str]] = []
    for position, label in enumerate(labels, start=1):
        if not isinstance(label, str):
            raise LabelError(
                f"{_place(at, position)} is {label!r}, a {type(label).__name__}; labels are text."
            )
        text = label.strip()
        _check_label(text, at, position)
        if seen.setdefault(text, position) != position:
            repeated.append((position, text))
        if position > MAX_LABELS:
            raise LabelError(f"More than {MAX_LABELS:,} labels; split the vocabulary.")
    if repeated:
        raise LabelError(_repetition(repeated, seen, at))
    if not seen:
        raise LabelError("There are no labels. Give at least one.")
    return tuple(seen)


def listed(items: Sequence[str], most: int = _MOST_LISTED) -> str:
    """Return the items of a message's list, at most ``most`` of them and the number of the others."""
    more = f"; and {len(items) - most:,} more" if len(items) > most else ""
    return "; ".join(items[:most]) + more


def split_groups(labels: LabelSource) -> tuple[tuple[str, ...], dict[str, str]]:
    """Return the labels as :func:`check_labels` does, and the groups of those that name one.

    Raises LabelError, also for a group that is no text.
    """
    checked = check_labels(labels, places_of(labels))
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


def parse_grouped_labels(text: str) -> dict[str, str | None]:
    """Return what :func:`format_grouped_labels` wrote: labels with groups or None. Raises LabelError."""
    lines = (line.strip() for line in re.split(r"\r\n|\n|\r", text))
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


def _repetition(repeated: Sequence[tuple[int, str]], first: Mapping[str, int], at: Places) -> str:
    """Return the message about labels that stand in a list more than once."""
    items = [
        f"{_place(at, position)} ({text!r}) repeats {at.name(first[text])}"
        for position, text in repeated
    ]
    return f"{listed(items)}. Remove {'it' if len(items) == 1 else 'the repeated ones'}."


def _place(at: Places, position: int) -> str:
    return at.name(position).capitalize()


def _check_label(text: str, at: Places, position: int) -> None:
    if not text:
        raise LabelError(f"{_place(at, position)} is empty. Remove it.")
    if len(text) > MAX_LABEL_CHARS:
        raise LabelError(
            f"{_place(at, position)} ({text[:40]!r}...) has {len(text):,} characters; at most "
            f"{MAX_LABEL_CHARS} are allowed. A label is a name, not a document."
        )
    if text.isprintable():
        return
    for character in text:  # most of what isprintable() rejects, such as joiners, is fine
        # surrogates cannot be encoded; controls and line breaks spoil tables, CSV and logs
        if unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp"):
            raise LabelError(
                f"{_place(at, position)} ({text!r}) holds the unprintable character {character!r}. "
                "Remove it."
            )

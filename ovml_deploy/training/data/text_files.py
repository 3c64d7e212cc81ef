"""What every reader needs: text, lines, folders, and the errors about them."""

import re
from collections.abc import Sequence
from pathlib import Path

from ovml_deploy.errors import DataError
from ovml_deploy.runtime.text_decoding import decode_text


def read_text(source: Path) -> str:
    """Return the text of a file in UTF-8, or in UTF-16 or UTF-32 with a mark. Raises DataError."""
    try:
        content = source.read_bytes()
    except OSError as error:
        raise DataError(f"{str(source)!r} cannot be read: {error}.") from error
    try:
        return re.sub("\r\n?", "\n", decode_text(content))
    except ValueError as error:
        raise DataError(f"{str(source)!r} {error}") from error


def read_lines(source: Path) -> list[str]:
    """Return the lines of a text file, stripped, without empty ones. Raises DataError."""
    return [line.strip() for line in read_text(source).split("\n") if line.strip()]


def existing_folder(folder: Path) -> Path:
    """Return the folder of images. Raises DataError where there is none."""
    if not folder.is_dir():
        raise DataError(f"There is no image folder {str(folder)!r}. Name the folder with --images.")
    return folder


def check_counts(source: Path, found: int, other: Path, expected: int) -> None:
    """Raise DataError where two files that go together differ in length."""
    if found != expected:
        raise DataError(
            f"{str(source)!r} has {found:,} lines, but {str(other)!r} names {expected:,} images. One "
            "of them is incomplete; unpack it again."
        )


def some(labels: Sequence[str]) -> str:
    """Return the first labels of a list for a message."""
    shown = ", ".join(repr(label) for label in labels[:5])
    return shown if len(labels) <= 5 else f"{shown} and {len(labels) - 5} more"

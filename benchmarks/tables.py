"""Prints tables, and puts them into a document between the marks that name them."""

import re
from collections.abc import Sequence
from pathlib import Path

Rows = Sequence[Sequence[str]]


def markdown(rows: Rows) -> str:
    """Return rows as a Markdown table; the first is its header."""
    header, *body = ("| " + " | ".join(row) + " |" for row in rows)
    return "\n".join([header, "|" + "---|" * len(rows[0]), *body])


def show(title: str, rows: Rows, document: Path | None = None) -> None:
    """Print a table, and replace the one that ``document`` has under this title.

    The document marks its place: ``<!-- table: TITLE -->`` and ``<!-- end -->``, each on a line.
    Raises ValueError where it does not.
    """
    table = markdown(rows)
    print(f"\n### {title}\n\n{table}", flush=True)
    if document is None:
        return
    begin = f"<!-- table: {title} -->\n"
    pattern = re.compile(re.escape(begin) + r".*?<!-- end -->", re.DOTALL)
    text, places = pattern.subn(
        lambda _: f"{begin}{table}\n<!-- end -->", document.read_text("utf-8")
    )
    if places != 1:
        raise ValueError(f"{document} has {places} places for the table {title!r}, not one.")
    document.write_text(text, "utf-8")

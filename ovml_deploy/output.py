"""Prints results: a table for people, JSON and CSV for machines; progress on a terminal."""

import csv
import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ovml_deploy.errors import UsageError

if TYPE_CHECKING:
    from ovml_deploy.runtime.engine import Engine
    from ovml_deploy.runtime.results import TagResult
    from ovml_deploy.runtime.stages import Stages

FORMATS = ("table", "json", "csv")


def check_format(name: str) -> None:
    """Raise UsageError for a format that does not exist."""
    if name not in FORMATS:
        raise UsageError(f"Unknown format {name!r}. Choose one of: {', '.join(FORMATS)}.")


def print_results(results: Iterable["TagResult"], form: str) -> int:
    """Print results as they come and return how many images failed.

    JSON: an array with one object a line. CSV: one row a tag, and one for a failed image.
    """
    writer = {"table": _write_table, "json": _write_json, "csv": _write_csv}[form]
    failed: list[TagResult] = []
    writer(note_failures(results, failed))
    print_failures(failed)
    return len(failed)


def note_failures(
    results: Iterable["TagResult"], failed: list["TagResult"]
) -> Iterator["TagResult"]:
    """Yield results and add those that failed to ``failed``, too."""
    for result in results:
        if result.error is not None:
            failed.append(result)
        yield result


def print_failures(failed: Iterable["TagResult"]) -> None:
    """Say on standard error what was wrong with each image that failed."""
    failures = Failures()
    for result in failed:
        failures.print(result.source, str(result.error))
    failures.close()


class Failures:
    """Prints failures on standard error, a line each.

    Of those that lack one optional package, the first few are printed, and at last how many more.
    """

    _SHOWN = 3

    def __init__(self) -> None:
        self._missing: Counter[str] = Counter()

    def print(self, source: str, error: str) -> None:
        """Print what was wrong with ``source``."""
        if "pip install 'ovml-deploy[" in error:
            reason = error.removeprefix(f"{source}: ")
            self._missing[reason] += 1
            if self._missing[reason] > self._SHOWN:
                return
        print(f"failed: {error}", file=sys.stderr)

    def close(self) -> None:
        """Print how many more failed for each reason."""
        for reason, count in self._missing.items():
            if count > self._SHOWN:
                print(f"failed: {count - self._SHOWN:,} more: {reason}", file=sys.stderr)


def print_search(passed_over: Iterable[str], unreadable: Sequence[str]) -> int:
    """Print on standard error what a search passed over, a line by kind, and what it could not read.

    Returns how many ``unreadable`` there are.
    """
    for line in passed_over:
        print(f"passed over: {line}", file=sys.stderr)
    for reason in unreadable:
        print(f"failed: {reason}", file=sys.stderr)
    return len(unreadable)


def print_bottleneck(stages: "Stages") -> None:
    """Say on standard error what held up the engine, if anything did."""
    if (stage := stages.bottleneck) is not None:
        share = stages.shares["encoding"]
        print(f"bottleneck: {stage}; {share:.0%} of the engine's own rate", file=sys.stderr)


def print_rows(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a small table for people; ``columns``: their titles, which may all be empty."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(
        title=title, title_justify="left", box=None, pad_edge=False, show_header=any(columns)
    )
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        # labels are data: neither "[red]" nor ":cat:" is markup
        table.add_row(*(Text(str(value)) for value in row))
    Console(width=None if sys.stdout.isatty() else 160).print(table)


def with_progress(items: Iterable[Any], total: int, what: str) -> Iterator[Any]:
    """Yield ``items``, showing a progress bar on standard error if that is a terminal."""
    if not sys.stderr.isatty() or total < 2:
        yield from items
        return
    from rich.console import Console
    from rich.progress import track

    yield from track(items, what, total, console=Console(stderr=True), transient=True)


def show_engine(engine: "Engine") -> None:
    """Say what runs, on a terminal. (What was passed over is logged as a warning.)"""
    if sys.stderr.isatty():
        print(f"runs on: {engine.backend.description}", file=sys.stderr, flush=True)


def show_encoding(done: int, total: int) -> None:
    """Report labels encoded so far, on a terminal."""
    if sys.stderr.isatty():
        end = "\n" if done == total else "\r"
        print(f"encoding labels: {done:,} of {total:,}", end=end, file=sys.stderr, flush=True)


def _write_table(results: Iterable["TagResult"]) -> None:
    rows = []
    for result in results:
        tags = "  ".join(f"{tag.label} {tag.score:.2f}" for tag in result)
        rows.append((result.source, tags if result.error is None else "(failed)"))
    print_rows("", ("image", "tags"), rows)


def _write_json(results: Iterable["TagResult"]) -> None:
    ascii_only = (sys.stdout.encoding or "").lower() not in ("utf-8", "utf8")
    sys.stdout.write("[")
    for index, result in enumerate(results):
        value: dict[str, Any] = {"image": result.source, "vocabulary": result.vocabulary_id}
        if result.error is None:
            value["tags"] = [{"label": t.label, "score": t.score, "query": t.query} for t in result]
        else:
            value["error"] = result.error
        sys.stdout.write((",\n" if index else "\n") + json.dumps(value, ensure_ascii=ascii_only))
    sys.stdout.write("\n]\n")


def _write_csv(results: Iterable["TagResult"]) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(("image", "label", "score", "error"))
    for result in results:
        for tag in result:
            writer.writerow((result.source, tag.label, f"{tag.score:.6f}", ""))
        if result.error is not None:
            writer.writerow((result.source, "", "", result.error))

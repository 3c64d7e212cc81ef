"""Files of events and frames: JSON lines, CSV, and WebVTT, which players show as subtitles."""

import csv
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from ovml_deploy.errors import UsageError
from ovml_deploy.files import write_atomically
from ovml_deploy.pipelines.video.records import Event, FrameResult
from ovml_deploy.pipelines.video.webvtt import webvtt

EVENT_ENDINGS = (".jsonl", ".csv", ".vtt")
FRAME_ENDINGS = (".jsonl", ".csv")

_EVENT_COLUMNS = ("source", "label", "start", "end", "peak", "mean", "frames", "vocabulary")
_FRAME_COLUMNS = ("source", "frame", "time", "label", "score", "vocabulary", "error")


def as_json(record: Event | FrameResult, epoch: float | None = None) -> dict[str, Any]:
    """Return a result as JSON has it. ``epoch``: when time 0 was, for a live source."""
    common = {"source": record.source, "vocabulary": record.vocabulary_id}
    if isinstance(record, FrameResult):
        tags = [{"label": t.label, "score": _rounded(t.score)} for t in record.tags]
        facts: dict[str, Any] = {"frame": record.index, "time": _rounded(record.time), "tags": tags}
        if epoch is not None:
            facts |= {"at": _date(epoch + record.time), "latency": _rounded(record.latency)}
        if record.error is not None:
            facts["error"] = record.error
        return {"type": "frame", **facts, **common}
    facts = {"label": record.label, "start": _rounded(record.start)}
    if not record.ongoing:
        facts["end"] = _rounded(record.end)
    facts |= {"peak": _rounded(record.peak), "mean": _rounded(record.mean), "frames": record.frames}
    if epoch is not None:
        facts["start_at"] = _date(epoch + record.start)
        if not record.ongoing:
            facts["end_at"] = _date(epoch + record.end)
    return {"type": "begin" if record.ongoing else "event", **facts, **common}


def json_line(record: Event | FrameResult, epoch: float | None = None) -> str:
    """Return a result as one line of JSON."""
    return json.dumps(as_json(record, epoch), ensure_ascii=False) + "\n"


def check_ending(path: str, endings: tuple[str, ...]) -> str:
    """Return a file's ending. Raises UsageError for one that stands for nothing here."""
    ending = Path(path).suffix.lower()
    if ending not in endings:
        raise UsageError(f"{path}: the ending says what to write; it is {' or '.join(endings)}.")
    return ending


@contextmanager
def event_file(path: str, epoch: float | None = None) -> Iterator[Callable[[Event], None]]:
    """Yield what writes events into a file, as its ending says. Raises UsageError, OSError.

    It appears whole, when the run ends. With an ``epoch`` (live), JSON lines are appended as they come.
    """
    ending = check_ending(path, EVENT_ENDINGS)
    if ending == ".vtt":
        with _text(path) as file:
            events: list[Event] = []
            yield lambda record: None if record.ongoing else events.append(record)
            file.write(webvtt(events))
        return
    with _appended(path) if ending == ".jsonl" and epoch is not None else _text(path) as file:
        if ending == ".jsonl":
            yield lambda record: _write_line(file, record, epoch)
        else:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(_EVENT_COLUMNS)
            yield lambda record: writer.writerows(_event_rows(record))


@contextmanager
def frame_file(path: str, epoch: float | None = None) -> Iterator[Callable[[FrameResult], None]]:
    """Yield what writes frames into a file, with their tags; otherwise as :func:`event_file`."""
    ending = check_ending(path, FRAME_ENDINGS)
    with _appended(path) if ending == ".jsonl" and epoch is not None else _text(path) as file:
        if ending == ".jsonl":
            yield lambda record: _write_line(file, record, epoch)
        else:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(_FRAME_COLUMNS)
            yield lambda record: writer.writerows(_frame_rows(record))


@contextmanager
def _text(path: str) -> Iterator[TextIO]:
    with (
        write_atomically(path) as temporary,
        open(temporary, "w", encoding="utf-8", newline="") as file,
    ):
        yield file


@contextmanager
def _appended(path: str) -> Iterator[TextIO]:
    """A file that grows line by line, for those who follow it."""
    with open(path, "a", encoding="utf-8", newline="", buffering=1) as file:
        yield file


def _write_line(file: TextIO, record: Event | FrameResult, epoch: float | None) -> None:
    file.write(json_line(record, epoch))


def _event_rows(record: Event) -> Iterator[tuple[object, ...]]:
    if not record.ongoing:
        times = (f"{record.start:.3f}", f"{record.end:.3f}")
        scores = (f"{record.peak:.6f}", f"{record.mean:.6f}")
        place, counted = (record.source, record.label), (record.frames, record.vocabulary_id)
        yield (*place, *times, *scores, *counted)


def _frame_rows(record: FrameResult) -> Iterator[tuple[object, ...]]:
    place = (record.source, record.index, f"{record.time:.3f}")
    for tag in record.tags:
        yield (*place, tag.label, f"{tag.score:.6f}", record.vocabulary_id, "")
    if record.error is not None:
        yield (*place, "", "", record.vocabulary_id, record.error)


def _rounded(value: float) -> float:
    return round(float(value), 6)


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")

"""What is printed can be read back; labels are data, whatever they hold."""

import csv
import io
import json

import pytest

from ovml_deploy import output
from ovml_deploy.errors import UsageError
from ovml_deploy.runtime.results import Tag, TagResult

LABELS = [
    "cat",
    "2024",
    "[red]alarm[/red]",
    "[/]",
    ":cat:",
    'say "hi", now',
    "tail\\",
    "\\n no line break",
    "<b>&amp;</b>",
    "=1+1",
    "\u732b caf\u00e9 \U0001f600",
    "a\u202eb",
]
RESULTS = [
    TagResult("a [b].jpg", tuple(Tag(label, 0.5, 0.0, 3) for label in LABELS), "id1"),
    TagResult("none.jpg", (), "id1"),
    TagResult('bad,"name".jpg', (), "id2", "bad.jpg: it is\nbroken, [red]really"),
]


def printed(capsys, form: str, results=RESULTS) -> tuple[str, str, int]:
    failed = output.print_results(iter(results), form)
    shown = capsys.readouterr()
    return shown.out, shown.err, failed


def test_json_is_json(capsys) -> None:
    text, errors, failed = printed(capsys, "json")
    first, none, bad = json.loads(text)
    assert [tag["label"] for tag in first["tags"]] == LABELS
    assert first["tags"][0] == {"label": "cat", "score": 0.5, "query": 3}
    assert (first["image"], first["vocabulary"]) == ("a [b].jpg", "id1")
    assert none["tags"] == []
    assert bad["error"] == RESULTS[2].error
    assert "tags" not in bad
    assert failed == 1
    assert "failed: bad.jpg: it is\nbroken, [red]really" in errors
    assert json.loads(printed(capsys, "json", [])[0]) == []


def test_json_comes_line_by_line(capsys) -> None:
    lines = printed(capsys, "json")[0].splitlines()
    assert [json.loads(line.rstrip(","))["image"] for line in lines[1:-1]] == [
        result.source for result in RESULTS
    ]


def test_csv_is_csv(capsys) -> None:
    text, _, failed = printed(capsys, "csv")
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert [row["label"] for row in rows[:-1]] == LABELS
    assert {row["score"] for row in rows[:-1]} == {"0.500000"}
    assert rows[-1] == {
        "image": RESULTS[2].source,
        "label": "",
        "score": "",
        "error": RESULTS[2].error,
    }
    assert failed == 1


def test_a_table_shows_labels_as_they_are(capsys) -> None:
    text, errors, failed = printed(capsys, "table")
    joined = " ".join(text.split())
    for label in LABELS:
        assert f"{label} 0.50".replace("  ", " ") in joined
    assert "a [b].jpg" in joined
    assert "(failed)" in joined
    assert failed == 1
    assert errors.startswith("failed: bad.jpg")


def test_results_are_printed_as_they_come(capsys) -> None:
    """A long run that is read through a pipe gives its first results at once."""
    for form in ("json", "csv"):
        seen = []

        def results(form: str = form, seen: list[str] = seen):
            yield RESULTS[0]
            seen.append(capsys.readouterr().out)
            yield RESULTS[1]

        output.print_results(results(), form)
        assert "cat" in seen[0]


@pytest.mark.parametrize("name", output.FORMATS)
def test_formats(name: str) -> None:
    output.check_format(name)


@pytest.mark.parametrize("name", ["xml", "JSON", "True", ""])
def test_an_unknown_format_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="Choose one of: table, json, csv"):
        output.check_format(name)


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_is_for_terminals(capsys, monkeypatch, terminal: bool) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: terminal, raising=False)
    assert list(output.with_progress(iter("abc"), 3, "tagging")) == ["a", "b", "c"]
    output.show_encoding(5, 10)
    output.show_encoding(10, 10)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert ("encoding labels: 10 of 10" in shown.err) == terminal

"""Label files of every format: what is read, what is refused, and what is said."""

import codecs
import json
import logging
from pathlib import Path

import pytest

from ovml_deploy.errors import LabelError
from ovml_deploy.runtime.label_files import read_grouped_labels, read_labels


@pytest.fixture
def write(tmp_path: Path):
    """A function that writes a label file and returns its path."""

    def write(content: bytes | str, name: str = "labels.txt") -> Path:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


TEXT = "cat\r\n\r\n hard hat \r\ncaf\u00e9"


@pytest.mark.parametrize(
    "content",
    [
        TEXT.encode(),
        codecs.BOM_UTF8 + TEXT.encode(),
        codecs.BOM_UTF16_LE + TEXT.encode("utf-16-le"),
        codecs.BOM_UTF16_BE + TEXT.encode("utf-16-be"),
        codecs.BOM_UTF32_LE + TEXT.encode("utf-32-le"),
        codecs.BOM_UTF32_BE + TEXT.encode("utf-32-be"),
        TEXT.replace("\r\n", "\r").encode(),
        TEXT.replace("\r\n", "\n").encode() + b"\n",
        b"cat\n" + codecs.BOM_UTF8 + "hard hat\ncaf\u00e9".encode(),  # of two files, joined
    ],
)
def test_a_text_file_has_one_label_a_line(write, content: bytes, caplog) -> None:
    assert read_labels(write(content)) == ("cat", "hard hat", "caf\u00e9")
    assert not caplog.records


@pytest.mark.parametrize(
    ("name", "content", "labels"),
    [
        ("l.json", '["cat", "traffic light, 3-way", "#1"]', ["cat", "traffic light, 3-way", "#1"]),
        ("l.JSON", codecs.BOM_UTF16_LE + '["cat"]'.encode("utf-16-le"), ["cat"]),
        (
            "l.csv",
            'cat\r\n"traffic light, 3-way"\r\n#1,,\r\n',
            ["cat", "traffic light, 3-way", "#1"],
        ),
        ("l.csv", '"two ""words"""\n\ncat\n', ['two "words"', "cat"]),
        ("l.txt", "c#\n3-way, light\ncat", ["c#", "3-way, light", "cat"]),
    ],
)
def test_json_and_csv_are_read(write, name: str, content, labels: list[str], caplog) -> None:
    assert read_labels(write(content, name)) == tuple(labels)
    assert not caplog.records


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("l.txt", "forklift\tvehicle\n\nhard hat\ncat \t pets\t\ndog\t\n"),
        ("l.json", '{"forklift": "vehicle", "hard hat": null, "cat": "pets", "dog": null}'),
        ("l.csv", "Label,Group\nforklift,vehicle\nhard hat,\ncat,pets\ndog\n"),
    ],
)
def test_every_format_may_name_groups(write, name: str, content: str) -> None:
    path = write(content, name)
    expected = {"forklift": "vehicle", "hard hat": None, "cat": "pets", "dog": None}
    assert read_grouped_labels(path) == expected
    with pytest.raises(
        LabelError, match=r"(line 1; line 4|entry 1; entry 3|line 2; line 4): a group"
    ):
        read_labels(path)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("l.txt", "# pets\ncat\n#\n## more\ndog\n", "3 comment lines were passed over."),
        ("l.csv", "Name\ncat\ndog\n", "the header 'Name' was passed over."),
    ],
)
def test_what_is_passed_over_is_said(write, caplog, name: str, content: str, said: str) -> None:
    path = write(content, name)
    with caplog.at_level(logging.WARNING):
        assert read_labels(path) == ("cat", "dog")
    assert caplog.messages == [f"{path}: {said}"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("l.txt", b"caf\xc3\xa9\ncaf\xe9\n", r"is not UTF-8 \(line 2, byte 9\).*iconv"),
        ("l.txt", codecs.BOM_UTF16_LE + b"c\x00a", "damaged: byte 4 is not UTF-16"),
        ("l.txt", "cat\n".encode("utf-16-le"), "NUL bytes: .*UTF-16 without a byte order mark"),
        ("l.txt", "cat\0\ndog", "NUL bytes"),
        ("l.txt", "\n \n", "There are no labels"),
        ("l.txt", "\n\t\n", "There are no labels"),
        ("l.txt", "# cat\n", "There are no labels"),
        ("l.txt", "one\u2028label", "Line 1 .*unprintable"),
        ("l.txt", "cat\n\npage\x0cbreak", "Line 3 .*unprintable"),
        ("l.txt", "cat, dog, owl\n", "only line has 3 parts.*one label a line"),
        ("l.txt", "cat; dog", "only line has 2 parts"),
        ("l.txt", "cat,\ndog,\nowl", r"end with a comma: 1 \('cat,'\); 2 \('dog,'\)"),
        ("l.txt", "cat\n#dog\n#owl", r"begin with '#': 2 \('#dog'\); 3 \('#owl'\).*'# text'"),
        ("l.txt", "- cat\n- dog", "bullet list or YAML"),
        ("l.txt", '"cat"\n"dog"', "quotation marks.*Name it .csv"),
        ("l.txt", '["cat",\n"dog"]', "holds JSON. Name it .json"),
        ("l.txt", "a\tb\tc", "Line 1 has 3 columns"),
        ("l.txt", "<!DOCTYPE html>\n<title>404</title>", "HTML or XML page"),
        ("l.txt", b"\xff\xd8\xff\xe0JFIF", "a JPEG image"),
        ("l.xlsx", b"PK\x03\x04...", "a ZIP archive or an Office document"),
        ("l.txt", b"%PDF-1.7", "a PDF document"),
        ("l.onnx", b"\x08\x08", "an ONNX graph"),
        ("l.yaml", "- cat", "This is YAML"),
        ("l.jsonl", '"cat"', "This is JSON Lines"),
        ("l.json", '["cat"', "is not JSON"),
        ("l.json", '"cat"', "holds one text"),
        ("l.json", '["cat", 2024]', "Entry 2 is the number 2024"),
        ("l.json", '[{"name": "cat"}]', "Entry 1 is an object"),
        ("l.json", '{"labels": ["cat"]}', "group of entry 1 is a list"),
        ("l.json", '{"0": "cat", "1": "dog"}', "maps numbers to labels"),
        ("l.json", '{"cat": null, "cat": "pets"}', r"Entry 2 \('cat'\) repeats entry 1"),
        ("l.csv", "cat\ndog,animal\n", "Line 2 has 2 columns.*label,group"),
        ("l.csv", "cat;dog\n", "Line 1 has 2 columns"),
        ("l.csv", 'cat\n"dog\n', "Line 2 is not CSV"),
        ("l.csv", "cat\n\ndog\ncat\ndog\n", r"Line 4 \('cat'\) repeats line 1; Line 5 .*line 3"),
        ("l.txt", "# x\ncat\n\ncat\n", r"Line 4 \('cat'\) repeats line 2"),
    ],
)
def test_what_is_no_label_file_is_refused_by_name(write, name: str, content, message: str) -> None:
    path = write(content, name)
    with pytest.raises(LabelError, match=message) as refused:
        read_grouped_labels(path)
    assert str(refused.value).startswith(f"{path}: ")


def test_a_missing_label_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match=r"absent\.txt: .*cannot be read: No such file"):
        read_labels(tmp_path / "absent.txt")
    with pytest.raises(LabelError, match="Is a directory"):
        read_labels(tmp_path)


def test_a_nested_json_file_is_refused(write) -> None:
    with pytest.raises(LabelError):
        read_labels(write("[" * 100_000, "deep.json"))
    with pytest.raises(LabelError, match="Entry 1 is a list"):
        read_labels(write(json.dumps([[["cat"]]]), "nested.json"))

from pathlib import Path

import pytest

from ovml_deploy.errors import LabelError
from ovml_deploy.runtime import labels as labels_module
from ovml_deploy.runtime.labels import (
    check_labels,
    format_grouped_labels,
    parse_grouped_labels,
    read_grouped_labels,
    read_labels,
    split_groups,
)


def test_labels_keep_their_order_and_lose_outer_space() -> None:
    assert check_labels([" b ", "a", "\u732b", "2024"]) == ("b", "a", "\u732b", "2024")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([], "no labels"),
        (["cat", "  "], "Label 2 is empty"),
        (["cat", "dog", " cat"], r"Label 3 \('cat'\) repeats label 1"),
        (["x" * 10_000], "Label 1 .* has 10,000 characters; at most 256"),
        (["cat", 2024], "Label 2 is 2024, a int; labels are text"),
        ("cat", r"'cat' is one text. Write \['cat'\]"),
        (["a\nb"], r"unprintable character '\\n'"),
        (["a\x1b[31mb"], r"unprintable character '\\x1b'"),
        (["a\x00"], r"unprintable character '\\x00'"),
        (["a\udcff"], r"unprintable character '\\udcff'"),
        (["a\u2028b"], r"unprintable character '\\u2028'"),
    ],
)
def test_bad_labels_are_named(labels, message: str) -> None:
    with pytest.raises(LabelError, match=message):
        check_labels(labels)


def test_too_many_labels_are_refused(monkeypatch) -> None:
    monkeypatch.setattr(labels_module, "MAX_LABELS", 3)
    assert len(check_labels("abc"[i] for i in range(3))) == 3
    with pytest.raises(LabelError, match="More than 3 labels"):
        check_labels(iter("abcd"))


@pytest.mark.parametrize(
    "content",
    [b"cat\nhard hat\n007\n", b"\xef\xbb\xbfcat\r\n\r\n hard hat \r\n007", b"cat\rhard hat\r007"],
)
def test_a_label_file_has_one_label_a_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "labels.txt"
    path.write_bytes(content)
    assert read_labels(path) == ("cat", "hard hat", "007")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"caf\xc3\xa9\ncaf\xe9\n", r"not UTF-8 \(line 2, byte 9\).*iconv"),
        ("cat\n".encode("utf-16"), "not UTF-8"),
        (b"\n \n", "labels.txt: There are no labels"),
        (b"cat\ndog\ncat\n", "labels.txt: Label 3"),
        ("one\u2028label".encode(), "unprintable"),
        (b"page\x0cbreak", "unprintable"),
    ],
)
def test_a_bad_label_file_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "labels.txt"
    path.write_bytes(content)
    with pytest.raises(LabelError, match=message):
        read_labels(path)


def test_a_missing_label_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match=r"absent\.txt' cannot be read: No such file"):
        read_labels(tmp_path / "absent.txt")
    with pytest.raises(LabelError, match="Is a directory"):
        read_labels(tmp_path)


def test_a_line_may_name_a_group(tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    path.write_bytes(b"\xef\xbb\xbfforklift\tvehicle\r\n\r\n hard hat \r\ncat \t pets\t\r\ndog\t\n")
    expected = {"forklift": "vehicle", "hard hat": None, "cat": "pets", "dog": None}
    assert read_grouped_labels(path) == expected
    assert parse_grouped_labels(format_grouped_labels(expected)) == expected
    with pytest.raises(LabelError, match=r"labels.txt: .*unprintable character '\\t'"):
        read_labels(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"caf\xe9\ta\n", "not UTF-8"),
        (b"\n\t\n", "labels.txt: There are no labels"),
        (b"cat\ta\ncat\tb\n", "labels.txt: Label 2"),
    ],
)
def test_a_bad_file_of_groups_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "labels.txt"
    path.write_bytes(content)
    with pytest.raises(LabelError, match=message):
        read_grouped_labels(path)


def test_groups_are_taken_from_a_mapping_only() -> None:
    assert split_groups([" cat", "dog"]) == (("cat", "dog"), {})
    words = {" cat": " pets ", "dog": None}
    assert split_groups(words) == (("cat", "dog"), {"cat": "pets"})

import pytest

from ovml_deploy.errors import LabelError
from ovml_deploy.runtime import labels as labels_module
from ovml_deploy.runtime.labels import (
    check_labels,
    format_grouped_labels,
    parse_grouped_labels,
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


def test_all_repeated_labels_are_listed_at_once() -> None:
    with pytest.raises(LabelError) as refused:
        check_labels(["cat", "dog", "cat", "owl", " dog", "cat"])
    assert str(refused.value) == (
        "Label 3 ('cat') repeats label 1; Label 5 ('dog') repeats label 2; Label 6 ('cat') repeats "
        "label 1. Remove the repeated ones."
    )
    with pytest.raises(LabelError, match=r"; and 1,800 more\. Remove the repeated ones"):
        check_labels(f"label {number % 1000}" for number in range(3000))


def test_grouped_labels_survive_their_text() -> None:
    labels = {"forklift": "vehicle", "# hat": None, "cat,": "pets"}
    assert parse_grouped_labels(format_grouped_labels(labels)) == labels


def test_groups_are_taken_from_a_mapping_only() -> None:
    assert split_groups([" cat", "dog"]) == (("cat", "dog"), {})
    words = {" cat": " pets ", "dog": None}
    assert split_groups(words) == (("cat", "dog"), {"cat": "pets"})

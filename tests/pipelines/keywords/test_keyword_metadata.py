"""What a photo lacks of its keywords, in which character set."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovml_deploy.pipelines.keywords.metadata import Found, _found, adding, cut, recoding

NOTHING = Found("JPEG", frozenset(), frozenset())


@pytest.mark.parametrize(
    ("text", "short"),
    [
        ("cat", "cat"),
        ("x" * 64, "x" * 64),
        ("x" * 65, "x" * 64),
        ("ü" * 33, "ü" * 32),
        ("x" + "猫" * 30, "x" + "猫" * 21),
        ("x" * 62 + "\U0001f600", "x" * 62),
        ("x" * 63 + " tail", "x" * 63),
    ],
)
def test_cut_between_characters(text: str, short: str) -> None:
    assert cut(text) == short


@given(st.text(st.characters(exclude_categories=["Cs", "Cc", "Z"])))
def test_cut_keeps_all_that_has_room(text: str) -> None:
    short = cut(text)
    assert text.startswith(short)
    assert len(short.encode()) <= 64
    assert short == text or len(text[: len(short) + 1].encode()) > 64


def test_only_what_is_lacking_is_added() -> None:
    found = Found("JPEG", frozenset({"cat"}), frozenset({"dog"}))
    assert adding(found, ["cat", "dog", "dog"]) == [
        "-XMP-dc:Subject+=dog",
        "-IPTC:Keywords+=cat",
        "-IPTC:CodedCharacterSet=UTF8",
        "-Photoshop:IPTCDigest=new",
    ]
    assert adding(Found("JPEG", frozenset("ab"), frozenset("ab")), ["a", "b"]) == []
    assert adding(Found("TIFF", frozenset(), frozenset("ab")), "ab") == [
        "-XMP-dc:Subject+=a",
        "-XMP-dc:Subject+=b",
    ]


def test_a_long_keyword_is_whole_in_xmp_and_once_in_iptc() -> None:
    long = ["x" * 70 + "1", "x" * 70 + "2"]
    tags = adding(NOTHING, long)
    assert tags[:3] == [*(f"-XMP-dc:Subject+={w}" for w in long), "-IPTC:Keywords+=" + "x" * 64]
    assert adding(Found("JPEG", frozenset(long), frozenset(["x" * 64])), long) == []


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "GIF"])
def test_iptc_goes_where_it_has_a_place_or_is_already(kind: str) -> None:
    assert adding(Found(kind, frozenset(), frozenset()), ["a"]) == ["-XMP-dc:Subject+=a"]
    assert "-IPTC:Keywords+=a" in adding(Found(kind, frozenset(), frozenset("b")), ["a"])


def test_what_exiftool_says_is_understood() -> None:
    found = _found(
        {"File:FileType": "=JPEG", "XMP:Subject": "=2024", "IPTC:Keywords": ["=True", "=007"]}
    )
    assert found == Found("JPEG", frozenset({"2024"}), frozenset({"True", "007"}))
    with pytest.raises(ValueError, match="ExifTool 11"):
        _found({"File:FileType": "JPEG"})


@pytest.mark.parametrize(
    ("said", "mark", "recode", "keywords"),
    [
        ("café", None, "Latin", {"café"}),
        ("caf\u00c3\u00a9", None, "UTF8", {"café"}),  # the bytes of UTF-8, taken for Latin
        ("\u00e2\u201a\u00ac", None, "UTF8", {"€"}),
        ("cafe", None, None, {"cafe"}),
        ("café", "UTF8", None, {"café"}),
        ("caf\u00c3\u00a9", "UTF8", None, {"caf\u00c3\u00a9"}),
        ("café", ".A", "Latin", {"café"}),
    ],
)
def test_the_character_set_of_texts(said, mark, recode, keywords) -> None:
    file = {"File:FileType": "=JPEG", "IPTC:Keywords": f"={said}"}
    if mark:
        file["IPTC:CodedCharacterSet"] = f"={mark}"
    found = _found(file)
    assert (found.recode, found.iptc) == (recode, keywords)
    tags = adding(found, ["new"])
    assert bool(recoding(found, tags, "p0")) == (recode is not None)
    assert recoding(found, ["-XMP-dc:Subject+=new"], "p0") == []

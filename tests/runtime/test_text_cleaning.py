import pytest
from hypothesis import given
from hypothesis import strategies as st
from open_clip.tokenizer import _clean_canonicalize, _clean_lower, _clean_whitespace

from ovml_deploy.runtime.text_cleaning import clean_text

THEIRS = {
    "lower": _clean_lower,
    "whitespace": _clean_whitespace,
    "canonicalize": _clean_canonicalize,
}
TEXTS = [
    "",
    "Hard  Hat",
    " under_score, (brackets)! ",
    "AT&T &amp; &amp;lt;b&amp;gt; &nbsp;x",
    "schÃ¶n â€œquotedâ€\x9d",
    "\u201ccurly\u201d \ufb01sh \uff21\uff22 \u0130 \u00df",
    "tab\tand\nline\r\nbreak\u2028end\x00\x1b[0m",
    "a\u0301\u00a0b\u200bc",
]


@pytest.mark.parametrize("kind", THEIRS)
@pytest.mark.parametrize("text", TEXTS)
def test_texts_are_cleaned_as_open_clip_does(kind: str, text: str) -> None:
    assert clean_text(text, kind) == THEIRS[kind](text)


@given(st.one_of(st.text(), st.text("ab &;_#x41<>gtlamp\u00c3\u00a9 \t", max_size=30)))
def test_any_text_is_cleaned_as_open_clip_does(text: str) -> None:
    for kind, theirs in THEIRS.items():
        assert clean_text(text, kind) == theirs(text)


def test_an_unknown_way_is_an_error() -> None:
    with pytest.raises(ValueError, match="unknown text cleaning 'upper'"):
        clean_text("a", "upper")

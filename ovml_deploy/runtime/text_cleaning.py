"""Text cleaning as open_clip does it before tokenizing, so that token ids are the same."""

import html
import string

_PUNCTUATION = str.maketrans("", "", string.punctuation)


def clean_text(text: str, kind: str) -> str:
    """Clean ``text`` in one of open_clip's ways: "lower", "whitespace" or "canonicalize"."""
    text = html.unescape(html.unescape(_fix(text))).strip()
    if kind == "canonicalize":
        text = text.replace("_", " ").translate(_PUNCTUATION).lower()
    elif kind == "lower":
        text = text.lower()
    elif kind != "whitespace":
        raise ValueError(f"unknown text cleaning {kind!r}")
    return " ".join(text.split())


def _fix(text: str) -> str:
    # ftfy leaves printable ASCII alone, save for HTML entities; importing it takes a while.
    if text.isascii() and text.isprintable() and "&" not in text:
        return text
    import ftfy

    return ftfy.fix_text(text)

"""Decoding of text files: UTF-8, and UTF-16 or UTF-32 with a byte order mark."""

import codecs

# UTF-32's little-endian mark begins with UTF-16's, so it comes first.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


def decode_text(content: bytes) -> str:
    """Return a text file's text, without its byte order mark; without a mark it is UTF-8.

    Raises ValueError that says what is wrong and what to do, as the end of a sentence.
    """
    mark, encoding = next((pair for pair in _MARKS if content.startswith(pair[0])), (b"", "utf-8"))
    try:
        return content[len(mark) :].decode(encoding)
    except UnicodeDecodeError as error:
        place = len(mark) + error.start
    name = encoding[:6].upper().rstrip("-")
    if mark:
        raise ValueError(f"is damaged: byte {place} is not {name}. Save it again, as UTF-8.")
    line = content.count(b"\n", 0, place) + 1
    raise ValueError(
        f"is not UTF-8 (line {line}, byte {place}). Convert it, for example: "
        "iconv -f LATIN1 -t UTF-8."
    )

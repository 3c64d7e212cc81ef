"""The keywords that a photo has, and what ExifTool must be told so that it has ours, too."""

import json
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from ovml_deploy.pipelines.keywords.exiftool import ExifTool, KeywordError, first_error

#: Bytes of an IPTC keyword (IIM 4.2, dataset 2:25).
MAX_IPTC_BYTES = 64

#: Where IPTC has its place. In others XMP alone is the custom.
_WITH_IPTC = frozenset({"JPEG", "TIFF"})
#: Marks every value, or ExifTool would write the keywords 007 and True as a number and a truth value.
_MARK = "="
_IPTC = "-IPTC:Keywords"
_READ = (
    "-json",
    "-G",
    "-api",
    f"Filter=s/^/{_MARK}/",
    "-File:FileType",
    "-XMP-dc:Subject",
    "-IPTC:all",
)


@dataclass(frozen=True)
class Found:
    """What a photo holds.

    ``kind``: as ExifTool calls it; ``recode``: the character set that its IPTC texts are in, if they
    must be written anew as UTF-8.
    """

    kind: str
    subjects: frozenset[str]
    iptc: frozenset[str]
    recode: str | None = None


def read(tool: ExifTool, names: Sequence[str]) -> dict[str, Found | KeywordError]:
    """Return what each file holds, or why that cannot be known."""
    found: dict[str, Found | KeywordError] = {}
    if not names:
        return found
    with suppress(KeywordError):  # it may be about any of them
        found.update(_read(tool, names)[0])
    for name in names:  # those that gave nothing, alone, so that what is said is about this one
        if name not in found:
            try:
                alone, errors = _read(tool, [name])
                found[name] = alone.get(name) or KeywordError(first_error(errors))
            except KeywordError as error:
                found[name] = error
    return found


def adding(found: Found, keywords: Iterable[str]) -> list[str]:
    """Return what tells ExifTool to add those of the keywords that a photo lacks; nothing for none."""
    keywords = list(dict.fromkeys(keywords))
    tags = [f"-XMP-dc:Subject+={word}" for word in keywords if word not in found.subjects]
    if found.kind in _WITH_IPTC or found.iptc:
        short = dict.fromkeys(cut(word) for word in keywords)
        new = [f"{_IPTC}+={word}" for word in short if word not in found.iptc]
        if new:
            # the digest says to Adobe's programs that IPTC and XMP are in step
            tags += [*new, "-IPTC:CodedCharacterSet=UTF8", "-Photoshop:IPTCDigest=new"]
    return tags


def recoding(found: Found, tags: Iterable[str], name: str) -> list[str]:
    """Return what tells ExifTool to write a photo's IPTC texts anew as UTF-8, if ``tags`` need that.

    To mark old texts as UTF-8, as new ones are, would turn what they say into something else.
    """
    if found.recode is None or not any(tag.startswith(_IPTC) for tag in tags):
        return []
    # -m: texts may get longer than they should be
    charset = ["-m", "-charset", f"iptc={found.recode}"]
    return [*charset, "-tagsFromFile", name, "-IPTC:all", "-IPTC:CodedCharacterSet=UTF8"]


def cut(text: str, most: int = MAX_IPTC_BYTES) -> str:
    """Return as many whole characters of a text as have room in so many bytes of UTF-8."""
    return text.encode()[:most].decode(errors="ignore").rstrip()


def _read(tool: ExifTool, names: Sequence[str]) -> tuple[dict[str, Found], str]:
    """What the readable ones of some files hold, and what ExifTool said of the others."""
    said, errors = tool.run([*_READ, *names])
    try:
        files = json.loads(said or "[]")
        return {f["SourceFile"]: _found(f) for f in files if "File:FileType" in f}, errors
    except (ValueError, KeyError, TypeError) as error:
        raise KeywordError(f"What ExifTool says of it makes no sense ({error}).") from error


def _found(file: dict[str, Any]) -> Found:
    iptc = {key: _texts(value) for key, value in file.items() if key.startswith("IPTC:")}
    charset = iptc.pop("IPTC:CodedCharacterSet", None)
    recode = None if charset == ["UTF8"] else _charset([t for ts in iptc.values() for t in ts])
    keywords = iptc.get("IPTC:Keywords", [])
    if recode == "UTF8":
        keywords = [_bytes(text).decode() for text in keywords]
    subjects = _texts(file.get("XMP:Subject", []))
    (kind,) = _texts(file["File:FileType"])
    return Found(kind, frozenset(subjects), frozenset(keywords), recode)


def _texts(value: Any) -> list[str]:
    values = value if isinstance(value, list) else [value]
    if not all(isinstance(text, str) and text.startswith(_MARK) for text in values):
        raise ValueError("values have no mark: ExifTool 11 or later is needed")
    return [text[len(_MARK) :] for text in values]


def _charset(texts: Iterable[str]) -> str | None:
    """The character set of texts without a mark, which ExifTool took for Latin; None: ASCII."""
    raw = [_bytes(text) for text in texts if not text.isascii()]
    if not raw:
        return None
    try:
        for text in raw:
            text.decode()
    except UnicodeDecodeError:
        return "Latin"
    return "UTF8"  # as many programs wrote it, without saying so


def _bytes(text: str) -> bytes:
    """The bytes that ExifTool read as Latin (cp1252, and what that lacks as Latin-1 has it)."""
    return b"".join(
        bytes([ord(letter)]) if ord(letter) < 256 else letter.encode("cp1252", "replace")
        for letter in text
    )

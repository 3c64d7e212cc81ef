"""Answers of a language model, taken as data: what cannot be used is counted and left out."""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

MAX_ANSWER_CHARS = 1_000_000
MAX_SENTENCE_CHARS = 300
_MAX_PHRASE_CHARS = 80
_MAX_PHRASES = 20
_MAX_PAIRS = 500
#: Models write a little more than they were asked for; no more than so many times as much is used.
_GENEROUS = 2
_STARTS = 50  # so many opening braces are tried

EMPTY = "answers that were empty"
TOO_LARGE = f"answers of more than {MAX_ANSWER_CHARS:,} characters"
NO_OBJECT = "answers without the JSON object asked for"
WRONG_TYPE = "entries of a wrong type"
UNPRINTABLE = "entries with unprintable characters"
NO_TEXT = "entries that were empty"
LONG_PHRASE = f"phrases of more than {_MAX_PHRASE_CHARS} characters"
LONG_SENTENCE = f"sentences of more than {MAX_SENTENCE_CHARS} characters"
TOO_MANY = "entries beyond what was asked for"

_KEYS = frozenset(
    {"synonyms", "attributes", "contexts", "broader", "kinds", "sentences", "shares", "co-occurs",
     "kind-of"}
)  # fmt: skip
_END_OF_THINKING = "</think>"  # some models think aloud, with drafts of the answer

T = TypeVar("T")


@dataclass(frozen=True)
class Answer:
    """The usable parts of an answer; what the question did not ask for is empty.

    ``pairs`` are of phrases, by the answer's key: "shares", "co-occurs" and "kind-of".
    """

    synonyms: tuple[str, ...] = ()
    attributes: tuple[str, ...] = ()
    contexts: tuple[str, ...] = ()
    broader: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    sentences: tuple[str, ...] = ()
    shares: tuple[tuple[str, str], ...] = ()
    co_occurs: tuple[tuple[str, str], ...] = ()
    kind_of: tuple[tuple[str, str], ...] = ()


def read_answer(text: str, sentences: int, skipped: Counter[str]) -> Answer:
    """Take what can be used from an answer that was to have so many sentences.

    ``skipped`` counts what cannot be used, by the reason. Nothing is raised.
    """
    found = find_object(text, skipped)
    reader = _Reader(found, skipped)
    return Answer(
        synonyms=reader.phrases("synonyms"),
        attributes=reader.phrases("attributes"),
        contexts=reader.phrases("contexts"),
        broader=reader.phrases("broader"),
        kinds=reader.phrases("kinds"),
        sentences=reader.texts(
            "sentences", _GENEROUS * sentences, MAX_SENTENCE_CHARS, LONG_SENTENCE
        ),
        shares=reader.pairs("shares"),
        co_occurs=reader.pairs("co-occurs"),
        kind_of=reader.pairs("kind-of"),
    )


def find_object(text: str, skipped: Counter[str]) -> dict[str, Any]:
    """Return the first JSON object with known keys, wherever it starts; ``{}`` without one."""
    if not text.strip():
        skipped[EMPTY] += 1
        return {}
    if len(text) > MAX_ANSWER_CHARS:
        skipped[TOO_LARGE] += 1
        return {}
    text = text.rpartition(_END_OF_THINKING)[2]
    decoder = json.JSONDecoder(strict=False)  # line breaks within a sentence are no reason
    start = -1
    for _ in range(_STARTS):
        start = text.find("{", start + 1)
        if start < 0:
            break
        try:
            found, _ = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            continue
        if not _KEYS.isdisjoint(found):
            return found
    skipped[NO_OBJECT] += 1
    return {}


class _Reader:
    """Reads the parts of one object."""

    def __init__(self, found: dict[str, Any], skipped: Counter[str]) -> None:
        self._found = found
        self._skipped = skipped

    def phrases(self, key: str) -> tuple[str, ...]:
        return self.texts(key, _MAX_PHRASES, _MAX_PHRASE_CHARS, LONG_PHRASE)

    def texts(self, key: str, most: int, longest: int, too_long: str) -> tuple[str, ...]:
        """Texts without outer space, each once."""
        kept = dict.fromkeys(self._clean(self._entries(key), longest, too_long))
        return self._at_most(list(kept), most)

    def pairs(self, key: str) -> tuple[tuple[str, str], ...]:
        found = list[tuple[str, str]]()
        for entry in self._entries(key):
            if not isinstance(entry, list) or len(entry) != 2:
                self._skipped[WRONG_TYPE] += 1
                continue
            match list(self._clean(entry, _MAX_PHRASE_CHARS, LONG_PHRASE)):
                case [first, second]:
                    found.append((first, second))
        return self._at_most(found, _MAX_PAIRS)

    def _entries(self, key: str) -> list[Any]:
        value = self._found.get(key, [])
        if isinstance(value, str):  # a list of one, or of several with commas
            return value.split(",") if key != "sentences" else [value]
        if isinstance(value, list):
            return value
        if value is not None:
            self._skipped[WRONG_TYPE] += 1
        return []

    def _clean(self, entries: Iterable[Any], longest: int, too_long: str) -> Iterable[str]:
        for entry in entries:
            if not isinstance(entry, str):
                self._skipped[WRONG_TYPE] += 1
                continue
            text = " ".join(entry.split())
            if not text:
                self._skipped[NO_TEXT] += 1
            elif len(text) > longest:
                self._skipped[too_long] += 1
            elif not text.isprintable():
                self._skipped[UNPRINTABLE] += 1
            else:
                yield text

    def _at_most(self, items: list[T], most: int) -> tuple[T, ...]:
        if len(items) > most:
            self._skipped[TOO_MANY] += len(items) - most
        return tuple(items[:most])

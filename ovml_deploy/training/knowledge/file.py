"""What is known of some categories, and the JSON file it is kept in."""

import json
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ovml_deploy.errors import DataError, LabelError
from ovml_deploy.files import write_atomically
from ovml_deploy.runtime.labels import check_labels, listed
from ovml_deploy.training.data.text_files import read_text
from ovml_deploy.training.knowledge.words import words

FORMAT = "ovml-deploy/knowledge"
VERSION = 1
SHARES = "shares"  # two categories have attributes in common
CO_OCCURS = "co-occurs"  # two categories are seen together
_LISTS = ("synonyms", "attributes", "contexts", "broader", "kinds")


@dataclass(frozen=True)
class Category:
    """What is known of one category.

    ``broader`` are all categories of which this is a kind; ``kinds`` are names of kinds of it that
    are no categories themselves, as "tabby" for a cat.
    """

    name: str
    synonyms: tuple[str, ...] = ()
    attributes: tuple[str, ...] = ()
    contexts: tuple[str, ...] = ()
    broader: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()


@dataclass(frozen=True)
class Relation:
    """Two categories that share attributes or occur together (``kind``: SHARES or CO_OCCURS)."""

    first: str
    second: str
    kind: str


@dataclass(frozen=True)
class Sentence:
    """A caption, and the names of the categories it mentions."""

    text: str
    categories: tuple[str, ...]


@dataclass(frozen=True)
class Knowledge:
    """All that is known of K categories, and S sentences about them, from one ``source``.

    Raises LabelError for names that :func:`check_categories` refuses, and DataError where there is
    no sentence, or one category is unknown or a kind of itself.
    """

    source: str
    categories: tuple[Category, ...]
    relations: tuple[Relation, ...]
    sentences: tuple[Sentence, ...]

    def __post_init__(self) -> None:
        known = set(check_categories(self.names))
        for category in self.categories:
            _check_known(category.broader, known, f"what {category.name!r} is a kind of")
        for number, relation in enumerate(self.relations, start=1):
            _check_known((relation.first, relation.second), known, f"relation {number}")
            _check_relation(relation, number)
        for number, sentence in enumerate(self.sentences, start=1):
            _check_known(sentence.categories, known, f"sentence {number}")
            if not sentence.categories:
                raise DataError(f"Sentence {number} ({sentence.text!r}) mentions no category.")
        if not self.sentences:
            raise DataError("There are no sentences, so there is nothing to learn from.")
        _broader_rows(self.categories)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the categories, in order."""
        return tuple(category.name for category in self.categories)

    def targets(self) -> np.ndarray:
        """Return int8 ``[S, K]``: which categories hold for which sentences.

        1 for the mentioned ones and those of which they are a kind, -1 (unknown) for the kinds of
        a mentioned one (an animal may be a cat), 0 for the others.
        """
        above = _broader_rows(self.categories)
        below: list[list[int]] = [[] for _ in above]
        for row, rows in enumerate(above):
            for broader in rows:
                below[broader].append(row)
        index = {name: row for row, name in enumerate(self.names)}
        targets = np.zeros((len(self.sentences), len(above)), dtype=np.int8)
        for line, sentence in zip(targets, self.sentences, strict=True):
            mentioned = [index[name] for name in sentence.categories]
            for row in mentioned:
                line[below[row]] = -1
            for row in mentioned:
                line[[row, *above[row]]] = 1
        return targets


def check_categories(names: Iterable[str]) -> tuple[str, ...]:
    """Return the names as :func:`check_labels` does.

    Raises LabelError that lists all names without letters, or all that sentences could not tell
    apart, such as "T-shirt" and "t shirt".
    """
    checked = check_labels(names)
    silent = [name for name in checked if not any(map(str.isalpha, name))]
    if silent:
        items = [f"The category {name!r} has no letters" for name in silent]
        raise LabelError(
            f"{listed(items)}: no sentence can mention it. Write it out as a word, or remove it."
        )
    same: dict[str, list[str]] = {}
    for name in checked:
        same.setdefault(" ".join(words(name)), []).append(name)
    sets = [" and ".join(map(repr, some)) for some in same.values() if len(some) > 1]
    if sets:
        items = [f"The categories {some} are the same words" for some in sets]
        raise LabelError(f"{listed(items)}: no sentence can tell them apart. Keep one of each.")
    return checked


def read_knowledge(path: str | Path) -> Knowledge:
    """Read a knowledge file. Raises DataError for one that is not, naming the place."""
    source = Path(path)
    try:
        data = json.loads(read_text(source))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{str(source)!r} is not JSON: {error}.") from error
    try:
        return _parse(data)
    except (DataError, LabelError) as error:
        raise DataError(f"{str(source)!r}: {error}") from error


def write_knowledge(knowledge: Knowledge, path: str | Path) -> None:
    """Write a knowledge file, with a line for each category, relation and sentence."""
    categories = [
        {"name": item.name} | {key: value for key in _LISTS if (value := getattr(item, key))}
        for item in knowledge.categories
    ]
    relations = [[item.first, item.second, item.kind] for item in knowledge.relations]
    sentences = [{"text": item.text, "categories": item.categories} for item in knowledge.sentences]
    with write_atomically(path) as temporary:
        temporary.write_text(
            f'{{"format": {_json(FORMAT)}, "version": {VERSION}, '
            f'"source": {_json(knowledge.source)},\n'
            f'"categories": {_lines(categories)},\n"relations": {_lines(relations)},\n'
            f'"sentences": {_lines(sentences)}}}\n',
            encoding="utf-8",
        )


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _lines(items: Sequence[object]) -> str:
    return "[\n" + ",\n".join(map(_json, items)) + "\n]" if items else "[]"


def _parse(data: Any) -> Knowledge:
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise DataError(
            f'this is no knowledge file: it has no "format": "{FORMAT}". Make one with '
            "'ovml-deploy knowledge'."
        )
    if data.get("version") != VERSION:
        raise DataError(
            f"version {data.get('version')!r} is not known, only {VERSION}. Make it anew with "
            "'ovml-deploy knowledge'."
        )
    allowed = ("format", "version", "source", "categories", "relations", "sentences")
    _check_keys(data, allowed, "the file")
    categories = tuple(
        _category(item, f"category {number}")
        for number, item in enumerate(_list(data, "categories", "the file"), start=1)
    )
    order = {category.name: row for row, category in enumerate(categories)}
    return Knowledge(
        source=_text(data.get("source"), "source"),
        categories=categories,
        relations=tuple(
            _relation(item, f"relation {number}")
            for number, item in enumerate(_list(data, "relations", "the file"), start=1)
        ),
        sentences=tuple(
            _sentence(item, order, f"sentence {number}")
            for number, item in enumerate(_list(data, "sentences", "the file"), start=1)
        ),
    )


def _category(item: Any, where: str) -> Category:
    _check_keys(item, ("name", *_LISTS), where)
    return Category(_text(item.get("name"), f"{where}, name"), *_text_lists(item, _LISTS, where))


def _relation(item: Any, where: str) -> Relation:
    if not isinstance(item, list) or len(item) != 3:
        raise DataError(f'{where} is {item!r}, not ["cat", "dog", "{CO_OCCURS}"].')
    first, second, kind = (_text(part, where) for part in item)
    return Relation(first, second, kind)


def _sentence(item: Any, order: Mapping[str, int], where: str) -> Sentence:
    _check_keys(item, ("text", "categories"), where)
    (names,) = _text_lists(item, ("categories",), where)
    in_order = sorted(dict.fromkeys(names), key=lambda name: order.get(name, -1))
    return Sentence(_text(item.get("text"), f"{where}, text"), tuple(in_order))


def _check_keys(item: Any, allowed: Sequence[str], where: str) -> None:
    if not isinstance(item, dict):
        raise DataError(f"{where} is {item!r}, not an object in braces.")
    for key in item:
        if key not in allowed:
            raise DataError(f"{where} has {key!r}; known are: {', '.join(allowed)}.")


def _text_lists(item: dict[str, Any], keys: Iterable[str], where: str) -> list[tuple[str, ...]]:
    return [
        tuple(_text(text, f"{where}, {key}") for text in _list(item, key, where)) for key in keys
    ]


def _list(item: dict[str, Any], key: str, where: str) -> list[Any]:
    value = item.get(key, [])
    if not isinstance(value, list):
        raise DataError(f"{where}: {key!r} is {value!r}, not a list.")
    return value


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{where} is {value!r}, not a text.")
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in value):
        raise DataError(f"{where} is {value!r}, which holds an unprintable character.")
    return value.strip()


def _check_known(names: Iterable[str], known: set[str], where: str) -> None:
    for name in names:
        if name not in known:
            raise DataError(f"{where} names {name!r}, which is none of the categories.")


def _check_relation(relation: Relation, number: int) -> None:
    if relation.kind not in (SHARES, CO_OCCURS):
        raise DataError(
            f"relation {number} is of the kind {relation.kind!r}; known are {SHARES!r} and "
            f"{CO_OCCURS!r}."
        )
    if relation.first == relation.second:
        raise DataError(f"relation {number} relates {relation.first!r} to itself.")


def _broader_rows(categories: Sequence[Category]) -> list[list[int]]:
    """The rows of all that each category is a kind of. Raises DataError for a kind of itself."""
    index = {category.name: row for row, category in enumerate(categories)}
    found: list[list[int]] = []
    for row, category in enumerate(categories):
        above = dict.fromkeys(index[name] for name in category.broader)
        queue = list(above)
        for current in queue:
            new = [index[name] for name in categories[current].broader]
            queue += [other for other in new if other not in above]
            above.update(dict.fromkeys(new))
        if row in above:
            raise DataError(f"{category.name!r} is a kind of itself, by what it is a kind of.")
        found.append(list(above))
    return found

"""Which categories a sentence mentions."""

from collections.abc import Iterable

from ovml_deploy.training.knowledge.file import Category
from ovml_deploy.training.knowledge.words import other_numbers, words

#: Things that are not what their words say. They count as one word, unless they are asked for.
_MISLEADING = (
    "hot dog", "corn dog", "prairie dog", "teddy bear", "gummy bear", "koala bear", "sea lion",
    "sea horse", "rocking horse", "saw horse", "guinea pig", "piggy bank", "traffic light",
    "horse chestnut", "lady bird", "dragon fly", "sea star", "movie star", "dog wood",
)  # fmt: skip


class Mentions:
    """Finds the categories that English sentences mention.

    A category is mentioned by its name, a synonym or a kind of it, in the singular or plural, as
    whole words in any case; a hyphen is as good as a space. Longer phrases win: "hot dog" mentions
    no dog. What is written out as a name or synonym wins over what is only the other number of
    one: where "glasses" is a category, "glasses" are not the plural of another category "glass".
    Both win over the same phrase as a kind of another category.
    """

    def __init__(self, categories: Iterable[Category]) -> None:
        self._meanings: dict[str, list[int]] = {}
        self._longest: dict[str, int] = {}  # by first word, how many words a phrase may have
        categories = tuple(categories)
        self._names = [category.name for category in categories]
        self._add_all([(category.name, *category.synonyms) for category in categories])
        self._add_all([category.kinds for category in categories])
        for text in _MISLEADING:
            for form in {text, *other_numbers(words(text))} - self._meanings.keys():
                self._add(form, None)

    def find(self, text: str) -> tuple[str, ...]:
        """Return the names of the categories that ``text`` mentions, in the categories' order."""
        found = words(text)
        spans = list[tuple[int, int, list[int]]]()
        for start, word in enumerate(found):
            for length in range(1, self._longest.get(word, 0) + 1):
                rows = self._meanings.get(" ".join(found[start : start + length]))
                if rows is not None and start + length <= len(found):
                    spans.append((-length, start, rows))
        if len(spans) > 1:
            spans = _without_overlaps(spans)
        return self._in_order(row for _, _, rows in spans for row in rows)

    def named(self, phrase: str) -> tuple[str, ...]:
        """Return the categories that the whole of ``phrase`` names, as "Cats" does "cat"."""
        return self._in_order(self._meanings.get(" ".join(words(phrase)), ()))

    def _in_order(self, rows: Iterable[int]) -> tuple[str, ...]:
        return tuple(self._names[row] for row in sorted(set(rows)))

    def _add_all(self, texts: Iterable[Iterable[str]]) -> None:
        """Let the texts of each row mean it, unless they mean something already."""
        found = [(words(text), row) for row, of_row in enumerate(texts) for text in of_row]
        for forms in (lambda phrase: {" ".join(phrase)}, other_numbers):
            known = set(self._meanings)
            for phrase, row in found:
                if phrase:
                    for form in forms(phrase) - known:
                        self._add(form, row)

    def _add(self, phrase: str, row: int | None) -> None:
        rows = self._meanings.setdefault(phrase, [])
        if row is not None and row not in rows:
            rows.append(row)
        first, length = phrase.split(" ", 1)[0], phrase.count(" ") + 1
        self._longest[first] = max(length, self._longest.get(first, 0))


def _without_overlaps(
    spans: list[tuple[int, int, list[int]]],
) -> list[tuple[int, int, list[int]]]:
    """Keep the longest spans, and the first of those as long."""
    taken = set[int]()
    kept = []
    for span in sorted(spans, key=lambda span: span[:2]):
        covered = range(span[1], span[1] - span[0])
        if taken.isdisjoint(covered):
            taken.update(covered)
            kept.append(span)
    return kept

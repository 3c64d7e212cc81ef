"""Knowledge put together from a language model's answers."""

from collections import Counter
from collections.abc import Iterable, Sequence

from ovml_deploy.errors import DataError
from ovml_deploy.training.knowledge.answers import Answer
from ovml_deploy.training.knowledge.file import (
    CO_OCCURS,
    SHARES,
    Category,
    Knowledge,
    Relation,
    Sentence,
)
from ovml_deploy.training.knowledge.mentions import Mentions
from ovml_deploy.training.knowledge.words import words

NOT_LISTED = "related things that are not in the list"
CONTRADICTION = "kinds that contradict other answers"
OTHER_NAME = "synonyms that are the name of another category"
VAGUE_SYNONYM = "synonyms that say nothing"
VAGUE_KIND = "kinds that say nothing"
KIND_BY_OTHER_NAME = "kinds that are a synonym of another category"
REPEATED = "sentences said before"
NO_CATEGORY = "sentences that mention no category"

#: A synonym of such words alone would be found in every sentence.
_SAY_NOTHING = frozenset(
    {"a", "an", "the", "it", "its", "this", "that", "these", "one", "some", "in", "on", "of", "at",
     "with", "and", "or", "to", "is", "are", "thing", "object", "item", "photo", "photograph",
     "picture", "image", "scene", "view", "caption", "none", "no", "not", "nothing", "n", "unknown"}
)  # fmt: skip


def assemble(
    names: Sequence[str],
    about: Sequence[Answer],
    between: Iterable[Answer],
    source: str,
    skipped: Counter[str],
) -> Knowledge:
    """Put together ``about[k]``, on category k, and the answers on relations ``between`` them.

    What a sentence mentions is found in its text, whatever the model meant it for. ``skipped``
    counts what is left out. Raises DataError where no sentence can be used.
    """
    between = list(between)
    by_name = Mentions(Category(name) for name in names)
    hierarchy = _hierarchy(names, about, between, by_name, skipped)
    synonyms = [
        _synonyms(name, answer.synonyms, by_name, skipped)
        for name, answer in zip(names, about, strict=True)
    ]
    taken = Mentions(map(Category, names, synonyms))
    order = {name: row for row, name in enumerate(names)}
    categories = tuple(
        Category(
            name,
            of_name,
            answer.attributes,
            answer.contexts,
            tuple(sorted(hierarchy.above(name), key=order.__getitem__)),
            _kinds(name, answer.kinds, by_name, taken, skipped),
        )
        for name, answer, of_name in zip(names, about, synonyms, strict=True)
    )
    texts = (text for answer in (*about, *between) for text in answer.sentences)
    sentences = _sentences(texts, Mentions(categories), skipped)
    if not sentences:
        raise DataError(_nothing(skipped))
    return Knowledge(source, categories, _relations(names, between, by_name, skipped), sentences)


def _hierarchy(
    names: Sequence[str],
    about: Sequence[Answer],
    between: Iterable[Answer],
    by_name: Mentions,
    skipped: Counter[str],
) -> "_Hierarchy":
    hierarchy = _Hierarchy(skipped)
    for name, answer in zip(names, about, strict=True):
        for phrase in answer.broader:  # free words: those that are not in the list are no fault
            hierarchy.add((name,), by_name.named(phrase))
    for answer in between:
        for narrow, broad in answer.kind_of:
            hierarchy.add(*_both(by_name, narrow, broad, skipped))
    for name, answer in zip(names, about, strict=True):  # last, for these are the vaguest
        for phrase in answer.kinds:
            hierarchy.add(by_name.named(phrase), (name,))
    return hierarchy


class _Hierarchy:
    """Which category is a kind of which; no category may become a kind of itself."""

    def __init__(self, skipped: Counter[str]) -> None:
        self._broader: dict[str, dict[str, None]] = {}
        self._skipped = skipped

    def add(self, narrow: Iterable[str], broad: Sequence[str]) -> None:
        for name in narrow:
            for other in broad:
                if other == name:
                    continue
                if name in self.above(other):
                    self._skipped[CONTRADICTION] += 1
                else:
                    self._broader.setdefault(name, {})[other] = None

    def above(self, name: str) -> set[str]:
        """All of which this is a kind, directly or not."""
        found = set[str]()
        queue = [name]
        while queue:
            new = self._broader.get(queue.pop(), {}).keys() - found
            found |= new
            queue += new
        return found


def _synonyms(
    name: str, phrases: Iterable[str], by_name: Mentions, skipped: Counter[str]
) -> tuple[str, ...]:
    kept = list[str]()
    for phrase in phrases:
        meant = by_name.named(phrase)
        if _SAY_NOTHING.issuperset(words(phrase)):
            skipped[VAGUE_SYNONYM] += 1
        elif meant and name not in meant:
            skipped[OTHER_NAME] += 1
        elif not meant:
            kept.append(phrase)
    return tuple(kept)


def _kinds(
    name: str, phrases: Iterable[str], by_name: Mentions, taken: Mentions, skipped: Counter[str]
) -> tuple[str, ...]:
    """Keep the kinds that are no categories; those that are belong to the hierarchy."""
    kept = list[str]()
    for phrase in phrases:
        meant = taken.named(phrase)
        if _SAY_NOTHING.issuperset(words(phrase)):
            skipped[VAGUE_KIND] += 1
        elif meant and name not in meant and not by_name.named(phrase):
            skipped[KIND_BY_OTHER_NAME] += 1
        elif not meant:
            kept.append(phrase)
    return tuple(kept)


def _both(
    by_name: Mentions, first: str, second: str, skipped: Counter[str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The categories that each of two phrases names; none, and counted, where one names none."""
    found = by_name.named(first), by_name.named(second)
    if all(found):
        return found
    skipped[NOT_LISTED] += 1
    return (), ()


def _relations(
    names: Sequence[str], answers: Iterable[Answer], by_name: Mentions, skipped: Counter[str]
) -> tuple[Relation, ...]:
    order = {name: row for row, name in enumerate(names)}
    found = dict[Relation, None]()
    for answer in answers:
        for kind, pairs in ((SHARES, answer.shares), (CO_OCCURS, answer.co_occurs)):
            for pair in pairs:
                firsts, seconds = _both(by_name, *pair, skipped)
                for first in firsts:
                    for second in seconds:
                        if first != second:
                            one, other = sorted((first, second), key=order.__getitem__)
                            found[Relation(one, other, kind)] = None
    return tuple(found)


def _sentences(
    texts: Iterable[str], mentions: Mentions, skipped: Counter[str]
) -> tuple[Sentence, ...]:
    kept: list[Sentence] = []
    seen = set[str]()
    for text in texts:
        key = " ".join(words(text))
        found = mentions.find(text)
        if key in seen:
            skipped[REPEATED] += 1
        elif not found:
            skipped[NO_CATEGORY] += 1
        else:
            kept.append(Sentence(text, found))
        seen.add(key)
    return tuple(kept)


def _nothing(skipped: Counter[str]) -> str:
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in skipped.most_common(4))
    return (
        "The language model gave no sentence that can be used"
        f"{f' (left out: {reasons})' if reasons else ''}. Try another model, or look at its answers."
    )

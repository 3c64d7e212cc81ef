"""English words as sentences write them: in lower case, in the plural, with hyphens or without."""

import re
import unicodedata

_WORD = re.compile(r"[^\W_]+")
_VOWELS = "aeiou"
#: Endings whose plural is not regular; they hold for compounds too: "snowman", "bookshelf".
_ENDINGS = {
    "man": "men", "person": "people", "child": "children", "foot": "feet", "tooth": "teeth",
    "goose": "geese", "mouse": "mice", "louse": "lice", "knife": "knives", "wife": "wives",
    "life": "lives", "leaf": "leaves", "loaf": "loaves", "elf": "elves", "wolf": "wolves",
    "thief": "thieves", "calf": "calves", "half": "halves", "scarf": "scarves", "hoof": "hooves",
    "wharf": "wharves", "dwarf": "dwarves", "sis": "ses", "xis": "xes", "eau": "eaux",
    "quiz": "quizzes", "passerby": "passersby", "ium": "ia",
}  # fmt: skip
#: Words whose plural is not regular, where no compound of them is common.
_WHOLE = {
    "ox": "oxen", "die": "dice", "bus": "busses", "gas": "gasses", "cactus": "cacti",
    "fungus": "fungi", "octopus": "octopi", "nucleus": "nuclei", "hippopotamus": "hippopotami",
    "larva": "larvae", "alga": "algae", "antenna": "antennae", "vertebra": "vertebrae",
    "phenomenon": "phenomena", "criterion": "criteria", "matrix": "matrices", "index": "indices",
    "vertex": "vertices", "genus": "genera",
}  # fmt: skip
#: Plurals whose singular means something else.
_NO_SINGULAR = frozenset(
    {"arms", "blues", "briefs", "customs", "drawers", "glasses", "goods", "greens", "grounds",
     "irons", "lens", "means", "news", "pants", "remains", "series", "shorts", "slacks", "species",
     "spirits", "tights", "woods", "works"}
)  # fmt: skip
_PREPOSITIONS = frozenset({"of", "in", "on", "at", "by", "for", "with", "de"})


def words(text: str) -> list[str]:
    """Split a text into its words, in lower case; what stands between them is dropped.

    The parts of "T-shirt" and "dog's" are words of their own.
    """
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def other_numbers(phrase: list[str]) -> set[str]:
    """Return the plurals of a phrase, and its singulars where it is a plural.

    It is the last word that changes, or the one before a preposition ("bags of rice"). Forms
    that nobody writes ("mouses") are among them; they do no harm.
    """
    heads = {len(phrase) - 1}
    heads |= {i - 1 for i, word in enumerate(phrase) if i and word in _PREPOSITIONS}
    found = set[str]()
    for head in heads:
        for form in _plurals(phrase[head]) | _singulars(phrase[head]):
            found.add(" ".join([*phrase[:head], form, *phrase[head + 1 :]]))
    return found - {" ".join(phrase)}


def _plurals(word: str) -> set[str]:
    found = {_regular(word)}
    if word.endswith("o"):
        found.add(word + "es")
    if word in _WHOLE:
        found.add(_WHOLE[word])
    found |= {word[: -len(one)] + many for one, many in _ENDINGS.items() if word.endswith(one)}
    return found


def _regular(word: str) -> str:
    if word.endswith(("s", "x", "z", "ch", "sh")):
        return word + "es"
    if word.endswith("y") and len(word) > 2 and word[-2] not in _VOWELS:
        return word[:-1] + "ies"
    return word + "s"


def _singulars(word: str) -> set[str]:
    """Every word of which this is a plural."""
    if word in _NO_SINGULAR or word.endswith("ics"):
        return set()
    found = {one for one, many in _WHOLE.items() if many == word}
    found |= {word[: -len(many)] + one for one, many in _ENDINGS.items() if word.endswith(many)}
    if len(word) > 3:  # "gas" is no plural
        found |= {word[:-1], word[:-2], word[:-3] + "y"}
    return {guess for guess in found if word in _plurals(guess)}

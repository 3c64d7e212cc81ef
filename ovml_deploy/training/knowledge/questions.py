"""The questions a language model is asked: text files with ``{placeholders}``, yours to edit."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ovml_deploy.errors import DataError, UsageError
from ovml_deploy.training.data.text_files import read_text

#: The questions that are asked unless a user names a folder of others.
FOLDER = Path(__file__).parent / "questions"
_PLACEHOLDER = re.compile(r"\{([A-Za-z_]\w*)\}")  # JSON's braces hold no bare word
#: By file, the placeholders it must have, without which all its questions are one; and may have.
_MUST: Mapping[str, frozenset[str]] = {
    "agnostic": frozenset(),
    "category": frozenset({"category"}),
    "relation": frozenset({"batch"}),
}
_MAY: Mapping[str, frozenset[str]] = {
    "agnostic": frozenset(),
    "category": frozenset({"attributes", "contexts", "sentences"}),
    "relation": frozenset({"categories", "sentences"}),
}


@dataclass(frozen=True)
class Questions:
    """The text of each of the three kinds of questions (arXiv 2403.01209).

    ``agnostic``: which attributes and contexts matter at all; ``category``: about one category;
    ``relation``: about how a batch of them are related.
    """

    agnostic: str
    category: str
    relation: str

    @classmethod
    def load(cls, folder: str | Path = FOLDER) -> "Questions":
        """Read agnostic.txt, category.txt and relation.txt. Raises UsageError."""
        return cls(**{name: _load(Path(folder), name) for name in _MUST})


def fill(question: str, **values: object) -> str:
    """Put values in the place of placeholders (braces in a value stay as they are)."""
    return _PLACEHOLDER.sub(lambda match: str(values[match[1]]), question)


def _load(folder: Path, name: str) -> str:
    source = folder / f"{name}.txt"
    if not source.is_file():
        raise UsageError(
            f"There are no questions in {str(source)!r}. Copy the folder {str(FOLDER)!r} and edit "
            "its files."
        )
    try:
        text = read_text(source).strip()
    except DataError as error:
        raise UsageError(str(error)) from error
    if not text:
        raise UsageError(f"The questions in {str(source)!r} are empty.")
    found = set(_PLACEHOLDER.findall(text))
    known = _MUST[name] | _MAY[name]
    for unknown in sorted(found - known):
        raise UsageError(
            f"{str(source)!r} has the placeholder {{{unknown}}}, which is not known. {_listed(known)}"
        )
    for missing in sorted(_MUST[name] - found):
        raise UsageError(
            f"{str(source)!r} lacks the placeholder {{{missing}}}, without which every question is "
            "the same."
        )
    return text


def _listed(known: frozenset[str]) -> str:
    if not known:
        return "This file has none."
    return f"Known are: {', '.join(f'{{{name}}}' for name in sorted(known))}."

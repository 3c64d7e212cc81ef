"""WordNet's nouns: names, glosses and hypernyms, from the files of Debian's ``wordnet-base``."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ovml_deploy.errors import DataError

DATA_FILE = Path("/usr/share/wordnet/data.noun")
INDEX_FILE = Path("/usr/share/wordnet/index.noun")
_HYPERNYM_POINTERS = ("@", "@i")


@dataclass(frozen=True)
class Synset:
    """One meaning: its topic, synonyms, the offsets of its hypernyms, and its definition."""

    offset: str
    topic: str  # number of the lexicographer's file (lexnames(5WN)): "05" is animals
    names: tuple[str, ...]
    hypernyms: tuple[str, ...]
    gloss: str


def parse_synset(line: str) -> Synset:
    """Parse one line of ``data.noun`` (wndb(5WN)). Raises ValueError or IndexError if malformed."""
    data, _, gloss = line.partition("|")
    fields = data.split()
    word_count = int(fields[3], 16)
    names = tuple(word.replace("_", " ") for word in fields[4 : 4 + 2 * word_count : 2])
    pointers = fields[5 + 2 * word_count :]
    pointer_count = int(fields[4 + 2 * word_count])
    hypernyms = tuple(
        f"n{pointers[start + 1]}"
        for start in range(0, 4 * pointer_count, 4)
        if pointers[start] in _HYPERNYM_POINTERS
    )
    definition = gloss.split(';  "')[0].split('; "')[0].strip()
    return Synset(f"n{fields[0]}", fields[1], names, hypernyms, definition)


class WordNet:
    """Noun synsets by offset ("n02123045", which is also how ImageNet names its classes)."""

    def __init__(self, synsets: Iterable[Synset]) -> None:
        self.synsets = {synset.offset: synset for synset in synsets}

    @classmethod
    def load(cls, path: Path = DATA_FILE) -> "WordNet":
        """Read ``data.noun``. Raises DataError where it is absent or not WordNet's."""
        lines = _lines(path)
        try:
            return cls([parse_synset(line) for line in lines])
        except (ValueError, IndexError) as error:
            raise DataError(f"{path} is not a WordNet data file: {error}") from error

    def ancestors(self, offset: str) -> tuple[str, ...]:
        """Return the offset itself and everything above it, nearest first, each once."""
        seen = {offset: None}
        queue = [offset]
        for current in queue:
            for parent in self.synsets[current].hypernyms:
                if parent not in seen:
                    seen[parent] = None
                    queue.append(parent)
        return tuple(seen)

    def names(self, offset: str) -> tuple[str, ...]:
        """Return the synonyms of a synset, as people write them."""
        return self.synsets[offset].names


class NounIndex:
    """The meanings of each noun, the commonest first, and which nouns are common."""

    def __init__(self, lines: Iterable[str]) -> None:
        self.senses: dict[str, tuple[str, ...]] = {}
        self.common: set[str] = set()
        for line in lines:
            fields = line.split()
            noun, sense_count = fields[0].replace("_", " "), int(fields[2])
            self.senses[noun] = tuple(f"n{offset}" for offset in fields[-sense_count:])
            if int(fields[-sense_count - 1]):
                self.common.add(noun)  # it occurs in WordNet's tagged texts (tagsense_cnt)

    @classmethod
    def load(cls, path: Path = INDEX_FILE) -> "NounIndex":
        """Read ``index.noun`` (wndb(5WN)). Raises DataError where it is absent or not WordNet's."""
        lines = _lines(path)
        try:
            return cls(lines)
        except (ValueError, IndexError) as error:
            raise DataError(f"{path} is not a WordNet index file: {error}") from error


def _lines(path: Path) -> list[str]:
    if not path.is_file():
        raise DataError(
            f"WordNet's nouns are not at {path}. Install them: apt-get install wordnet-base"
        )
    lines = path.read_text("utf-8").splitlines()
    return [line for line in lines if not line.startswith("  ")]  # those are the licence

"""A WordNet of twelve nouns, in the files' own format."""

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from ovml_deploy.training.mini.taxonomy import Taxonomy
from ovml_deploy.training.scenes import Picture, read_pictures
from ovml_deploy.training.wordnet import DATA_FILE, INDEX_FILE, NounIndex, WordNet

LICENCE = "  1 This software and database  \n"
NOUNS = (
    "00000001 03 n 01 entity 0 000 | that which is  \n"
    "00000002 05 n 02 animal 0 beast 0 001 @ 00000001 n 0000 | a living organism  \n"
    "00000003 05 n 01 cat 0 001 @ 00000002 n 0000 | a feline  \n"
    "00000004 05 n 02 tabby 0 tabby_cat 0 001 @ 00000003 n 0000 | a cat with a grey coat  \n"
    "00000005 05 n 01 Persian_cat 0 001 @ 00000003 n 0000 | a long-haired cat  \n"
    "00000006 05 n 02 dog 0 domestic_dog 0 002 @ 00000002 n 0000 ~ 00000007 n 0000 | barks  \n"
    "00000007 05 n 01 puppy 0 001 @ 00000006 n 0000 | a young dog  \n"
    "00000008 13 n 01 food 0 001 @ 00000001 n 0000 | what is eaten  \n"
    "00000009 13 n 01 orange 0 001 @ 00000008 n 0000 | a round citrus fruit  \n"
    "00000010 07 n 01 orange 0 001 @ 00000001 n 0000 | a colour  \n"
    "00000011 07 n 01 justice 0 000 | being fair  \n"
    "00000012 06 n 02 sandbox 0 litter_box 0 001 @ 00000001 n 0000 | a box of sand  \n"
)
INDEX = (
    "animal n 1 2 @ ~ 1 1 00000002  \n"
    "beast n 1 1 @ 1 0 00000002  \n"
    "cat n 1 2 @ ~ 1 1 00000003  \n"
    "dog n 1 2 @ ~ 1 1 00000006  \n"
    "entity n 1 1 ~ 1 1 00000001  \n"
    "hound n 3 1 @ 3 1 00000011 00000007 00000006  \n"
    "justice n 1 0 1 1 00000011  \n"
    "mandarin n 2 1 @ 2 1 00000011 00000009  \n"
    "orange n 2 1 @ 2 1 00000009 00000010  \n"
    "puppy n 1 1 @ 1 1 00000007  \n"
    "sandbox n 1 1 @ 1 1 00000012  \n"
    "tabby_cat n 1 1 @ 1 0 00000004  \n"
)
TABBY, PERSIAN, DOG = "n00000004", "n00000005", "n00000006"
ORANGE, SANDBOX = "n00000009", "n00000012"


@pytest.fixture
def wordnet_file(tmp_path: Path) -> Path:
    file = tmp_path / "data.noun"
    file.write_text(LICENCE + NOUNS, "utf-8")
    return file


@pytest.fixture
def wordnet(wordnet_file: Path) -> WordNet:
    return WordNet.load(wordnet_file)


@pytest.fixture
def index() -> NounIndex:
    return NounIndex(INDEX.splitlines())


@pytest.fixture
def taxonomy(wordnet: WordNet) -> Taxonomy:
    """Kinds: the classes dog, tabby, Persian cat, orange, sandbox; then animal, entity, cat, food."""
    return Taxonomy(wordnet, [DOG, TABBY, PERSIAN, ORANGE, SANDBOX])


@pytest.fixture(scope="session")
def real_words() -> tuple[Taxonomy, NounIndex]:
    """The taxonomy of the shipped model; skips where Debian's wordnet-base is not installed."""
    if not (DATA_FILE.is_file() and INDEX_FILE.is_file()):
        pytest.skip(f"WordNet is not in {DATA_FILE.parent} (apt-get install wordnet-base)")
    from ovml_deploy.training.mini.towers import imagenet_offsets

    return Taxonomy(WordNet.load(), imagenet_offsets()), NounIndex.load()


@pytest.fixture
def draw_pictures(tmp_path: Path) -> Callable[..., list[Picture]]:
    """A function (name, count, offsets) -> pictures of those things by turns, in one folder."""

    def draw(name: str, count: int, offsets: tuple[str, ...]) -> list[Picture]:
        folder = tmp_path / name
        folder.mkdir(parents=True)
        for number in range(count):
            image = Image.new("RGB", (40, 32), (number * 5 % 256, 99, 255 - number))
            image.save(folder / f"{offsets[number % len(offsets)]}_{number:03}.png")
        return read_pictures(folder)

    return draw

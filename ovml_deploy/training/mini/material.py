"""What the embedded model is made and measured with: words, photographs, cut-outs."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ovml_deploy.errors import DataError
from ovml_deploy.training.data.text_files import read_lines
from ovml_deploy.training.mini.cutouts import (
    STAMPS,
    TEST_STYLE,
    TRAIN_STYLES,
    make_cutouts,
)
from ovml_deploy.training.mini.taxonomy import Taxonomy
from ovml_deploy.training.mini.towers import imagenet_offsets
from ovml_deploy.training.mini.words import EVERYDAY_FILE, WordSplit, split_words
from ovml_deploy.training.scenes import (
    Picture,
    Scene,
    Split,
    cutout_scenes,
    mosaics,
    read_pictures,
    singles,
    split_pictures,
)
from ovml_deploy.training.wordnet import NounIndex, WordNet


@dataclass(frozen=True)
class Material:
    """Words and pictures, each split so that what measures the model was never trained on.

    ``drawn``: emoji in styles to train on; ``other_style``: emoji in a style that is only tested.
    """

    taxonomy: Taxonomy
    words: WordSplit
    photos: Split
    stamps: Split
    drawn: tuple[Picture, ...]
    other_style: tuple[Picture, ...]

    @classmethod
    def load(cls, photos: Path, cutouts: Path, icons: Path) -> "Material":
        """Read everything; make the folder ``cutouts`` if it is not there.

        Raises DataError or MissingDependencyError for what is absent.
        """
        index = NounIndex.load()
        taxonomy = Taxonomy(WordNet.load(), imagenet_offsets())
        photographs = read_pictures(photos)
        _check_offsets(photographs, taxonomy)
        make_cutouts(cutouts, icons, taxonomy, index)
        return cls(
            taxonomy=taxonomy,
            words=split_words(taxonomy, read_lines(EVERYDAY_FILE), index),
            photos=split_pictures(photographs),
            stamps=split_pictures(read_pictures(cutouts / STAMPS)),
            drawn=tuple(p for style in TRAIN_STYLES for p in read_pictures(cutouts / style)),
            other_style=tuple(read_pictures(cutouts / TEST_STYLE)),
        )

    def training_scenes(self, count: int, size: int, seed: int) -> Iterator[Scene]:
        """Yield ``count`` mosaics, half as many scenes with stamps and as many with emoji."""
        train = self.photos.train
        yield from mosaics(train, count, size, seed)
        yield from cutout_scenes(train, self.stamps.train, count // 2, size, seed + 1)
        yield from cutout_scenes(train, self.drawn, count // 2, size, seed + 2)

    def validation_scenes(self, count: int, size: int, seed: int) -> Iterator[Scene]:
        """Yield the validation photographs, ``count`` mosaics, half as many scenes with stamps."""
        photos, stamps = self.photos.validation, self.stamps.validation
        yield from singles(photos)
        yield from mosaics(photos, count, size, seed)
        yield from cutout_scenes(photos, stamps, count // 2, size, seed + 1)

    def test_scenes(self, count: int, size: int, seed: int) -> dict[str, Iterator[Scene]]:
        """Return what to measure on: the test photographs, and ``count`` scenes of each kind."""
        photos = self.photos.test
        return {
            "photographs": singles(photos),
            "mosaics": mosaics(photos, count, size, seed),
            "cut-outs": cutout_scenes(photos, self.stamps.test, count, size, seed + 1),
            "drawings": cutout_scenes(photos, self.other_style, count, size, seed + 2),
        }


def _check_offsets(photos: Sequence[Picture], taxonomy: Taxonomy) -> None:
    for photo in photos:
        if photo.offset not in taxonomy:
            raise DataError(
                f"{photo.path} shows {photo.offset}, which is neither one of the "
                f"{taxonomy.class_count} classes of the image tower nor above one. Take it out of "
                "the folder."
            )

"""Tags the images of an archive with any vocabulary, without the images."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import local

import numpy as np

from ovml_deploy.errors import UsageError
from ovml_deploy.pipelines.archives.layout import Manifest
from ovml_deploy.pipelines.archives.reading import Block, Copies, StoredFeatures
from ovml_deploy.pipelines.archives.selection import Selection
from ovml_deploy.pipelines.tag_blocks import TagBlock
from ovml_deploy.runtime.bundle import Bundle
from ovml_deploy.runtime.calibration import Calibration
from ovml_deploy.runtime.engine import Engine
from ovml_deploy.runtime.iteration import called_ahead
from ovml_deploy.runtime.results import TagResult
from ovml_deploy.runtime.tagger import Tagger, VocabularySource
from ovml_deploy.runtime.threads import available_cpus
from ovml_deploy.runtime.vocabulary import Vocabulary

#: Labels that are matched at once.
TILE = 8192
#: Numbers that the logits of a block have at most.
_LOGITS = 1 << 20
#: Numbers (float32) that the features matched at once have at most, and their similarities: what is
#: just unpacked is still in the processor's cache then.
_FEATURES = 1 << 19


class Archive:
    """Images encoded once: their features, in a folder that :func:`index` fills.

    Any number of processes may read one, also while another fills it; an archive has the parts that
    were finished when it was opened.
    """

    def __init__(self, stored: StoredFeatures) -> None:
        """Use :meth:`open`."""
        self._stored = stored

    @classmethod
    def open(cls, path: str | Path) -> "Archive":
        """Open an archive. Raises ArchiveError."""
        return cls(StoredFeatures(Path(path)))

    def __len__(self) -> int:
        return self.images + self.copies

    @property
    def manifest(self) -> Manifest:
        """What encoded it, and what storing the features lost."""
        return self._stored.manifest

    @property
    def images(self) -> int:
        """How many distinct images it has."""
        return len(self._stored)

    @property
    def copies(self) -> int:
        """How many more names, of images with the content of another one."""
        return len(self._stored.copies)

    @property
    def groups(self) -> int:
        """How many row groups its parts have: what is read at once, and may be read elsewhere."""
        return len(self._stored.groups)

    def check_model(self, bundle: Bundle) -> None:
        """Raise ArchiveError where another model made the features."""
        self.manifest.check_model(bundle, self._stored.folder)

    def blocks(self, size: int = 256) -> Iterator[Block]:
        """Yield all distinct images with features ``[B, M, D]`` (float32). Raises ArchiveError."""
        return self._stored.blocks(size)

    def retag(
        self,
        engine: Engine | Tagger,
        vocabulary: VocabularySource,
        top_k: int | None = 5,
        threshold: float | None = None,
    ) -> Iterator[TagResult]:
        """Yield each image's tags, as ``Tagger.tag`` would give them; copies follow their originals.

        ``top_k`` and ``threshold`` as for ``Tagger.tag``. Raises ArchiveError, also for another
        model's archive, UsageError, LabelError, VocabularyError.
        """
        return (
            row
            for block in self.retag_blocks(engine, vocabulary, top_k, threshold)
            for row in block
        )

    def retag_blocks(
        self,
        engine: Engine | Tagger,
        vocabulary: VocabularySource,
        top_k: int | None = 5,
        threshold: float | None = None,
    ) -> Iterator[TagBlock]:
        """Yield the tags of some images at a time, in columns: the fast way; else as :meth:`retag`.

        Memory: the vocabulary's embeddings, twice where they are more than TILE labels; some 150 MB
        of blocks; 16 bytes and the name for each copy.
        """
        return self.matched(self.matching(engine, vocabulary, top_k, threshold))

    def matching(
        self,
        engine: Engine | Tagger,
        vocabulary: VocabularySource,
        top_k: int | None = 5,
        threshold: float | None = None,
    ) -> "_Matching":
        """Return what tags this archive's blocks. Raises what :meth:`retag` raises."""
        tagger = engine if isinstance(engine, Tagger) else Tagger(engine)
        self.check_model(tagger.bundle)
        if top_k is not None and top_k < 1:
            raise UsageError(f"top_k is {top_k}; it must be at least 1.")
        if threshold is not None and not 0.0 <= threshold <= 1.0:
            raise UsageError(f"threshold is {threshold}; scores lie between 0 and 1.")
        words = tagger.make_vocabulary(vocabulary)
        words.check_fits(tagger.bundle)
        if threshold is None and words.calibration is not None:
            threshold = words.calibration.threshold
        count = len(words) if top_k is None else min(top_k, len(words))
        return _Matching(tagger.engine.for_callers(available_cpus()), words, count, threshold)

    def matched(self, matching: "_Matching", groups: slice = slice(None)) -> Iterator[TagBlock]:
        """Yield the tags of all images, or of those in some row groups (see :attr:`groups`)."""
        copies, size = self._stored.copies, matching.images_of_a_block
        workers = available_cpus()
        tag = partial(matching.tags, copies=copies)
        most = 2 * workers + 1  # one each in hand, one each to go on with, and the reader's
        with (
            closing(self._stored.blocks(size, groups)) as blocks,
            called_ahead(tag, blocks, most, workers, "ovml-match") as calls,
        ):
            for call in calls:
                yield from call.result()


class _Matching:
    """A vocabulary in tiles of labels, and what is to be kept of it."""

    def __init__(
        self, engine: Engine, vocabulary: Vocabulary, count: int, threshold: float | None
    ) -> None:
        self._engine, self._vocabulary = engine, vocabulary
        self._count, self._threshold = count, threshold
        self._softmax = vocabulary.calibration is None and engine.bundle.activation == "softmax"
        self._tiles = [*_tiles(vocabulary)]
        self._own = local()

    @property
    def images_of_a_block(self) -> int:
        """How many images to take at once: so many that a block's logits stay below _LOGITS."""
        return max(1, _LOGITS // max(self._widest, self._count))

    @property
    def _widest(self) -> int:
        return min(len(self._vocabulary), TILE)

    def tags(self, block: Block, copies: Copies) -> list[TagBlock]:
        """Return the tags of a block's images, and of their copies if there are some."""
        selection = Selection(len(block), self._count, self._softmax)
        for first, tile in self._tiles:
            logits, winners = self._matched(block, tile)
            calibration = tile.calibration
            ranks = logits if calibration is None else calibration.logits(logits)
            selection.add(first, logits, winners, ranks)
        tags = selection.result(self._threshold)
        found = [TagBlock(block.names, tags, self._vocabulary)]
        names, places = copies.of(block)
        if len(names):
            found.append(TagBlock(names, tags.take(places), self._vocabulary))
        return found

    def _matched(self, block: Block, tile: Vocabulary) -> tuple[np.ndarray, np.ndarray]:
        """Return logits and winners ``[B, K]`` of a block, matched in pieces."""
        features, embedding = block.columns["features"].shape[1:]
        piece = max(1, _FEATURES // (features * max(embedding, self._widest)))
        buffer = self._buffer((piece, features, embedding))
        logits = np.empty((len(block), len(tile)), np.float32)
        winners = np.empty(logits.shape, np.int64)
        for start in range(0, len(block), piece):
            rows = slice(start, start + piece)
            unpacked = block.unpacked(rows, buffer)
            logits[rows], winners[rows] = self._engine.match(unpacked, tile)
        return logits, winners

    def _buffer(self, shape: tuple[int, ...]) -> np.ndarray:
        """Memory of the calling thread: fresh memory takes longer to get than to fill."""
        buffer: np.ndarray | None = getattr(self._own, "buffer", None)
        if buffer is None or buffer.shape != shape:
            buffer = self._own.buffer = np.empty(shape, np.float32)
        return buffer


def _tiles(vocabulary: Vocabulary) -> Iterator[tuple[int, Vocabulary]]:
    if len(vocabulary) <= TILE:
        yield 0, vocabulary
        return
    for first in range(0, len(vocabulary), TILE):
        part = slice(first, first + TILE)
        calibration: Calibration | None = vocabulary.calibration
        if calibration is not None:
            calibration = replace(calibration, offsets=calibration.offsets[part])
        yield (
            first,
            replace(
                vocabulary,
                labels=vocabulary.labels[part],
                embeddings=vocabulary.embeddings[part],
                calibration=calibration,
            ),
        )

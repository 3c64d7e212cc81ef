"""Encodes images once, into an archive."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np

from ovml_deploy.errors import ImageError, UsageError
from ovml_deploy.pipelines.archives.filling import Filling, filling
from ovml_deploy.pipelines.archives.layout import Manifest
from ovml_deploy.pipelines.archives.quantized import (
    Loss,
    check_precision,
    pack,
    relative_error,
    top_agreement,
    unpack,
    why_not_stored,
)
from ovml_deploy.pipelines.archives.sources import Item, check_sources, find_items, read
from ovml_deploy.runtime.engine import Engine
from ovml_deploy.runtime.images import open_image
from ovml_deploy.runtime.read_ahead import read_ahead
from ovml_deploy.runtime.tagger import Tagger
from ovml_deploy.runtime.vocabulary import load_named

#: On so many images the loss of storing features is measured.
LOSS_IMAGES = 64

#: Called with how many images were read, and how many of them failed.
IndexProgress = Callable[[int, int], None]


@dataclass
class Stages:
    """Seconds in which the engine computed, waited for images, and waited for all else.

    The three make up the whole run (but for measuring the loss, once an archive), so the greatest
    names what to improve.
    """

    encoding: float = 0.0
    decoding: float = 0.0
    storing: float = 0.0

    @property
    def engine_share(self) -> float:
        """Which part of the time the engine computed: how close the run came to its own rate."""
        return self.encoding / max(self.encoding + self.decoding + self.storing, 1e-9)

    @property
    def bottleneck(self) -> str:
        """The stage that took longest: "encoding", "decoding" or "storing"."""
        return max(vars(self), key=lambda name: getattr(self, name))


@dataclass
class IndexReport:
    """What a run of :func:`index` did.

    ``added`` images of new content, ``copies`` of content that was there, ``skipped`` names that
    were there already, ``failed`` ones with their reasons in ``errors.jsonl``; ``loss`` of storing.
    """

    added: int = 0
    copies: int = 0
    skipped: int = 0
    failed: int = 0
    loss: Loss | None = None
    stages: Stages = field(default_factory=Stages)


def index(
    engine: Engine | Tagger,
    sources: Iterable[str | Path],
    out: str | Path,
    *,
    precision: str = "fp16",
    batch_size: int = 8,
    shard_rows: int = 4096,
    image_column: str = "image",
    progress: IndexProgress | None = None,
    on_failure: Callable[[str, str], None] | None = None,
) -> IndexReport:
    """Encode images into the archive ``out``, or those that it lacks.

    ``sources``: image files, folders, patterns, WebDataset tars, Parquet files with encoded images
    in ``image_column``. ``precision``: of the stored features, "fp16" or "int8". A part is written
    every ``shard_rows`` images; after a kill, the next run goes on behind the last one, with the same
    result as if nothing had happened. Bad images are passed to ``on_failure`` (name, reason), and
    tried again by the next run.

    Memory: ``2 * batch_size`` images, three parts, 64 bytes for each image of the archive (twice
    that for moments), and the paths of a source that is a folder or pattern.

    Raises UsageError, ArchiveError, DeviceError; OSError where the archive cannot be written.
    """
    tagger = engine if isinstance(engine, Tagger) else Tagger(engine)
    names = [str(source) for source in sources]
    for what, value in (("batch_size", batch_size), ("shard_rows", shard_rows)):
        if value < 1:
            raise UsageError(f"{what} is {value}; it must be at least 1.")
    check_precision(precision)
    check_sources(names, image_column)
    manifest = Manifest.of(tagger.bundle, precision)
    with filling(Path(out), manifest, tagger.backend.description) as archive:
        run = _Run(tagger, archive, batch_size, shard_rows, on_failure)
        items = find_items(names, run.wanted, image_column)
        run.read(items, progress)
    run.report.loss = archive.manifest.loss
    return run.report


@dataclass(frozen=True)
class _Loaded:
    """An image's content, and its pixels, unless that content is in the archive."""

    digest: bytes
    pixels: np.ndarray | None


class _Run:
    """One run: images in, rows out.

    Batches begin anew with each part, so that a run that goes on behind a part makes the same
    batches, and with them the same features to the bit.
    """

    def __init__(
        self,
        tagger: Tagger,
        archive: Filling,
        batch_size: int,
        shard_rows: int,
        on_failure: Callable[[str, str], None] | None,
    ) -> None:
        self.report = IndexReport()
        self._tagger, self._archive = tagger, archive
        self._batch_size, self._shard_rows = batch_size, shard_rows
        self._on_failure = on_failure
        self._waiting: list[tuple[str, _Loaded]] = []
        self._new: dict[bytes, np.ndarray] = {}  # the pixels among them
        self._probe: list[np.ndarray] = []  # what the loss is measured on
        self._measuring = 0.0

    def wanted(self, name: str) -> bool:
        """Whether a name is not in the archive yet."""
        new = self._archive.take_name(name)
        self.report.skipped += not new
        return new

    def read(self, items: Iterator[Item], progress: IndexProgress | None) -> None:
        """Encode all items."""
        stages, began = self.report.stages, time.perf_counter()
        # read_ahead asks nothing of an item but a name
        ahead = read_ahead(cast(Any, items), cast(Any, self._load), 2 * self._batch_size)
        done = 0
        with closing(ahead) as decoded:
            while True:
                start = time.perf_counter()
                found = next(decoded, None)
                stages.decoding += time.perf_counter() - start
                if found is None:
                    break
                self._take(found[0], cast("_Loaded | ImageError", found[1]))
                done += 1
                if progress is not None:
                    progress(done, self.report.failed)
        self._encode()
        if self._archive.rows_of_part:
            self._end_part()
        whole = time.perf_counter() - began
        known = stages.decoding + stages.encoding + self._measuring
        stages.storing = max(whole - known, 0.0)

    def _load(self, item: Item) -> _Loaded:
        """Read and decode an image, on a thread. Raises ImageError."""
        content = read(item)
        if self._archive.find(content.digest) is not None:
            return _Loaded(content.digest, None)
        try:
            image = open_image(content.data)
        except ImageError as error:
            nameless = f"<{len(content.data)} bytes>"
            raise ImageError(str(error).replace(nameless, item.name, 1)) from error
        return _Loaded(content.digest, self._tagger.bundle.preprocessing(image))

    def _take(self, name: str, found: _Loaded | ImageError) -> None:
        if isinstance(found, ImageError):
            self._fail(name, str(found))
            return
        self._waiting.append((name, found))
        if found.pixels is not None and self._archive.find(found.digest) is None:
            self._new.setdefault(found.digest, found.pixels)
        full = self._archive.rows_of_part + len(self._waiting) >= self._shard_rows
        if full or len(self._new) == self._batch_size:
            self._encode()
        if self._archive.rows_of_part >= self._shard_rows:
            self._end_part()

    def _encode(self) -> None:
        """Encode what waits, and add it to the archive in the order in which it came."""
        waiting, new = self._waiting, self._new
        self._waiting, self._new = [], {}
        rows: dict[bytes, dict[str, np.ndarray]] = {}
        bad: dict[bytes, str] = {}
        if new:
            start = time.perf_counter()
            features = np.asarray(self._tagger.engine.encode(np.stack([*new.values()])))
            self.report.stages.encoding += time.perf_counter() - start
            rows, bad = self._pack([*new], features)
        for name, loaded in waiting:
            digest = loaded.digest
            if (row := self._archive.find(digest)) is not None:
                self._archive.add_copy(name, digest, row)
                self.report.copies += 1
            elif digest in bad:
                self._fail(name, f"{name}: {bad[digest]}.")
            else:
                self._archive.add(name, digest, rows[digest])
                self.report.added += 1

    def _pack(
        self, digests: list[bytes], features: np.ndarray
    ) -> tuple[dict[bytes, dict[str, np.ndarray]], dict[bytes, str]]:
        precision = self._archive.manifest.precision
        whys = [why_not_stored(row, precision) for row in features]
        bad = {digest: why for digest, why in zip(digests, whys, strict=True) if why is not None}
        packed = pack(features, precision, self._archive.manifest.centre_array)
        rows = {
            digest: {name: column[i] for name, column in packed.items()}
            for i, digest in enumerate(digests)
            if digest not in bad
        }
        good = [row for row, why in zip(features, whys, strict=True) if why is None]
        if self._archive.manifest.loss is None:
            self._probe += good[: LOSS_IMAGES - len(self._probe)]
        return rows, bad

    def _end_part(self) -> None:
        start = time.perf_counter()
        loss = self._measure() if self._probe else None
        self._measuring += time.perf_counter() - start
        self._archive.end_part(loss)
        self._probe = []

    def _measure(self) -> Loss:
        exact, manifest = np.stack(self._probe), self._archive.manifest
        centre = manifest.centre_array
        stored = unpack(pack(exact, manifest.precision, centre), centre)
        bundle = self._tagger.bundle
        agreement = None
        if bundle.default_vocabulary is not None:
            vocabulary = load_named(bundle, bundle.default_vocabulary)
            match = self._tagger.engine.match
            agreement = top_agreement(match(exact, vocabulary)[0], match(stored, vocabulary)[0])
        return Loss(len(exact), relative_error(exact, stored), agreement)

    def _fail(self, name: str, reason: str) -> None:
        self._archive.fail(name, reason)
        self.report.failed += 1
        if self._on_failure is not None:
            self._on_failure(name, reason)

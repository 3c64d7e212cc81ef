"""Makes batches of the images that come, and rows of an archive of what a model gives for them."""

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field

import numpy as np

from ovml_deploy.errors import ImageError
from ovml_deploy.pipelines.archives.encoders import Encoder, Loaded
from ovml_deploy.pipelines.archives.filling import Filling
from ovml_deploy.pipelines.archives.quantized import Loss, pack, why_not_stored
from ovml_deploy.pipelines.archives.report import IndexProgress, IndexReport
from ovml_deploy.pipelines.archives.sources import Item

#: On so many images the loss of storing features is measured.
LOSS_IMAGES = 64

OnFailure = Callable[[str, str], None]


@dataclass
class _Batch:
    """Images in a row: names with their digests, or with what is wrong with them."""

    images: list[tuple[str, bytes | ImageError]] = field(default_factory=list)
    rows: int = 0  # of images with a digest
    new: dict[bytes, object] = field(default_factory=dict)  # the pixels to be encoded
    features: Callable[[], np.ndarray] | None = None


class Batching:
    """One run: images in, rows out.

    Batches begin anew with each part, so that a run that goes on behind a part makes the same
    batches, and with them the same features to the bit. Nor do they depend on how many batches are
    under way at once: they are planned as if all before them were good. Where one was not (the model
    gave an image no finite features), those behind it are planned again.
    """

    def __init__(
        self,
        encoder: Encoder,
        archive: Filling,
        batch_size: int,
        shard_rows: int,
        on_failure: OnFailure | None,
    ) -> None:
        self.report = IndexReport()
        self._encoder, self._archive = encoder, archive
        self._batch_size, self._shard_rows = batch_size, shard_rows
        self._on_failure = on_failure
        self._batch = _Batch()
        self._under_way: deque[_Batch] = deque()
        self._to_come: set[bytes] = set()  # contents of the batches under way
        self._planned = 0  # rows that the part will have with them
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
        self._planned = self._archive.rows_of_part
        done = 0
        with closing(self._encoder.load(items, self._archive.find, stages.took_beside)) as decoded:
            while True:
                with stages.timing("decoding"):
                    found = next(decoded, None)
                if found is None:
                    break
                self._take(*found)
                done += 1
                if progress is not None:
                    progress(done, self.report.failed)
        while self._batch.images or self._under_way:
            self._begin()
            self._finish(0)
        if self._archive.rows_of_part:
            self._end_part()
        whole = time.perf_counter() - began
        known = stages.decoding + stages.encoding + self._measuring
        stages.storing = max(whole - known, 0.0)

    def _take(self, name: str, found: Loaded | ImageError) -> None:
        batch = self._batch
        if isinstance(found, ImageError):
            if self._under_way:  # to be reported in the order of images
                batch.images.append((name, found))
            else:
                self._fail(name, str(found))
            return
        digest = found.digest
        batch.images.append((name, digest))
        batch.rows += 1
        if found.pixels is not None and not self._is_known(digest):
            batch.new.setdefault(digest, found.pixels)
        full = self._planned + batch.rows >= self._shard_rows
        if full or len(batch.new) == self._batch_size:
            self._begin()
            self._finish(self._encoder.ahead)

    def _is_known(self, digest: bytes) -> bool:
        return digest in self._to_come or self._archive.find(digest) is not None

    def _begin(self) -> None:
        """Begin to encode what waits."""
        batch, self._batch = self._batch, _Batch()
        if batch.new:
            with self.report.stages.timing("encoding"):
                batch.features = self._encoder.encode([*batch.new.values()])
        self._to_come.update(batch.new)
        self._planned += batch.rows
        if self._planned >= self._shard_rows:
            self._planned = 0
        self._under_way.append(batch)

    def _finish(self, left: int) -> None:
        """Add batches to the archive in the order in which they came, until so many are left."""
        while len(self._under_way) > left:
            batch = self._under_way.popleft()
            if not self._add(batch):
                self._plan_again(batch)

    def _add(self, batch: _Batch) -> bool:
        """Add a batch's rows, and return whether all could be stored."""
        rows: dict[bytes, dict[str, np.ndarray]] = {}
        bad: dict[bytes, str] = {}
        if batch.features is not None:
            with self.report.stages.timing("encoding"):
                features = batch.features()
            rows, bad = self._pack([*batch.new], features)
        for name, found in batch.images:
            if isinstance(found, ImageError):
                self._fail(name, str(found))
        for name, found in batch.images:
            if isinstance(found, ImageError):
                continue
            if (row := self._archive.find(found)) is not None:
                self._archive.add_copy(name, found, row)
                self.report.copies += 1
            elif found in bad:
                self._fail(name, f"{name}: {bad[found]}.")
            else:
                self._archive.add(name, found, rows[found])
                self.report.added += 1
        self._to_come.difference_update(batch.new)
        if self._archive.rows_of_part >= self._shard_rows:
            self._end_part()
        return not bad

    def _plan_again(self, before: _Batch) -> None:
        """Take the images behind a batch once more, with fewer rows before them than was thought."""
        batches = [*self._under_way, self._batch]
        self._under_way, self._batch = deque(), _Batch()
        self._to_come = set()
        self._planned = self._archive.rows_of_part
        pixels = dict(before.new)
        for batch in batches:
            pixels.update(batch.new)
        for batch in batches:
            for name, found in batch.images:
                if isinstance(found, bytes):
                    self._take(name, Loaded(found, pixels.get(found)))
                else:
                    self._take(name, found)

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
        loss: Loss | None = None
        if self._probe:
            loss = self._encoder.measure(np.stack(self._probe), self._archive.manifest)
        self._measuring += time.perf_counter() - start
        self._archive.end_part(loss)
        self._probe = []

    def _fail(self, name: str, reason: str) -> None:
        self._archive.fail(name, reason)
        self.report.failed += 1
        if self._on_failure is not None:
            self._on_failure(name, reason)

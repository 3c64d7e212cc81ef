"""What every front of the server calls, be it HTTP, gRPC or Ray: images in, tags out."""

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter

import numpy as np

from ovml_deploy.errors import ImageError, OverloadedError, UsageError
from ovml_deploy.runtime.engine import Engine
from ovml_deploy.runtime.images import open_image
from ovml_deploy.runtime.results import Tag, select_tags
from ovml_deploy.runtime.vocabulary import Vocabulary
from ovml_deploy.serving.batcher import Batcher, Matched
from ovml_deploy.serving.canary import Canary
from ovml_deploy.serving.decoders import Decoders, on_thread
from ovml_deploy.serving.errors import StoppingError
from ovml_deploy.serving.inline import NAME as INLINE
from ovml_deploy.serving.inline import InlineVocabularies
from ovml_deploy.serving.metrics import Metrics
from ovml_deploy.serving.settings import Settings
from ovml_deploy.serving.vocabularies import VocabularyStore

logger = logging.getLogger(__name__)

#: What strangers may send; Pillow knows many more, some of them hardly tested.
#: MPO comes with JPEG; named here, Pillow would fail on all that is neither.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")

_MOST_TAGS = 200_000  # of all images of a request


@dataclass(frozen=True)
class Choice:
    """The vocabulary of a request, from its beginning to its end; ``version`` 0: it has none."""

    vocabulary: Vocabulary
    name: str = INLINE
    version: int = 0


@dataclass(frozen=True)
class Times:
    """Milliseconds that an image took: decoding, waiting for the engine, and its batch's there."""

    decode: float
    queue: float
    engine: float
    batch: int


@dataclass(frozen=True)
class Item:
    """What became of an image: tags, features ``[M, D]``, attention ``[M, h, w]``, or an error."""

    tags: tuple[Tag, ...] = ()
    features: np.ndarray | None = None
    attention: np.ndarray | None = None
    times: Times | None = None
    error: str | None = None


class Service:
    """One engine with its batcher, vocabularies and counters. For one event loop; close it.

    ``died`` is called (on any thread) where the engine's thread ends by itself. Methods raise
    OverloadedError where too much is inside already, StoppingError while it ends, DeviceError where the
    engine fails; an image that cannot be read is its own item's error.
    """

    def __init__(
        self, engine: Engine, settings: Settings, died: Callable[[], None] | None = None
    ) -> None:
        self.engine = engine
        self.settings = settings
        self.metrics = Metrics()
        self.stopping = False
        self.vocabularies = VocabularyStore(engine, settings.state, settings.limits)
        self.batcher = Batcher(
            engine,
            settings.max_batch,
            settings.max_delay,
            settings.max_queue,
            self._observe,
            died,
        )
        self.canary = Canary(engine, self.batcher)
        self._inline = InlineVocabularies(
            engine, settings.max_inline_labels, settings.limits.label_chars
        )
        self._decoders = Decoders(settings.decoders, self._decode, self.batcher)
        self._matcher = ThreadPoolExecutor(1, "ovml-match")
        self._inside = 0
        self.bytes_inside = 0  #: of bodies, those that still come included
        self.metrics.watch_vocabularies(self.vocabularies)
        self.metrics.watch(
            "ovml_queue_images", "Images waiting for the engine", lambda: self.batcher.waiting
        )
        self.metrics.watch("ovml_images_inside", "Images inside", lambda: self._inside)

    async def choose(self, name: str | None = None, labels: Sequence[str] | None = None) -> Choice:
        """Return the vocabulary of a name or of labels; of neither, the active one.

        Raises VocabularyError or LabelError.
        """
        if labels is not None:
            if name is not None:
                raise UsageError("Give a vocabulary or labels, not both.")
            start = perf_counter()
            vocabulary = await self._inline.get(labels)
            self.metrics.took("embed", perf_counter() - start)
            return Choice(vocabulary)
        store = self.vocabularies
        vocabulary, entry = store.active() if name is None else store.served(name)
        return Choice(vocabulary, entry.name, entry.version)

    async def tag(
        self,
        images: Sequence[bytes | ImageError],
        choice: Choice,
        top_k: int | None = 5,
        threshold: float | None = None,
    ) -> list[Item]:
        """Return the tags of encoded images, each as ``Tagger.tag`` gives them.

        An error in an image's place is its item's.
        """
        self._check_size(len(images), choice, top_k)
        with self.places(len(images)):
            return await _all(self._tag(image, choice, top_k, threshold) for image in images)

    async def encode(self, images: Sequence[bytes | ImageError]) -> list[Item]:
        """Return the features of encoded images."""
        with self.places(len(images)):
            return await _all(self._encode(image) for image in images)

    async def look(self, images: Sequence[bytes | ImageError]) -> list[Item]:
        """Return where in encoded images each feature was found: see ``Engine.look``.

        Raises UsageError where the model does not tell.
        """
        if self.engine.bundle.attention_grid is None:
            raise UsageError("This model does not tell where in an image it looked.")
        with self.places(len(images)):
            return await _all(self._look(image) for image in images)

    async def tag_pixels(
        self,
        pixels: np.ndarray,
        choice: Choice,
        top_k: int | None = 5,
        threshold: float | None = None,
    ) -> list[Item]:
        """Return the tags of preprocessed pixels ``[B, H, W, 3]`` (uint8). Raises UsageError."""
        self._check_pixels(pixels)
        self._check_size(len(pixels), choice, top_k)
        with self.places(len(pixels)):
            return await _all(self._tag(row, choice, top_k, threshold) for row in pixels)

    async def encode_pixels(self, pixels: np.ndarray) -> list[Item]:
        """Return the features of preprocessed pixels ``[B, H, W, 3]`` (uint8). Raises UsageError."""
        self._check_pixels(pixels)
        with self.places(len(pixels)):
            return await _all(self._encode(row) for row in pixels)

    async def match(
        self,
        features: np.ndarray,
        choice: Choice,
        top_k: int | None = 5,
        threshold: float | None = None,
    ) -> list[tuple[Tag, ...]]:
        """Return the tags of features ``[B, M, D]`` (float32). Raises UsageError."""
        bundle = self.engine.bundle
        expected = (bundle.features_per_image, bundle.embed_dim)
        if features.ndim != 3 or features.shape[1:] != expected or not np.isfinite(features).all():
            raise UsageError(
                f"Features must be finite [B, {expected[0]}, {expected[1]}]; these are "
                f"{list(features.shape)}."
            )

        self._check_size(len(features), choice, top_k)

        def work(features: np.ndarray) -> list[tuple[Tag, ...]]:
            with self.metrics.timed("match"):
                logits, winners = self.engine.match(features, choice.vocabulary)
                return [
                    self._select(row, won, choice, top_k, threshold)
                    for row, won in zip(logits, winners, strict=True)
                ]

        with self.places(len(features)):
            return await on_thread(self._matcher, work, features)

    @contextmanager
    def places(self, images: int) -> Iterator[None]:
        """Hold places for images. Raises OverloadedError at once where there are too few."""
        most = self.settings.images_a_request
        if images > most:
            raise UsageError(f"{images} images are too many for a request: at most {most} may be.")
        if self._inside + images > self.settings.max_queue:
            raise OverloadedError(
                f"{self._inside} images are being tagged already, and at most "
                f"{self.settings.max_queue} may be. Come back later, or send fewer at once.",
                self.batcher.expected_wait(self._inside + images),
            )
        self._inside += images
        try:
            yield
        finally:
            self._inside -= images

    def check_room(self) -> None:
        """Raise OverloadedError where not even one image has a place, before it is read.

        And StoppingError at the end: what came before is finished.
        """
        if self.stopping:
            raise StoppingError("The server stops. Send this to another one, or come back later.")
        with self.places(1):
            pass

    def take_bytes(self, count: int) -> None:
        """Count bytes of a body that came, until :meth:`drop_bytes`. Raises OverloadedError."""
        self.bytes_inside += count
        if self.bytes_inside > self.settings.max_bytes_inside:
            raise OverloadedError("Too many bytes are inside. Come back later.", 1.0)

    def drop_bytes(self, count: int) -> None:
        """Count bytes no more that :meth:`take_bytes` counted, whether or not it raised."""
        self.bytes_inside -= count

    async def fault(self) -> str | None:
        """Return why images are not tagged right now, None where they are."""
        return "The server stops." if self.stopping else await self.canary.fault()

    def close(self, drain: bool = True) -> None:
        """Finish what is inside (or drop it), then end the threads. Not from the event loop."""
        self.stopping = True
        self.batcher.close(drain)
        self._decoders.close()
        self._matcher.shutdown(cancel_futures=True)
        self._inline.close()
        self.vocabularies.close()

    def _check_pixels(self, pixels: np.ndarray) -> None:
        expected = (*self.engine.bundle.preprocessing.size, 3)
        if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[1:] != expected:
            raise UsageError(
                f"Pixels must be uint8 [B, {', '.join(map(str, expected))}]; these are "
                f"{pixels.dtype} {list(pixels.shape)}."
            )

    async def _tag(
        self,
        image: bytes | np.ndarray | ImageError,
        choice: Choice,
        top_k: int | None,
        threshold: float | None,
    ) -> Item:
        found = await self._compute(image, choice.vocabulary)
        if isinstance(found, Item):
            return found
        matched, times = found
        assert matched.logits is not None  # for there was a vocabulary
        assert matched.winners is not None
        tags = self._select(matched.logits, matched.winners, choice, top_k, threshold)
        return Item(tags, matched.features, times=times)

    async def _encode(self, image: bytes | np.ndarray | ImageError) -> Item:
        found = await self._compute(image, None)
        if isinstance(found, Item):
            return found
        return Item((), found[0].features, times=found[1])

    async def _look(self, image: bytes | ImageError) -> Item:
        try:
            if isinstance(image, ImageError):
                raise image
            pixels = await self._decoders.decode(image)
        except ImageError as error:
            return self._unreadable(error)
        attention = await on_thread(self._matcher, self.engine.look, pixels[None])
        assert attention is not None  # for there is a grid
        return Item(attention=attention[0])

    async def _compute(
        self, image: bytes | np.ndarray | ImageError, vocabulary: Vocabulary | None
    ) -> tuple[Matched, Times] | Item:
        """Return what the engine found, or the error of an image that cannot be read."""
        decoded = 0.0
        try:
            if isinstance(image, ImageError):
                raise image
            if isinstance(image, np.ndarray):
                matched = await asyncio.wrap_future(self.batcher.submit(image, vocabulary))
            else:
                decoding = self._decoders.submit(image, vocabulary)
                matched = await decoding.matched()
                decoded = decoding.seconds
        except ImageError as error:
            return self._unreadable(error)
        self.metrics.queue_seconds.observe(matched.waited)
        self.metrics.images.inc()
        times = Times(1e3 * decoded, 1e3 * matched.waited, 1e3 * matched.took, matched.batch)
        return matched, times

    def _unreadable(self, error: ImageError) -> Item:
        self.metrics.errors.labels("image").inc()
        return Item(error=str(error))

    def _decode(self, image: bytes) -> np.ndarray:
        start = perf_counter()
        opened = open_image(image, self.settings.max_pixels, FORMATS)
        pixels = self.engine.bundle.preprocessing(opened)
        self.metrics.took("decode", perf_counter() - start)
        return pixels

    def _select(
        self,
        logits: np.ndarray,
        winners: np.ndarray,
        choice: Choice,
        top_k: int | None,
        threshold: float | None,
    ) -> tuple[Tag, ...]:
        activation = self.engine.bundle.activation
        with self.metrics.timed("select"):
            return select_tags(logits, winners, choice.vocabulary, activation, top_k, threshold)

    def _observe(self, images: int, seconds: float) -> None:
        self.metrics.batch_size.observe(images)
        self.metrics.took("encode_and_match", seconds)

    def _check_size(self, images: int, choice: Choice, top_k: int | None) -> None:
        width = len(choice.vocabulary) if top_k is None else min(top_k, len(choice.vocabulary))
        if images * width > _MOST_TAGS:
            raise UsageError(
                f"{images} images of {width:,} tags are too much for an answer: at most "
                f"{_MOST_TAGS:,} tags may be. Choose a smaller top_k, or send fewer images."
            )


async def _all(items: Iterator) -> list[Item]:
    """Run an image's works side by side; where one raises, the others are cancelled."""
    works = [*items]
    if len(works) == 1:
        return [await works[0]]
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(work) for work in works]
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return [task.result() for task in tasks]

"""Where images are decoded and encoded: here, or (``pipelines.cluster``) on other machines."""

import io
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Protocol

import numpy as np

from ovml_deploy.errors import ImageError
from ovml_deploy.pipelines.archives.layout import Manifest
from ovml_deploy.pipelines.archives.quantized import (
    Loss,
    pack,
    relative_error,
    top_agreement,
    unpack,
)
from ovml_deploy.pipelines.archives.sources import Item, read
from ovml_deploy.runtime.bundle import Bundle
from ovml_deploy.runtime.images import open_image
from ovml_deploy.runtime.read_ahead import read_ahead
from ovml_deploy.runtime.tagger import Tagger
from ovml_deploy.runtime.vocabulary import load_named

#: The row that has a content, or None.
Find = Callable[[bytes], int | None]
#: Called with the seconds of a processor that decoding an image took from the engine.
Took = Callable[[float], None]


@dataclass(frozen=True)
class Loaded:
    """An image's SHA-256, and its pixels as its encoder wants them; None where nobody needs them."""

    digest: bytes
    pixels: Any | None


class Encoder(Protocol):
    """Decodes and encodes images.

    ``description``: of the device. ``ahead``: how many batches may be under way before the first
    of them is waited for.
    """

    @property
    def bundle(self) -> Bundle:
        """The model."""

    @property
    def description(self) -> str:
        """What it runs on."""

    @property
    def ahead(self) -> int:
        """How many batches may be under way."""

    def load(
        self, items: Iterator[Item], find: Find, took: Took
    ) -> Generator[tuple[str, Loaded | ImageError], None, None]:
        """Yield each item's name, and its content or what is wrong with it, in order."""

    def encode(self, pixels: Sequence[Any]) -> Callable[[], np.ndarray]:
        """Begin with a batch, and return what gives its features ``[B, M, D]`` (float32)."""

    def measure(self, exact: np.ndarray, manifest: Manifest) -> Loss:
        """Return what storing such features ``[B, M, D]`` loses."""


class LocalEncoder:
    """Decodes on threads of this process, and encodes one batch after another."""

    ahead = 0

    def __init__(self, tagger: Tagger, batch_size: int) -> None:
        self.bundle = tagger.bundle
        self.description = tagger.backend.description
        self._tagger = tagger
        self._images = 2 * batch_size

    def load(
        self, items: Iterator[Item], find: Find, took: Took
    ) -> Generator[tuple[str, Loaded | ImageError], None, None]:
        """Decode a little before images are needed."""
        beside = took if self._tagger.engine.on_cpu else None
        return load_items(items, self.bundle, self._images, find, beside)

    def encode(self, pixels: Sequence[np.ndarray]) -> Callable[[], np.ndarray]:
        """Encode pixels ``[H, W, 3]`` at once."""
        features = np.asarray(self._tagger.engine.encode(np.stack(pixels)))
        return lambda: features

    def measure(self, exact: np.ndarray, manifest: Manifest) -> Loss:
        """Match exact and stored features."""
        return measure_loss(self._tagger, exact, manifest)


class _NamedBytes(io.BytesIO):
    """An image's bytes with its name: for messages, and for RAW formats known by their suffix."""

    def __init__(self, data: bytes, name: str) -> None:
        super().__init__(data)
        self.name = name


def load_items(
    items: Iterator[Item], bundle: Bundle, ahead: int, find: Find, took: Took | None = None
) -> Generator[tuple[str, Loaded | ImageError], None, None]:
    """Read and decode images on threads, at most ``ahead`` before the reader, in order.

    An image whose content ``find`` knows is not decoded.
    """

    def load(item: Item) -> Loaded:
        content = read(item)
        if find(content.digest) is not None:
            return Loaded(content.digest, None)
        image = open_image(_NamedBytes(content.data, item.name))
        return Loaded(content.digest, bundle.preprocessing(image))

    return read_ahead(items, attrgetter("name"), load, ahead, took)


def measure_loss(tagger: Tagger, exact: np.ndarray, manifest: Manifest) -> Loss:
    """Return what features ``[B, M, D]`` lose by being stored as the manifest says."""
    centre = manifest.centre_array
    stored = unpack(pack(exact, manifest.precision, centre), centre)
    bundle = tagger.bundle
    agreement = None
    if bundle.default_vocabulary is not None:
        vocabulary = load_named(bundle, bundle.default_vocabulary)
        match = tagger.engine.match
        agreement = top_agreement(match(exact, vocabulary)[0], match(stored, vocabulary)[0])
    return Loss(len(exact), relative_error(exact, stored), agreement)

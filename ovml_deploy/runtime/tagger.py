"""The Tagger: images in, tags out, with a vocabulary that can be swapped at any moment."""

from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from threading import Lock
from typing import cast

import numpy as np

from ovml_deploy.errors import ImageError, UsageError, VocabularyError
from ovml_deploy.runtime.backends import AUTO, Backend, Graph, create_backend
from ovml_deploy.runtime.bundle import ENCODER, MATCHER, Bundle
from ovml_deploy.runtime.images import ImageSource, describe, open_image
from ovml_deploy.runtime.labels import LabelSource, read_grouped_labels
from ovml_deploy.runtime.read_ahead import batches, read_ahead
from ovml_deploy.runtime.results import TagResult, select_tags
from ovml_deploy.runtime.selfcheck import check_golden
from ovml_deploy.runtime.text_encoder import Progress, TextEncoder
from ovml_deploy.runtime.vocabulary import Vocabulary, load_named

#: What ``use_vocabulary`` takes: labels (for a prompt-tuned model also a mapping of labels to groups,
#: None for no group), a vocabulary, a label file or vocabulary file, or the name of a vocabulary in
#: the bundle.
VocabularySource = Vocabulary | LabelSource | str | Path

_SELF_CHECK_IMAGES = 2
_IMAGES_AT_ONCE = 8


class Tagger:
    """Tags images with a bundle. All methods may be called from many threads at once.

    A call reads the current vocabulary once, so that every result comes from one vocabulary,
    whose id it carries, however often the vocabulary is swapped meanwhile.
    """

    def __init__(self, bundle: Bundle, backend: Backend, encoder: Graph, matcher: Graph) -> None:
        """Use :meth:`load`."""
        self.bundle = bundle
        self.backend = backend
        self._encoder = encoder
        self._matcher = matcher
        self._text_encoder: TextEncoder | None = None
        self._text_lock = Lock()
        self._vocabulary: Vocabulary | None = None

    @classmethod
    def load(
        cls,
        engine: str | Path,
        device: str = AUTO,
        vocabulary: VocabularySource | None = None,
        progress: Progress | None = None,
    ) -> "Tagger":
        """Open a bundle on a device, check it on the golden inputs, and choose a vocabulary.

        ``engine``: a bundle folder or a file in one. Without ``vocabulary`` the bundle's default is
        used, if it has one. Raises BundleError, DeviceError, VocabularyError, LabelError.
        """
        bundle = Bundle.open(engine)
        backend = create_backend(device)
        encoder = backend.load(bundle.file(ENCODER))
        matcher = backend.load(bundle.file(MATCHER))
        check_golden(bundle, backend, encoder, matcher, _SELF_CHECK_IMAGES)
        tagger = cls(bundle, backend, encoder, matcher)
        if vocabulary is not None:
            tagger.use_vocabulary(vocabulary, progress)
        elif bundle.default_vocabulary is not None:
            tagger.use_vocabulary(load_named(bundle, bundle.default_vocabulary))
        return tagger

    @property
    def vocabulary(self) -> Vocabulary:
        """The vocabulary now in use. Raises VocabularyError where there is none."""
        current = self._vocabulary
        if current is None:
            raise VocabularyError(
                "No vocabulary is in use. Call use_vocabulary([...]), or pass --vocab labels.txt."
            )
        return current

    @property
    def text_encoder(self) -> TextEncoder:
        """The text encoder, loaded when first needed."""
        with self._text_lock:
            if self._text_encoder is None:
                self._text_encoder = TextEncoder(self.bundle, self.backend)
            return self._text_encoder

    def use_vocabulary(
        self, source: VocabularySource, progress: Progress | None = None
    ) -> Vocabulary:
        """Swap the vocabulary and return it. The swap is atomic, also while others are tagging.

        Raises LabelError or VocabularyError; then the old vocabulary stays in use.
        """
        vocabulary = self.make_vocabulary(source, progress)
        vocabulary.check_fits(self.bundle)
        self._vocabulary = vocabulary
        return vocabulary

    def make_vocabulary(
        self, source: VocabularySource, progress: Progress | None = None
    ) -> Vocabulary:
        """Return the vocabulary that ``source`` stands for, without using it."""
        if isinstance(source, Vocabulary):
            return source
        if isinstance(source, (str, Path)):
            path = Path(source)
            if path.suffix == ".safetensors":
                return Vocabulary.load(path)
            in_bundle = str(source) in self.bundle.vocabulary_names()
            if path.is_file() or (path.suffix and not in_bundle) or isinstance(source, Path):
                return self.text_encoder.vocabulary(read_grouped_labels(path), path.stem, progress)
            return load_named(self.bundle, source)
        return self.text_encoder.vocabulary(source, progress=progress)

    def tag(
        self,
        image: ImageSource,
        top_k: int | None = 5,
        threshold: float | None = None,
        vocabulary: Vocabulary | None = None,
    ) -> TagResult:
        """Return an image's tags, best first: at most ``top_k``, with a score of ``threshold``.

        Without ``threshold``, a calibrated vocabulary's own applies, so that there may be no tag;
        0.0 switches it off. Raises ImageError where the image cannot be read.
        """
        _check_selection(top_k, threshold)
        chosen = self._choose(vocabulary)
        features = self._encode([self._pixels(image)])
        return self._tags([describe(image)], features, chosen, top_k, threshold)[0]

    def tag_many(
        self,
        images: Iterable[ImageSource],
        top_k: int | None = 5,
        threshold: float | None = None,
        vocabulary: Vocabulary | None = None,
        batch_size: int = _IMAGES_AT_ONCE,
    ) -> Iterator[TagResult]:
        """Yield a result for each image, in order, reading ahead on threads; else as :meth:`tag`.

        A bad image gives a result with ``error`` set and no tags; it never ends the run. Each batch
        uses the vocabulary of the moment unless ``vocabulary`` is given.
        """
        _check_selection(top_k, threshold)
        self._choose(vocabulary)  # an error comes now, not with the first result
        _check_batch_size(batch_size)
        return self._tag_many(images, top_k, threshold, vocabulary, batch_size)

    def encode(self, images: ImageSource | Sequence[ImageSource]) -> np.ndarray:
        """Return features ``[B, M, D]`` (float32) of one image or a list of them.

        They do not depend on the vocabulary: keep them and :meth:`match` them later. Raises
        ImageError for the first image that cannot be read.
        """
        several = images if isinstance(images, (list, tuple)) else [cast(ImageSource, images)]
        shape = (0, self.bundle.features_per_image, self.bundle.embed_dim)
        features = [np.empty(shape, dtype=np.float32)]
        for batch in batches(several, _IMAGES_AT_ONCE):
            features.append(self._encode([self._pixels(image) for image in batch]))
        return np.concatenate(features)

    def encode_many(
        self, images: Iterable[ImageSource], batch_size: int = _IMAGES_AT_ONCE
    ) -> Generator[tuple[str, np.ndarray | ImageError], None, None]:
        """Yield each image's name and features ``[M, D]``, in order, reading ahead on threads.

        A bad image gives its ImageError in place of the features; it never ends the run.
        """
        _check_batch_size(batch_size)
        return self._encode_many(images, batch_size)

    def match(self, features: np.ndarray, vocabulary: Vocabulary | None = None) -> np.ndarray:
        """Return logits ``[B, K]`` of features ``[B, M, D]`` (or ``[M, D]`` of one image)."""
        return self._match(features, self._choose(vocabulary))[0]

    def _tag_many(
        self,
        images: Iterable[ImageSource],
        top_k: int | None,
        threshold: float | None,
        vocabulary: Vocabulary | None,
        batch_size: int,
    ) -> Iterator[TagResult]:
        with closing(self._encode_many(images, batch_size)) as encoded:
            for batch in batches(encoded, batch_size):
                chosen = self._choose(vocabulary)
                names, features = _good(batch)
                tagged = iter(self._tags(names, features, chosen, top_k, threshold))
                for name, found in batch:
                    if isinstance(found, ImageError):
                        yield TagResult(name, (), chosen.id, str(found))
                    else:
                        yield next(tagged)

    def _encode_many(
        self, images: Iterable[ImageSource], batch_size: int
    ) -> Generator[tuple[str, np.ndarray | ImageError], None, None]:
        with closing(read_ahead(images, self._pixels, 2 * batch_size)) as decoded:
            for batch in batches(decoded, batch_size):
                pixels = _good(batch)[1]
                features = iter(self._encode(pixels) if pixels else ())
                for name, found in batch:
                    yield name, found if isinstance(found, ImageError) else next(features)

    def _pixels(self, image: ImageSource) -> np.ndarray:
        return self.bundle.preprocessing(open_image(image))

    def _tags(
        self,
        names: Sequence[str],
        features: Sequence[np.ndarray] | np.ndarray,
        vocabulary: Vocabulary,
        top_k: int | None,
        threshold: float | None,
    ) -> list[TagResult]:
        if not names:
            return []
        logits, winners = self._match(np.asarray(features), vocabulary)
        activation = self.bundle.activation
        return [
            TagResult(
                name,
                select_tags(row, won, vocabulary, activation, top_k, threshold),
                vocabulary.id,
            )
            for name, row, won in zip(names, logits, winners, strict=True)
        ]

    def _encode(self, pixels: Sequence[np.ndarray]) -> np.ndarray:
        return self._encoder({"pixels": np.stack(pixels)})["features"]

    def _match(self, features: np.ndarray, vocabulary: Vocabulary) -> tuple[np.ndarray, np.ndarray]:
        features = np.asarray(features, dtype=np.float32)
        if features.ndim == 2:
            features = features[None]
        expected = (self.bundle.features_per_image, self.bundle.embed_dim)
        if features.ndim != 3 or features.shape[1:] != expected:
            raise UsageError(
                f"Features must be [B, {expected[0]}, {expected[1]}]; these are "
                f"{list(features.shape)}."
            )
        outputs = self._matcher({"features": features, "labels": vocabulary.embeddings})
        return outputs["logits"], outputs["winners"]

    def _choose(self, vocabulary: Vocabulary | None) -> Vocabulary:
        if vocabulary is None:
            return self.vocabulary
        vocabulary.check_fits(self.bundle)
        return vocabulary


def _check_selection(top_k: int | None, threshold: float | None) -> None:
    if top_k is not None and top_k < 1:
        raise UsageError(f"top_k is {top_k}; it must be at least 1.")
    if threshold is not None and not 0.0 <= threshold <= 1.0:
        raise UsageError(f"threshold is {threshold}; scores lie between 0 and 1.")


def _check_batch_size(batch_size: int) -> None:
    if batch_size < 1:
        raise UsageError(f"batch_size is {batch_size}; it must be at least 1.")


def _good(
    batch: Iterable[tuple[str, np.ndarray | ImageError]],
) -> tuple[list[str], list[np.ndarray]]:
    """Names and arrays of those that are no errors."""
    good = [(name, found) for name, found in batch if isinstance(found, np.ndarray)]
    return [name for name, _ in good], [array for _, array in good]

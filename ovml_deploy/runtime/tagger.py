"""The Tagger: images in, tags out, with a vocabulary that can be swapped at any moment."""

from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import cast

import numpy as np

from ovml_deploy.errors import ImageError, UsageError, VocabularyError
from ovml_deploy.runtime.backends import AUTO, Array, Backend
from ovml_deploy.runtime.bundle import Bundle
from ovml_deploy.runtime.engine import Engine
from ovml_deploy.runtime.images import ImageSource, describe, open_image
from ovml_deploy.runtime.iteration import batches
from ovml_deploy.runtime.label_files import read_grouped_labels
from ovml_deploy.runtime.labels import LabelSource
from ovml_deploy.runtime.read_ahead import read_ahead
from ovml_deploy.runtime.results import TagResult, select_tags
from ovml_deploy.runtime.stages import Stages
from ovml_deploy.runtime.text_encoder import Progress, TextEncoder
from ovml_deploy.runtime.vocabulary import Vocabulary, load_named

#: What ``use_vocabulary`` takes: labels (for a prompt-tuned model also a mapping of labels to groups,
#: None for no group), a vocabulary, a label file or vocabulary file, or the name of a vocabulary in
#: the bundle.
VocabularySource = Vocabulary | LabelSource | str | Path

_IMAGES_AT_ONCE = 8
_NOTHING = np.empty(0, dtype=np.float32)


class Tagger:
    """Tags images with a bundle. All methods may be called from many threads at once.

    A call reads the current vocabulary once, so that every result comes from one vocabulary,
    whose id it carries, however often the vocabulary is swapped meanwhile.
    """

    def __init__(self, engine: Engine) -> None:
        """Use :meth:`load`."""
        self.engine = engine
        self._vocabulary: Vocabulary | None = None

    @classmethod
    def load(
        cls,
        engine: str | Path,
        device: str = AUTO,
        vocabulary: VocabularySource | None = None,
        progress: Progress | None = None,
        precision: str = AUTO,
        cuda_graphs: Sequence[int] = (),
    ) -> "Tagger":
        """Open a bundle on a device, check it on the golden inputs, and choose a vocabulary.

        ``engine``: a bundle folder or a file in one; ``device``, ``precision``, ``cuda_graphs``: as for
        :meth:`Engine.open`. Without ``vocabulary`` the bundle's default is used, if it has one.
        Raises BundleError, DeviceError, VocabularyError, LabelError.
        """
        return cls.of(Engine.open(engine, device, precision, cuda_graphs), vocabulary, progress)

    @classmethod
    def of(
        cls,
        engine: Engine,
        vocabulary: VocabularySource | None = None,
        progress: Progress | None = None,
    ) -> "Tagger":
        """Tag with an engine that is open already; otherwise as :meth:`load`."""
        tagger = cls(engine)
        default = tagger.bundle.default_vocabulary
        if vocabulary is not None:
            tagger.use_vocabulary(vocabulary, progress)
        elif default is not None:
            tagger.use_vocabulary(load_named(tagger.bundle, default))
        return tagger

    @property
    def bundle(self) -> Bundle:
        """The bundle it tags with."""
        return self.engine.bundle

    @property
    def backend(self) -> Backend:
        """What runs it."""
        return self.engine.backend

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
        return self.engine.text_encoder

    def use_vocabulary(
        self, source: VocabularySource, progress: Progress | None = None
    ) -> Vocabulary:
        """Swap the vocabulary and return it. The swap is atomic, also while others are tagging.

        Raises LabelError or VocabularyError; then the old vocabulary stays in use.
        """
        vocabulary = self.make_vocabulary(source, progress)
        vocabulary.check_fits(self.bundle)
        self.engine.prepare(vocabulary)
        self._vocabulary = vocabulary
        return vocabulary

    def make_vocabulary(
        self,
        source: VocabularySource,
        progress: Progress | None = None,
        allow_same: bool = False,
    ) -> Vocabulary:
        """Return the vocabulary that ``source`` stands for, without using it.

        ``allow_same``: encode labels that the model cannot tell apart, too, with a warning. Raises
        LabelError or VocabularyError.
        """
        stored = stored_vocabulary(self.bundle, source)
        if stored is not None:
            return stored
        if isinstance(source, (str, Path)):
            labels, name = read_grouped_labels(source), Path(source).stem
            return self.text_encoder.vocabulary(labels, name, progress, allow_same)
        assert not isinstance(source, Vocabulary)
        return self.text_encoder.vocabulary(source, progress=progress, allow_same=allow_same)

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
        features = self.engine.encode(self._pixels(image)[None])
        return self._tags([describe(image)], features, chosen, top_k, threshold)[0]

    def tag_many(
        self,
        images: Iterable[ImageSource],
        top_k: int | None = 5,
        threshold: float | None = None,
        vocabulary: Vocabulary | None = None,
        batch_size: int = _IMAGES_AT_ONCE,
        stages: Stages | None = None,
    ) -> Iterator[TagResult]:
        """Yield a result for each image, in order, reading ahead on threads; else as :meth:`tag`.

        A bad image gives a result with ``error`` set and no tags; it never ends the run. Each batch
        uses the vocabulary of the moment unless ``vocabulary`` is given. ``stages``: where the time
        goes is added to these.
        """
        _check_selection(top_k, threshold)
        self._choose(vocabulary)  # an error comes now, not with the first result
        _check_batch_size(batch_size)
        return self._tag_many(images, top_k, threshold, vocabulary, batch_size, stages or Stages())

    def encode(self, images: ImageSource | Sequence[ImageSource]) -> np.ndarray:
        """Return features ``[B, M, D]`` (float32) of one image or a list of them.

        They do not depend on the vocabulary: keep them and :meth:`match` them later. Raises
        ImageError for the first image that cannot be read.
        """
        several = images if isinstance(images, (list, tuple)) else [cast(ImageSource, images)]
        shape = (0, self.bundle.features_per_image, self.bundle.embed_dim)
        features = [np.empty(shape, dtype=np.float32)]
        for batch in batches(several, _IMAGES_AT_ONCE):
            pixels = np.stack([self._pixels(image) for image in batch])
            features.append(np.asarray(self.engine.encode(pixels)))
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
        features = np.asarray(features, dtype=np.float32)
        if features.ndim == 2:
            features = features[None]
        expected = (self.bundle.features_per_image, self.bundle.embed_dim)
        if features.ndim != 3 or features.shape[1:] != expected:
            raise UsageError(
                f"Features must be [B, {expected[0]}, {expected[1]}]; these are "
                f"{list(features.shape)}."
            )
        return self.engine.match(features, self._choose(vocabulary))[0]

    def _tag_many(
        self,
        images: Iterable[ImageSource],
        top_k: int | None,
        threshold: float | None,
        vocabulary: Vocabulary | None,
        batch_size: int,
        stages: Stages,
    ) -> Iterator[TagResult]:
        for batch, names, features in self._batches(images, batch_size, stages):
            chosen = self._choose(vocabulary)
            tagged = iter(self._tags(names, features, chosen, top_k, threshold))
            for name, found in batch:
                if isinstance(found, ImageError):
                    yield TagResult(name, (), chosen.id, str(found))
                else:
                    yield next(tagged)

    def _encode_many(
        self, images: Iterable[ImageSource], batch_size: int
    ) -> Generator[tuple[str, np.ndarray | ImageError], None, None]:
        for batch, _, features in self._batches(images, batch_size, Stages()):
            rows = iter(np.asarray(features))
            for name, found in batch:
                yield name, found if isinstance(found, ImageError) else next(rows)

    def _batches(
        self, images: Iterable[ImageSource], batch_size: int, stages: Stages
    ) -> Iterator[tuple[list[tuple[str, np.ndarray | ImageError]], list[str], Array]]:
        """Yield batches of decoded images with the names and features of their good ones."""
        took = stages.took_beside if self.engine.on_cpu else None
        with closing(read_ahead(images, describe, self._pixels, 2 * batch_size, took)) as decoded:
            waiting = batches(decoded, batch_size)
            while True:
                with stages.timing("decoding"):
                    batch = next(waiting, None)
                if batch is None:
                    return
                good = [(n, pixels) for n, pixels in batch if isinstance(pixels, np.ndarray)]
                names = [name for name, _ in good]
                with stages.timing("encoding"):
                    pixels = [pixels for _, pixels in good]
                    features = self.engine.encode(np.stack(pixels)) if good else _NOTHING
                with stages.timing("storing"):
                    yield batch, names, features

    def _pixels(self, image: ImageSource) -> np.ndarray:
        return self.bundle.preprocessing(open_image(image))

    def _tags(
        self,
        names: Sequence[str],
        features: Array,
        vocabulary: Vocabulary,
        top_k: int | None,
        threshold: float | None,
    ) -> list[TagResult]:
        if not names:
            return []
        logits, winners = self.engine.match(features, vocabulary)
        activation = self.bundle.activation
        return [
            TagResult(
                name,
                select_tags(row, won, vocabulary, activation, top_k, threshold),
                vocabulary.id,
            )
            for name, row, won in zip(names, logits, winners, strict=True)
        ]

    def _choose(self, vocabulary: Vocabulary | None) -> Vocabulary:
        if vocabulary is None:
            return self.vocabulary
        vocabulary.check_fits(self.bundle)
        return vocabulary


def stored_vocabulary(bundle: Bundle, source: VocabularySource) -> Vocabulary | None:
    """Return the vocabulary that ``source`` is or names; None for labels and a label file.

    Raises VocabularyError.
    """
    if isinstance(source, Vocabulary):
        return source
    if not isinstance(source, (str, Path)):
        return None
    path = Path(source)
    if path.suffix == ".safetensors":
        return Vocabulary.load(path)
    in_bundle = str(source) in bundle.vocabulary_names()
    if path.is_file() or (path.suffix and not in_bundle) or isinstance(source, Path):
        return None
    return load_named(bundle, source)


def _check_selection(top_k: int | None, threshold: float | None) -> None:
    if top_k is not None and top_k < 1:
        raise UsageError(f"top_k is {top_k}; it must be at least 1.")
    if threshold is not None and not 0.0 <= threshold <= 1.0:
        raise UsageError(f"threshold is {threshold}; scores lie between 0 and 1.")


def _check_batch_size(batch_size: int) -> None:
    if batch_size < 1:
        raise UsageError(f"batch_size is {batch_size}; it must be at least 1.")

"""The engine: a bundle's graphs on a device, checked against PyTorch before anybody uses them."""

import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Lock
from typing import TypeVar
from weakref import WeakKeyDictionary

import numpy as np

from ovml_deploy.errors import BundleError, DeviceError
from ovml_deploy.runtime.backends import (
    AUTO,
    PLAN,
    Array,
    Backend,
    Graph,
    available_devices,
    candidates,
    create_backend,
)
from ovml_deploy.runtime.backends.base import ON_CPU
from ovml_deploy.runtime.bundle import ATTENTION, ENCODER, MATCHER, TEXT_ENCODER, Bundle
from ovml_deploy.runtime.selfcheck import Agreement, check_golden, check_texts
from ovml_deploy.runtime.text_encoder import TextEncoder
from ovml_deploy.runtime.verified import failed_gate, fastest_first
from ovml_deploy.runtime.vocabulary import Vocabulary

logger = logging.getLogger(__name__)

_CHECKED_IMAGES = 2

_Opened = TypeVar("_Opened")


class Engine:
    """Encodes images and matches features, on one device. Safe for threads.

    ``refused``: why ``auto`` passed over devices that it would have preferred.
    """

    def __init__(self, bundle: Bundle, backend: Backend, encoder: Graph, matcher: Graph) -> None:
        """Use :meth:`open`."""
        self.bundle = bundle
        self.backend = backend
        self.refused: Sequence[str] = ()
        self._encoder = encoder
        self._matcher = matcher
        self._checks_texts = False
        self._text_encoder: TextEncoder | None = None
        self._text_lock = Lock()
        self._matchers: WeakKeyDictionary[Vocabulary, Graph] = WeakKeyDictionary()
        self._lock = Lock()

    @classmethod
    def open(
        cls,
        engine: str | Path,
        device: str = AUTO,
        precision: str = AUTO,
        cuda_graphs: Sequence[int] = (),
    ) -> "Engine":
        """Load a bundle on a device and run its golden inputs, which also warms the graphs up.

        ``engine``: a bundle folder or a file in one; a ``.plan`` is its own device. Only "auto" may
        choose among devices, unless the environment names one in OVML_DEVICE: the fastest where
        ``verify`` has timed them here, else the first of ``candidates``. What it passes over,
        such as what ``verify`` found wanting here, is logged and kept in ``refused``.
        ``cuda_graphs``: batch sizes that device "cuda" records, which costs a copy of the weights
        each. Raises BundleError, DeviceError, UsageError.
        """
        bundle, device = Bundle.open(engine), named_device(engine, device)
        if device != AUTO or cuda_graphs:
            backend = create_backend(device, precision, bundle.precision, cuda_graphs)
            if (reason := failed_gate(bundle, backend)) is not None:
                logger.warning("used because it is named, although %s", reason)
            return cls._checked(bundle, backend)
        found, refused = _first(bundle, precision, lambda backend: cls._checked(bundle, backend))
        found.refused = refused
        logger.info("auto chose %s", found.backend.description)
        return found

    @classmethod
    def load(cls, bundle: Bundle, backend: Backend) -> "Engine":
        """Load a bundle's graphs unchecked, for those who check them: see ``runtime.verify``."""
        encoder = backend.load(bundle, ENCODER)
        return cls(bundle, backend, encoder, backend.load(bundle, MATCHER, exact=True))

    @classmethod
    def _checked(cls, bundle: Bundle, backend: Backend) -> "Engine":
        engine = cls.load(bundle, backend)
        engine._checks_texts = True
        engine.check(_CHECKED_IMAGES)
        return engine

    def check(self, images: int | None = None) -> list[Agreement]:
        """Run the golden images (the first ``images``, or all). Raises DeviceError: see selfcheck."""
        return check_golden(self.bundle, self.backend, self._encoder, self._matcher, images)

    @property
    def on_cpu(self) -> bool:
        """Whether it computes on the processor, which decoding needs, too."""
        return self.backend.device in ON_CPU

    def placement(self) -> dict[str, dict[str, int]]:
        """Return how many nodes of each graph run where."""
        texts = self.backend.load(self.bundle, TEXT_ENCODER, exact=True)
        graphs = {ENCODER: self._encoder, MATCHER: self._matcher, TEXT_ENCODER: texts}
        return {Path(name).stem: graph.placement() for name, graph in graphs.items()}

    @property
    def text_encoder(self) -> TextEncoder:
        """The text encoder, loaded and checked when first needed. Raises DeviceError."""
        with self._text_lock:
            if self._text_encoder is None:
                load = _checked_text_encoder if self._checks_texts else TextEncoder
                self._text_encoder = load(self.bundle, self.backend)
            return self._text_encoder

    def encode(self, pixels: np.ndarray) -> Array:
        """Return features ``[B, M, D]`` of pixels ``[B, H, W, 3]`` (uint8), on the device."""
        return self._encoder({"pixels": pixels}, keep=("features",))["features"]

    def look(self, pixels: np.ndarray) -> np.ndarray | None:
        """Return where in the images each feature was found: attention ``[B, M, h, w]``, float32.

        ``pixels`` as for :meth:`encode`, which this runs anew. Rows and columns of places are the
        bundle's ``attention_grid``; a feature's attention to all of them sums to 1, less what it
        pays to the image as a whole. None where the model does not tell: another head than QKS, or
        a bundle of an earlier release. Raises DeviceError.
        """
        if self.bundle.attention_grid is None:
            return None
        outputs = self._encoder({"pixels": pixels}, keep=("features",), also=(ATTENTION,))
        if ATTENTION not in outputs:
            raise BundleError(
                f"{self.bundle.path} has an attention grid, and its {ENCODER} gives no attention. "
                "Export the bundle again."
            )
        return np.asarray(outputs[ATTENTION])

    def match(self, features: Array, vocabulary: Vocabulary) -> tuple[np.ndarray, np.ndarray]:
        """Return logits and winning queries ``[B, K]`` of features, wherever those are."""
        outputs = self._prepared(vocabulary)({"features": features})
        return np.asarray(outputs["logits"]), np.asarray(outputs["winners"])

    def prepare(self, vocabulary: Vocabulary) -> None:
        """Put a vocabulary's label matrix where the matcher wants it, once.

        It stays there for as long as somebody holds the vocabulary.
        """
        self._prepared(vocabulary)

    def for_callers(self, callers: int) -> "Engine":
        """Return this engine with a matcher for so many calls of :meth:`match` at once, all the time.

        On the CPU each call then has its share of the threads, where it would have them all.
        """
        matcher = self.backend.load(self.bundle, MATCHER, exact=True, callers=callers)
        return Engine(self.bundle, self.backend, self._encoder, matcher)

    def _prepared(self, vocabulary: Vocabulary) -> Graph:
        matcher = self._matchers.get(vocabulary)
        if matcher is None:
            with self._lock:
                matcher = self._matchers.get(vocabulary)
                if matcher is None:
                    matcher = self._matcher.fix({"labels": vocabulary.embeddings})
                    self._matchers[vocabulary] = matcher
        return matcher


def open_text_encoder(engine: str | Path, device: str = AUTO) -> TextEncoder:
    """Load only what turns labels into embeddings, without the encoder of images.

    ``engine``, ``device`` and errors as for :meth:`Engine.open`.
    """
    bundle, device = Bundle.open(engine), named_device(engine, device)
    if device == AUTO:
        return _first(bundle, AUTO, lambda backend: _checked_text_encoder(bundle, backend))[0]
    return _checked_text_encoder(bundle, create_backend(device, graph=bundle.precision))


def _checked_text_encoder(bundle: Bundle, backend: Backend) -> TextEncoder:
    """A wrong one would spoil the cache of labels, which all devices share."""
    encoder = TextEncoder(bundle, backend)
    check_texts(bundle, backend, encoder.features)
    return encoder


def _first(
    bundle: Bundle, precision: str, opened: Callable[[Backend], _Opened]
) -> tuple[_Opened, list[str]]:
    """Return what ``opened`` gives of the first device that it works on, and why not others before."""
    refused: list[str] = []
    for name, some in fastest_first(bundle, candidates(precision, bundle.precision)):
        try:
            backend = create_backend(name, some, bundle.precision)
            if (reason := failed_gate(bundle, backend)) is not None:
                raise DeviceError(reason)
            return opened(backend), refused
        except DeviceError as error:
            logger.warning("auto passes over %s in %s: %s", name, some, error)
            refused.append(str(error))
    remedy = "Install one: pip install 'ovml-deploy[cpu]'."
    if available_devices():
        remedy = (
            f"The bundle is in {bundle.precision}: leave --precision away, or export it in another."
        )
    raise DeviceError(
        f"No device here runs {bundle.path} in precision {precision!r}. {' '.join(refused) or remedy}"
    )


def named_device(engine: str | Path, device: str) -> str:
    """The device that a ``.plan`` or the environment names, where the caller leaves it open."""
    if device != AUTO:
        return device
    return str(engine) if str(engine).endswith(PLAN) else os.environ.get("OVML_DEVICE") or AUTO

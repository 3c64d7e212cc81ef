"""The interface of a backend."""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np


class Graph(Protocol):
    """A loaded graph. Calls from several threads at once are safe."""

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the graph's outputs by name."""
        ...


class Backend(Protocol):
    """Loads a bundle's graphs on one device."""

    device: str  #: as in ``--device``
    description: str  #: what runs it, for people
    tolerance: float  #: greatest relative error against PyTorch fp32 that its precision allows

    def load(self, path: Path) -> Graph:
        """Load an ONNX file. Raises BundleError where it cannot be used."""
        ...

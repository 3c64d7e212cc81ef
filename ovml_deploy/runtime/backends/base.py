"""The interface of a backend."""

from collections.abc import Collection, Iterable, Mapping
from typing import Any, Protocol, TypeAlias

import numpy as np

from ovml_deploy.runtime.bundle import ATTENTION, Bundle

#: Devices that compute on the processor, which decoding needs, too.
ON_CPU = ("cpu", "openvino")
#: Outputs that a call returns only where it asks for them.
ASIDE = frozenset({ATTENTION})


class DeviceArray(Protocol):
    """An array that a backend keeps on its device; ``np.asarray`` copies it here."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The lengths of its axes."""
        ...

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray: ...


Array: TypeAlias = np.ndarray | DeviceArray


class Graph(Protocol):
    """A loaded graph. Calls from several threads at once are safe."""

    def __call__(
        self, inputs: Mapping[str, Array], keep: Collection[str] = (), also: Collection[str] = ()
    ) -> dict[str, Array]:
        """Return the outputs by name: numpy arrays, but those in ``keep`` stay on the device.

        Those of ``ASIDE`` are among them only if ``also`` names them. A kept array may be given to
        any graph of the same backend.
        """
        ...

    def fix(self, inputs: Mapping[str, np.ndarray]) -> "Graph":
        """Return this graph with some inputs prepared once, which its calls then leave out."""
        ...

    def placement(self) -> dict[str, int]:
        """Return how many nodes run where, such as ``{"CPUExecutionProvider": 210}``."""
        ...


def wanted(outputs: Iterable[str], also: Collection[str]) -> list[str]:
    """Return the names of the outputs that a call returns."""
    return [name for name in outputs if name not in ASIDE or name in also]


class Backend(Protocol):
    """Loads a bundle's graphs on one device."""

    device: str  #: as in ``--device``
    precision: str  #: of the encoder: "fp32", "bf16", "fp16" or "int8"
    description: str  #: what runs it, for people

    def load(self, bundle: Bundle, name: str, exact: bool = False, callers: int = 1) -> Graph:
        """Load a graph of a bundle; ``exact``: in fp32 whatever the backend's precision is.

        ``callers``: how many will call it at once, all the time: on the CPU each call then has its
        share of the threads, where it would have them all.

        Raises BundleError where it cannot be used, DeviceError where the device fails.
        """
        ...

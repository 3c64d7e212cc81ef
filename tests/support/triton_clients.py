"""Both clients of tritonclient, asked alike."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import tritonclient.grpc
import tritonclient.http

MODEL = "tiny"


@dataclass(frozen=True)
class Triton:
    """A client; ``kind`` is its module."""

    kind: ModuleType
    client: Any
    headers: Mapping[str, str] | None = None

    @property
    def over_grpc(self) -> bool:
        return self.kind is tritonclient.grpc

    def images(self, images: Sequence[bytes]) -> Any:
        """Return encoded images as an input."""
        given = self.kind.InferInput("image", [len(images)], "BYTES")
        given.set_data_from_numpy(np.array([*images], dtype=object))
        return given

    def pixels(self, pixels: np.ndarray) -> Any:
        """Return preprocessed images as an input."""
        given = self.kind.InferInput("pixels", pixels.shape, "UINT8")
        given.set_data_from_numpy(pixels)
        return given

    def infer(self, given: Any, outputs: Sequence[str] = (), **parameters: Any) -> Any:
        """Return the client's answer to one input."""
        wanted = [self.kind.InferRequestedOutput(name) for name in outputs] or None
        return self.client.infer(
            MODEL, [given], outputs=wanted, parameters=parameters or None, headers=self.headers
        )

    def at_once(self, given: Sequence[Any]) -> list[Any]:
        """Return the answers to inputs that are sent side by side."""
        if self.over_grpc:
            with ThreadPoolExecutor(len(given)) as pool:
                return [*pool.map(self.infer, given)]
        asked = [self.client.async_infer(MODEL, [one], headers=self.headers) for one in given]
        return [each.get_result() for each in asked]


@contextmanager
def over_http(url: str, headers: Mapping[str, str] | None = None) -> Iterator[Triton]:
    """Yield a client of a server's URL."""
    where = url.removeprefix("http://")
    with tritonclient.http.InferenceServerClient(where, concurrency=16) as client:
        yield Triton(tritonclient.http, client, headers)
    client.close = lambda: None  # it would close again when collected, perhaps on another thread


@contextmanager
def over_grpc(address: str, headers: Mapping[str, str] | None = None) -> Iterator[Triton]:
    """Yield a client of a server's gRPC address."""
    with tritonclient.grpc.InferenceServerClient(address) as client:
        yield Triton(tritonclient.grpc, client, headers)


def parameters_of(answer: Any) -> dict[str, Any]:
    """Return the parameters of an answer as plain values."""
    found = answer.get_response()
    if isinstance(found, dict):
        return found.get("parameters", {})
    given = found.parameters.items()
    return {name: getattr(value, value.WhichOneof("parameter_choice")) for name, value in given}

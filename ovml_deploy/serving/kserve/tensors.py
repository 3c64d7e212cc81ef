"""Tensors and what they are on the wire: raw bytes, or values one after the other."""

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from math import prod
from typing import Any

import numpy as np

from ovml_deploy.errors import UsageError

_BYTES = "BYTES"
#: Little-endian, as the protocol has it. BYTES are arrays of bytes objects.
_DTYPES: dict[str, np.dtype[Any]] = {
    "UINT8": np.dtype("u1"),
    "INT32": np.dtype("<i4"),
    "FP32": np.dtype("<f4"),
    _BYTES: np.dtype(object),
}
_LENGTH = 4  # bytes before each element of BYTES that say how many follow


@dataclass(frozen=True)
class Tensor:
    """An array under a name; ``datatype`` as the protocol calls it."""

    name: str
    datatype: str
    array: np.ndarray

    def raw(self) -> bytes:
        """Return the elements as bytes, row after row; each of BYTES after its length."""
        if self.datatype != _BYTES:
            return np.ascontiguousarray(self.array, dtype=_DTYPES[self.datatype]).tobytes()
        parts = ((len(part).to_bytes(_LENGTH, "little"), part) for part in self.array.flat)
        return b"".join(chain.from_iterable(parts))

    def values(self) -> list[Any]:
        """Return the elements for JSON, row after row; BYTES as texts."""
        if self.datatype != _BYTES:
            values: list[Any] = self.array.ravel().tolist()
            return values
        return [part.decode() for part in self.array.flat]


def from_raw(name: str, datatype: str, shape: Sequence[int], raw: memoryview | bytes) -> Tensor:
    """Read a tensor as :meth:`Tensor.raw` writes it. Raises UsageError."""
    if datatype == _BYTES:
        return from_parts(name, shape, _split(name, memoryview(raw), prod(shape)))
    dtype = _DTYPES[datatype]
    if len(raw) != prod(shape) * dtype.itemsize:
        raise UsageError(
            f"The tensor {name!r} of shape {[*shape]} has {prod(shape) * dtype.itemsize:,} bytes; "
            f"{len(raw):,} came."
        )
    return Tensor(name, datatype, np.frombuffer(raw, dtype).reshape(shape))


def from_parts(name: str, shape: Sequence[int], parts: Sequence[bytes]) -> Tensor:
    """Make a tensor of BYTES. Raises UsageError."""
    _check_count(name, shape, len(parts))
    array = np.empty(len(parts), dtype=object)
    for index, part in enumerate(parts):  # at once, NumPy would cut trailing zeros off
        array[index] = part
    return Tensor(name, _BYTES, array.reshape(shape))


def from_octets(name: str, shape: Sequence[int], values: Sequence[int]) -> Tensor:
    """Make a tensor of UINT8 from whole numbers. Raises UsageError."""
    _check_count(name, shape, len(values))
    try:
        octets = bytes(values)
    except (TypeError, ValueError):
        raise UsageError(f"The tensor {name!r} takes whole numbers from 0 to 255.") from None
    return Tensor(name, "UINT8", np.frombuffer(octets, np.uint8).reshape(shape))


def from_json(name: str, datatype: str, shape: Sequence[int], data: list[Any]) -> Tensor:
    """Read a tensor from JSON, flat or nested; BYTES are in base64. Raises UsageError."""
    values = _flat(data, len(shape))
    if datatype != _BYTES:
        return from_octets(name, shape, values)
    if not all(isinstance(value, str) for value in values):
        raise UsageError(f"The tensor {name!r} takes texts in base64.")
    _check_count(name, shape, len(values))
    try:
        return from_parts(name, shape, [base64.b64decode(v, validate=True) for v in values])
    except (binascii.Error, ValueError) as error:
        raise UsageError(
            f"The tensor {name!r} is not base64 ({error}). JSON has texts only: send images in base64, "
            "or as binary data."
        ) from error


def _split(name: str, raw: memoryview, count: int) -> list[bytes]:
    parts: list[bytes] = []
    start = 0
    while start < len(raw) and len(parts) < count:
        end = start + _LENGTH
        length = int.from_bytes(raw[start:end], "little")
        if end + length > len(raw):
            raise UsageError(
                f"The tensor {name!r} is cut off: element {len(parts) + 1} should have {length:,} bytes, "
                f"and {max(len(raw) - end, 0):,} came."
            )
        parts.append(bytes(raw[end : end + length]))
        start = end + length
    if start < len(raw):
        raise UsageError(
            f"The tensor {name!r} should have {count:,} elements; after them {len(raw) - start:,} bytes "
            "came."
        )
    return parts


def _flat(data: list[Any], levels: int) -> list[Any]:
    """Join nested lists; not deeper than the shape is, for that takes time."""
    for _ in range(levels - 1):
        if not (data and all(isinstance(part, list) for part in data)):
            break
        data = list(chain.from_iterable(data))
    return data


def _check_count(name: str, shape: Sequence[int], count: int) -> None:
    if count != prod(shape):
        raise UsageError(
            f"The tensor {name!r} of shape {[*shape]} has {prod(shape):,} elements; {count:,} came."
        )

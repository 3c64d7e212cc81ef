"""Zip archives of ``torch.save`` and TorchScript, read without running anything that they hold.

Tensors and plain values are read. Every other object becomes an :class:`Inert`, which keeps its
attributes and does nothing. The code of a TorchScript archive is never loaded.
"""

import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

_CODE = "/code/"


class Inert:
    """An object of a file, without its class. ``origin``: the class or function that it names."""

    origin = ""

    def __new__(cls, *arguments: Any, **named: Any) -> "Inert":
        """Take any arguments, and keep none."""
        return super().__new__(cls)

    def __init__(self, *arguments: Any, **named: Any) -> None:
        self.attributes: dict[str, Any] = {}

    def __setstate__(self, state: Any) -> None:
        self.attributes = state if isinstance(state, dict) else {}

    def __setitem__(self, key: Any, value: Any) -> None:
        """Ignore an item of a dict-like object."""

    def append(self, value: Any) -> None:
        """Ignore an item of a list-like object."""

    def extend(self, values: Any) -> None:
        """Ignore items of a list-like object."""

    def __reduce__(self) -> Any:
        raise pickle.PicklingError(f"An inert {self.origin} cannot be saved.")


def contains_inert(value: Any) -> bool:
    """Whether a value read from a file holds an object of an unknown class."""
    if isinstance(value, dict):
        return any(map(contains_inert, value.values()))
    if isinstance(value, list | tuple):
        return any(map(contains_inert, value))
    return isinstance(value, Inert)


def is_torchscript(path: str | Path) -> bool:
    """Whether a file is a TorchScript archive, the form of OpenAI's own release."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(_CODE in entry for entry in archive.namelist())


def torchscript_mentions(path: str | Path, text: str) -> bool:
    """Whether the code of a TorchScript archive contains ``text``. The code is not run."""
    with zipfile.ZipFile(path) as archive:
        code = [entry for entry in archive.namelist() if _CODE in entry and entry.endswith(".py")]
        return any(text.encode() in archive.read(entry) for entry in code)


def read_archive(path: str | Path) -> Any:
    """Return the content of a zip archive; of TorchScript: its tensors by their dotted names.

    Raises ``pickle.UnpicklingError``, ``zipfile.BadZipFile``, KeyError or ValueError for a damaged
    archive.
    """
    with zipfile.ZipFile(path) as archive:
        (entry,) = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        with archive.open(entry) as stream:
            content = _Reader(stream, archive, entry.removesuffix("data.pkl")).load()
    if is_torchscript(path) and isinstance(content, Inert):
        return dict(_tensors(content))
    return content


def _tensors(module: Inert, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    for name, value in module.attributes.items():
        if isinstance(value, Tensor):
            yield prefix + name, value
        elif isinstance(value, Inert):
            yield from _tensors(value, f"{prefix}{name}.")


class _Reader(pickle.Unpickler):
    """An unpickler whose only callables rebuild tensors, or make inert objects."""

    def __init__(self, stream: IO[bytes], archive: zipfile.ZipFile, folder: str) -> None:
        super().__init__(stream, encoding="utf-8")
        self._archive, self._folder = archive, folder
        self._storages: dict[str, Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch._utils" and name in _REBUILD:
            return _REBUILD[name]
        if module == "torch.jit._pickle":  # lists and dicts of TorchScript, with their types
            return lambda value, *types: value
        if module == "torch" and (kind := _dtype(name)) is not None:
            return kind
        return _inert_class(f"{module}.{name}")

    def persistent_load(self, pid: Any) -> Tensor:
        _, dtype, key, _, count = pid
        if not isinstance(dtype, torch.dtype) or not isinstance(count, int):
            raise pickle.UnpicklingError(f"unknown storage {dtype!r}")
        if key not in self._storages:
            entry = self._archive.getinfo(f"{self._folder}data/{key}")
            if entry.compress_type != zipfile.ZIP_STORED:
                raise pickle.UnpicklingError(f"the storage {key!r} is compressed")
            values = bytearray(self._archive.read(entry))
            empty = torch.empty(0, dtype=dtype)
            self._storages[key] = torch.frombuffer(values, dtype=dtype) if values else empty
        return self._storages[key]


@cache
def _inert_class(origin: str) -> type[Inert]:
    return type("Inert", (Inert,), {"origin": origin})


def _dtype(name: str) -> torch.dtype | None:
    """Return the dtype that "float16" or "HalfStorage" names."""
    kind = _STORAGES[name] if name in _STORAGES else getattr(torch, name, None)
    return kind if isinstance(kind, torch.dtype) else None


def _rebuild_tensor(storage: Tensor, offset: int, size: Any, stride: Any, *rest: Any) -> Tensor:
    return storage.as_strided(size, stride, offset)  # raises where it would leave the storage


_STORAGES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
_REBUILD = {
    "_rebuild_tensor_v2": _rebuild_tensor,
    "_rebuild_tensor": _rebuild_tensor,
    "_rebuild_parameter": lambda data, *rest: data,
    "_rebuild_parameter_with_state": lambda data, *rest: data,
}

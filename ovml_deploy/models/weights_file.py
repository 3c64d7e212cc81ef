"""Files of weights: reading without running code, and clear errors for files of another kind."""

import argparse
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from ovml_deploy.errors import CheckpointError
from ovml_deploy.models.inert import Inert, is_torchscript, read_archive

_SAFETENSORS = ".safetensors"
_AS_STATE_DICT = "Save it again as a state dict: torch.save(model.state_dict(), path)."
#: What a file that begins so is, and the remedy.
_OTHER_FILES = {
    b"version https://git-lfs": "is a Git LFS pointer, not the file itself. Run 'git lfs pull'",
    b"<!doctype html": "is an HTML page, not a checkpoint. Download the file itself",
    b"<html": "is an HTML page, not a checkpoint. Download the file itself",
    b"<?xml": "is an XML document, not a checkpoint. Download the file itself",
    b"\x1f\x8b": "is a gzip archive. Unpack it first",
    b"ftrt": "is a TensorRT plan. Name the PyTorch checkpoint from which it was made",
}
_OTHER_SUFFIXES = {
    ".onnx": "is an ONNX graph. Name the PyTorch checkpoint from which it was made",
    ".plan": "is a TensorRT plan. Name the PyTorch checkpoint from which it was made",
    ".engine": "is a TensorRT plan. Name the PyTorch checkpoint from which it was made",
}
#: NumPy's constructor of scalars, whose module NumPy 2 renamed.
_SCALAR = np.float64(0).__reduce__()[0]
#: Values that training scripts store beside tensors; none of them can run code.
_HARMLESS: list[Any] = [
    argparse.Namespace,
    np.dtype,
    *{type(np.dtype(code)) for code in "?bhilqBHILQefd"},
    *((_SCALAR, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
]


def read_weights_file(path: str | Path) -> Any:
    """Return the content of a file of PyTorch, TorchScript or safetensors.

    No code of the file is run. Raises CheckpointError, also for a pickled object such as a whole
    model.
    """
    refuse_other_files(path)
    try:
        content = _read(Path(path))
    except CheckpointError:
        raise
    except pickle.UnpicklingError as error:
        raise _holds_objects(path) from error
    except Exception as error:  # torch raises RuntimeError, EOFError, ValueError, KeyError...
        raise CheckpointError(
            f"{str(path)!r} cannot be read as a checkpoint; it is damaged or truncated: "
            f"{first_line(error)}"
        ) from error
    if isinstance(content, Inert | torch.nn.Module):
        raise _holds_objects(path, content)
    return content


def refuse_other_files(path: str | Path) -> None:
    """Raise CheckpointError for a file that is missing, empty, or known to be no weights."""
    source, name = Path(path), repr(str(path))
    if source.is_dir():
        raise CheckpointError(
            f"There is no checkpoint at {name}: it is a folder. Name the file in it; an open_clip "
            f"folder is written --backbone local-dir:{path}."
        )
    if not source.is_file():
        raise CheckpointError(f"There is no checkpoint at {name}.")
    with source.open("rb") as stream:
        head = stream.read(512).lstrip().lower()
    if not source.stat().st_size:
        raise CheckpointError(f"{name} is an empty file. Download or copy it again.")
    for start, message in _OTHER_FILES.items():
        if head.startswith(start):
            raise CheckpointError(f"{name} {message}.")
    if (message := _OTHER_SUFFIXES.get(source.suffix.lower(), "")) != "":
        raise CheckpointError(f"{name} {message}.")


def refuse_object(path: str | Path, value: Any) -> None:
    """Raise CheckpointError where a value of a file is a pickled object, such as a whole model."""
    if isinstance(value, Inert):
        raise _holds_objects(path, value)


def first_line(error: BaseException) -> str:
    """Return the first line of an error, cut to one sentence's length."""
    text = (str(error) or type(error).__name__).strip().splitlines()[0]
    return text if len(text) <= 200 else f"{text[:200]}..."


def _read(path: Path) -> Any:
    if path.suffix == _SAFETENSORS:
        try:
            return load_file(path)
        except SafetensorError as error:
            raise CheckpointError(
                f"{str(path)!r} is no safetensors file, or it is truncated: {first_line(error)}"
            ) from error
    if is_torchscript(path):
        return read_archive(path)
    try:
        with torch.serialization.safe_globals(_HARMLESS):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        if not zipfile.is_zipfile(path):
            raise
        return read_archive(path)


def _holds_objects(path: str | Path, content: Any = None) -> CheckpointError:
    kind = f" (a whole {content.origin})" if isinstance(content, Inert) else ""
    return CheckpointError(
        f"{str(path)!r} holds Python objects besides tensors and plain values{kind}, and reading "
        f"them could run code, so it was refused. {_AS_STATE_DICT}"
    )

"""Changes bundles as one would who means to: what is changed is hashed anew."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from ovml_deploy.files import sha256_file

Arrays = dict[str, np.ndarray]


def edit_manifest(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change ``bundle.json``."""
    path = folder / "bundle.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def rehash(folder: Path, name: str) -> None:
    """Enter the SHA-256 that a file of the bundle has now."""
    value = {"sha256": sha256_file(folder / name), "bytes": (folder / name).stat().st_size}
    edit_manifest(folder, lambda manifest: manifest["files"].update({name: value}))


def change_arrays(folder: Path, name: str, change: Callable[[Arrays], object]) -> None:
    """Change the arrays of a ``.safetensors`` file of the bundle."""
    arrays = load_file(folder / name)
    change(arrays)
    save_file({key: np.ascontiguousarray(value) for key, value in arrays.items()}, folder / name)
    rehash(folder, name)

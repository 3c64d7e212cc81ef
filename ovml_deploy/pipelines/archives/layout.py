"""What an archive is on disk.

    archive.json           what encoded it, and what storing the features lost
    part-00000.parquet     path, sha256, features and (int8) scales: a row for each distinct image
    copies-00000.parquet   path, sha256, row: images with the content of that row, counted over all parts
    errors.jsonl           path and error of each image that could not be read

Part n counts once ``part-n`` is there, which is written after ``copies-n``. The features are
fixed-size binary, ``[M, D]`` little-endian: as Parquet's nested lists they read far slower,
and int8 would take four bytes.
"""

import json
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ovml_deploy.errors import OvmlError
from ovml_deploy.files import write_atomically
from ovml_deploy.pipelines.archives.quantized import DTYPES, Loss
from ovml_deploy.runtime.bundle import Bundle
from ovml_deploy.runtime.selfcheck import read_golden

FORMAT = "ovml-deploy/archive"
VERSION = 1
MANIFEST = "archive.json"
ERRORS = "errors.jsonl"
LOCK = ".lock"


class ArchiveError(OvmlError):
    """An archive that is missing, damaged, in use, or of another model."""


@dataclass(frozen=True)
class Manifest:
    """``archive.json``.

    ``model``: the bundle's ``model_hash``. ``features``, ``embedding``: M and D.
    ``precision``: of the stored features, "fp16" or "int8". ``centre``: what int8 ones are stored as
    differences from, ``[D]``: the mean of the bundle's golden features. ``loss``: what storing costs,
    measured.
    """

    model: str
    head: str
    features: int
    embedding: int
    precision: str
    centre: tuple[float, ...] | None = None
    loss: Loss | None = None

    @classmethod
    def of(cls, bundle: Bundle, precision: str) -> "Manifest":
        """Return that of an archive that a bundle is to fill."""
        sizes = (bundle.features_per_image, bundle.embed_dim)
        centre = None
        if precision == "int8":
            golden = read_golden(bundle)["features"]
            centre = tuple(golden.reshape(-1, golden.shape[-1]).mean(axis=0).tolist())
        return cls(bundle.model_hash, bundle.head, *sizes, precision, centre)

    @classmethod
    def read(cls, folder: Path) -> "Manifest":
        """Read an archive's. Raises ArchiveError."""
        path = folder / MANIFEST
        if not path.is_file():
            raise ArchiveError(
                f"{str(folder)!r} is not an archive: there is no {MANIFEST} in it. Make one with "
                f"'ovml-deploy index PHOTOS --out {folder}'."
            )
        try:
            value = json.loads(path.read_text("utf-8"))
            if value.pop("format") != FORMAT:
                raise ValueError("it is of another format")
            if (version := value.pop("version")) != VERSION:
                raise ValueError(f"it has version {version!r}, this release reads {VERSION}")
            return cls(
                **{**value, "loss": Loss(**value["loss"]) if value["loss"] else None}
            )._checked()
        except (ValueError, KeyError, TypeError, AttributeError, OSError, RecursionError) as error:
            raise ArchiveError(
                f"{path} cannot be used ({error}). Restore it, or index the images again."
            ) from error

    def _checked(self) -> "Manifest":
        if self.precision not in DTYPES:
            raise ValueError(f"precision {self.precision!r}")
        for size in (self.features, self.embedding):
            if type(size) is not int or not 0 < size < 1 << 20:
                raise ValueError(f"features of {self.features!r} x {self.embedding!r}")
        if (self.precision == "int8") != (self.centre_array is not None):
            raise ValueError("a centre belongs to int8")
        if self.centre_array is not None and self.centre_array.shape != (self.embedding,):
            raise ValueError(f"a centre of {self.centre_array.shape} numbers")
        return self

    @cached_property
    def centre_array(self) -> np.ndarray | None:
        """The centre ``[D]`` (float32), None for fp16."""
        return None if self.centre is None else np.array(self.centre, np.float32)

    def write(self, folder: Path) -> None:
        """Write it, whole or not at all."""
        value: dict[str, Any] = {"format": FORMAT, "version": VERSION, **asdict(self)}
        with write_atomically(folder / MANIFEST) as temporary:
            temporary.write_text(json.dumps(value, indent=2) + "\n", "utf-8")

    def check_model(self, bundle: Bundle, folder: Path) -> None:
        """Raise ArchiveError where another model made the features."""
        if self.model != bundle.model_hash:
            raise ArchiveError(
                f"{str(folder)!r} holds features of another model ({self.head}, {self.model}), not of "
                f"{bundle.path} ({bundle.head}, {bundle.model_hash}). Name its own with --engine, or "
                "index the images again into another folder."
            )


def part_file(folder: Path, number: int) -> Path:
    """Return the file with the features of a part."""
    return folder / f"part-{number:05d}.parquet"


def copies_file(folder: Path, number: int) -> Path:
    """Return the file with the copies found while a part was filled."""
    return folder / f"copies-{number:05d}.parquet"


def count_parts(folder: Path) -> int:
    """Return how many parts an archive has. Raises ArchiveError where one between others is gone."""
    numbers = {
        int(digits)
        for path in folder.glob("part-*.parquet")
        if (digits := path.stem.removeprefix("part-")).isdecimal()
    }
    missing = next(number for number in range(len(numbers) + 1) if number not in numbers)
    if missing < len(numbers):
        raise ArchiveError(
            f"{part_file(folder, missing)} is missing, and later parts are there. Restore it, or "
            "remove the later ones and run 'ovml-deploy index' again."
        )
    return len(numbers)


def damaged(path: Path, error: Exception) -> ArchiveError:
    """Return what to tell about a part that cannot be read."""
    return ArchiveError(
        f"{path} is damaged ({error}). Restore it; or remove it and all later part-*.parquet, and "
        "run 'ovml-deploy index' again."
    )

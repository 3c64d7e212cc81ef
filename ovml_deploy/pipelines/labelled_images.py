"""Images whose labels are known: folders named by label, and how their labels meet a vocabulary's."""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from ovml_deploy.errors import DataError
from ovml_deploy.pipelines.folders import SUFFIXES, Found, find_inside
from ovml_deploy.pipelines.passed_over import Kind, PassedOver, Rules, suffix_of

_UNKNOWN = -1


class Labelled(Protocol):
    """What is known of some images (N of them): 1 the label is there, 0 it is not, -1 unknown."""

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels that the images were looked at for."""

    def targets(self, labels: Sequence[str]) -> np.ndarray:
        """Return int8 ``[N, K]`` for K of the labels."""


@dataclass(frozen=True)
class LabelledFolder:
    """A folder with a subfolder of images for each label, as :func:`read_labelled_folder` finds it.

    An image has the label of its subfolder and none of the others. ``owners`` names it by position.
    ``search``: what was passed over and what could not be read.
    """

    paths: tuple[str, ...]
    labels: tuple[str, ...]
    owners: tuple[int, ...]
    search: Found = field(default_factory=Found, compare=False)

    def targets(self, labels: Sequence[str]) -> np.ndarray:
        """Return targets int8 ``[N, K]`` for ``labels`` (K of them)."""
        position = {label: index for index, label in enumerate(self.labels)}
        columns = np.array([position[label] for label in labels], dtype=np.intp)
        return (np.array(self.owners)[:, None] == columns[None, :]).astype(np.int8)


def read_labelled_folder(folder: str | Path, exclude: Sequence[str] = ()) -> LabelledFolder:
    """Find the images below each subfolder, whose name is their label. Raises DataError.

    A subfolder without images is no label. ``exclude``: patterns of names that are passed over, see
    :class:`Rules`, as are hidden subfolders and those of photo tools.
    """
    root = Path(folder)
    if not root.is_dir():
        raise DataError(f"There is no folder {str(folder)!r}.")
    paths: list[str] = []
    labels: list[str] = []
    owners: list[int] = []
    search = Found()
    for inside in _subfolders(root, Rules(exclude), search.passed_over):
        found = find_inside(inside, exclude)
        search.unreadable += found.unreadable
        search.passed_over.update(found.passed_over)
        if found.images:
            owners += [len(labels)] * len(found.images)
            labels.append(inside.name)
            paths += found.images
    if not paths:
        raise DataError(
            f"The folder {str(folder)!r} holds no subfolders with images. Make one subfolder a "
            "label, named by it, or give a CSV or COCO file."
        )
    return LabelledFolder(tuple(paths), tuple(labels), tuple(owners), search)


def has_subfolders(folder: Path, exclude: Sequence[str] = ()) -> bool:
    """Whether a folder has subfolders that may be labels."""
    return bool(_subfolders(folder, Rules(exclude), PassedOver()))


def _subfolders(folder: Path, rules: Rules, passed_over: PassedOver) -> list[Path]:
    subfolders = []
    for path in sorted(folder.iterdir()):
        if (reason := rules.reason(path.name, path.name)) is not None:
            passed_over.add(*reason)
        elif path.is_dir():
            subfolders.append(path)
        elif suffix_of(path.name) in SUFFIXES:
            passed_over.add(Kind.BESIDE)
        else:
            passed_over.add_file(path.name)
    return subfolders


def targets_for(data: Labelled, labels: Sequence[str]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return targets int8 ``[N, K]`` for a vocabulary's labels, and the data's labels it lacks.

    A label that the data do not know is unknown (-1) in every image. The data's labels are found
    as they are written, or else in another case; several that are one label are taken together.
    Raises DataError where the two have no label in common.
    """
    exact = {label: column for column, label in enumerate(labels)}
    folded = {_folded(label): column for label, column in reversed(exact.items())}
    columns = {label: exact.get(label, folded.get(_folded(label))) for label in data.labels}
    shared = {label: column for label, column in columns.items() if column is not None}
    strange = tuple(label for label, column in columns.items() if column is None)
    if not shared:
        raise DataError(
            f"None of the data's {len(strange)} labels ({_some(strange)}) is in the vocabulary, "
            f"whose labels are {_some(labels)}."
        )
    found = data.targets(tuple(shared))
    targets = np.full((len(found), len(labels)), _UNKNOWN, dtype=np.int8)
    for column, values in zip(shared.values(), found.T, strict=True):
        np.maximum(targets[:, column], values, out=targets[:, column])
    return targets, strange


def _folded(label: str) -> str:
    return unicodedata.normalize("NFC", label).casefold()  # file systems may decompose accents


def _some(labels: Sequence[str]) -> str:
    return ", ".join(map(repr, labels[:3])) + (", ..." if len(labels) > 3 else "")

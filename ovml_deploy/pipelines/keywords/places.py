"""Where the copies of photos go: the folders as they are, and never onto a photo."""

import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ovml_deploy.errors import UsageError
from ovml_deploy.pipelines.folders import Unreadable, find_images, is_folder
from ovml_deploy.pipelines.passed_over import PassedOver


@dataclass(frozen=True)
class Place:
    """A photo as it was named or found, and where its copy goes."""

    source: str
    target: Path


@dataclass(frozen=True)
class Plan:
    """Places of photos; what could not be read, and counts of what the search passed over."""

    places: list[Place]
    unreadable: list[Unreadable]
    passed_over: PassedOver


def plan_copies(names: Iterable[str], out: str | Path, exclude: Sequence[str] = ()) -> Plan:
    """Return where the copy of each photo goes that files, folders and patterns name.

    Below ``out`` they lie as below the folder that is named, of a pattern the part without wildcards;
    where several are named, as below the folder that holds them all. So no two get one place.
    ``exclude``: patterns of names that are passed over, see :class:`Rules`. Raises
    UsageError as :func:`find_images`, and where ``out`` is no folder, is or lies in a folder of photos,
    or holds some of them.
    """
    folder = Path(os.path.realpath(out))
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--out {str(out)!r} is a file. Name a folder.")
    photos: dict[str, str] = {}  # of one file named twice, the first name
    bases = []
    plan = Plan([], [], PassedOver())
    for name, base in _with_bases(names):
        bases.append(base)
        if is_folder(name) and folder.is_relative_to(os.path.realpath(name)):
            raise UsageError(
                f"--out {str(out)!r} lies in {name!r}, whose photos are copied: the copies would be "
                "photos of it. Name a folder outside."
            )
        found = find_images([name], exclude)
        plan.unreadable.extend(found.unreadable)
        plan.passed_over.update(found.passed_over)
        for photo in found.images:
            photos.setdefault(_absolute(photo), photo)
    if not bases:
        find_images([])  # says what is missing
    common = os.path.commonpath(bases)
    for absolute, photo in photos.items():
        if Path(os.path.realpath(absolute)).is_relative_to(folder):
            raise UsageError(f"{photo!r} lies in --out {str(out)!r}. Name another folder.")
    plan.places.extend(
        Place(photo, Path(out) / os.path.relpath(absolute, common))
        for absolute, photo in photos.items()
    )
    return plan


def leads_out(target: Path, out: Path) -> bool:
    """Whether something written to ``target`` would get out of ``out``, through a link."""
    return target.is_symlink() or not Path(os.path.realpath(target)).is_relative_to(
        os.path.realpath(out)
    )


def _with_bases(names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Each name with the absolute folder below which its photos keep their places."""
    for name in names:
        path = Path(name)
        if is_folder(name):
            base = path
        elif not os.path.lexists(path) and glob.has_magic(name):
            parts = path.parts
            first = next(i for i, part in enumerate(parts) if glob.has_magic(part))
            base = Path(*parts[:first])
        else:
            base = path.parent
        yield name, _absolute(base)


def _absolute(path: str | Path) -> str:
    """Without following links: a photo's place is where it is named."""
    return os.path.abspath(path)  # noqa: PTH100

"""Where the copies of photos go: the folders as they are, and never onto a photo."""

import glob
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ovml_deploy.errors import UsageError
from ovml_deploy.pipelines.folders import find_images


@dataclass(frozen=True)
class Place:
    """A photo as it was named or found, and where its copy goes."""

    source: str
    target: Path


def plan_copies(names: Iterable[str], out: str | Path) -> list[Place]:
    """Return where the copy of each photo goes that files, folders and patterns name.

    Below ``out`` they lie as below the folder that is named, of a pattern the part without wildcards;
    where several are named, as below the folder that holds them all. So no two get one place. Raises
    UsageError as :func:`find_images`, and where ``out`` is no folder, is or lies in a folder of photos,
    or holds some of them.
    """
    folder = Path(os.path.realpath(out))
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--out {str(out)!r} is a file. Name a folder.")
    photos: dict[str, str] = {}  # of one file named twice, the first name
    bases = []
    for name, base in _with_bases(names):
        bases.append(base)
        if Path(name).is_dir() and folder.is_relative_to(os.path.realpath(name)):
            raise UsageError(
                f"--out {str(out)!r} lies in {name!r}, whose photos are copied: the copies would be "
                "photos of it. Name a folder outside."
            )
        for photo in find_images([name]):
            photos.setdefault(_absolute(photo), photo)
    if not photos:
        find_images([])  # says what is missing
    common = os.path.commonpath(bases)
    for absolute, photo in photos.items():
        if Path(os.path.realpath(absolute)).is_relative_to(folder):
            raise UsageError(f"{photo!r} lies in --out {str(out)!r}. Name another folder.")
    return [
        Place(photo, Path(out) / os.path.relpath(absolute, common))
        for absolute, photo in photos.items()
    ]


def leads_out(target: Path, out: Path) -> bool:
    """Whether something written to ``target`` would get out of ``out``, through a link."""
    return target.is_symlink() or not Path(os.path.realpath(target)).is_relative_to(
        os.path.realpath(out)
    )


def _with_bases(names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Each name with the absolute folder below which its photos keep their places."""
    for name in names:
        path = Path(name)
        if path.is_dir():
            base = path
        elif not path.exists() and glob.has_magic(name):
            parts = path.parts
            first = next(i for i, part in enumerate(parts) if glob.has_magic(part))
            base = Path(*parts[:first])
        else:
            base = path.parent
        yield name, _absolute(base)


def _absolute(path: str | Path) -> str:
    """Without following links: a photo's place is where it is named."""
    return os.path.abspath(path)  # noqa: PTH100

"""Finds the images that a command line names: files, folders and patterns."""

import glob
from collections.abc import Iterable
from pathlib import Path

from ovml_deploy.errors import UsageError

SUFFIXES = frozenset(
    {".avif", ".bmp", ".gif", ".ico", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm"}
    | {".png", ".ppm", ".tif", ".tiff", ".webp"}
)


def find_images(names: Iterable[str]) -> list[str]:
    """Return image paths in order: files as they are, folders searched, patterns expanded.

    A named file is kept even if it does not exist, so that it is reported as one bad image. Raises
    UsageError where a folder or pattern holds no image, or nothing is named.
    """
    found: list[str] = []
    for name in names:
        path = Path(name)
        if path.is_dir():
            inside = images_inside(path)
            if not inside:
                raise UsageError(
                    f"The folder {name!r} holds no images ({', '.join(sorted(SUFFIXES))})."
                )
            found.extend(inside)
        elif not path.exists() and glob.has_magic(name):
            matches = sorted(m for m in glob.glob(name, recursive=True) if not Path(m).is_dir())
            if not matches:
                raise UsageError(f"No file matches the pattern {name!r}.")
            found.extend(matches)
        else:
            found.append(name)
    if not found:
        raise UsageError("No images are named. Give files, folders or patterns.")
    return list(dict.fromkeys(found))


def images_inside(folder: Path) -> list[str]:
    """Return the paths of all images in a folder and its subfolders, sorted."""
    files = (p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and not p.is_dir())
    return [str(path) for path in sorted(files)]

"""The one entry to data sets: a file, or a part of a folder in an official layout.

``FILE``: COCO instances (.json) or the QKS release's CSV. ``FOLDER:PART``: a folder whose content
shows its layout.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ovml_deploy.errors import DataError
from ovml_deploy.training.data.coco import coco_parts, read_coco, read_coco_part
from ovml_deploy.training.data.csv_file import read_csv
from ovml_deploy.training.data.dataset import Dataset
from ovml_deploy.training.data.nus_wide import nus_wide_parts, read_nus_wide_part
from ovml_deploy.training.data.open_images import open_images_parts, read_open_images_part
from ovml_deploy.training.data.text_files import existing_folder
from ovml_deploy.training.data.voc import read_voc_part, voc_parts


@dataclass(frozen=True)
class _Layout:
    """A folder layout. ``parts``: those in a folder; none where it has another layout."""

    sign: str
    parts: Callable[[Path], tuple[str, ...]]
    read: Callable[[Path, str, Path | None], Dataset]
    takes_confidence: bool = False

    def part_name(self, part: str) -> str:
        """The part without the confidence that may follow it."""
        return part.partition("@")[0] if self.takes_confidence else part


_LAYOUTS = (
    _Layout("VOC: ImageSets/Main/CLASS_PART.txt", voc_parts, read_voc_part),
    _Layout("NUS-WIDE: Groundtruth/TrainTestLabels", nus_wide_parts, read_nus_wide_part),
    _Layout("COCO: annotations/instances_PART.json", coco_parts, read_coco_part),
    _Layout(
        "Open Images: PART-annotations-human-imagelabels.csv",
        open_images_parts,
        read_open_images_part,
        takes_confidence=True,
    ),
)


def read_dataset(name: str | Path, images: str | Path | None = None) -> Dataset:
    """Read a file (COCO instances JSON, or the official CSV under any other name) or FOLDER:PART.

    Relative image paths start at ``images``, or else at the file's own folder, or where the layout
    has them. Raises DataError.
    """
    source, part = _split(str(name))
    folder = existing_folder(Path(images)) if images is not None else None
    if source.is_dir():
        return _read_part(source, part, folder)
    if not source.is_file():
        raise DataError(f"There is no data file or folder {str(source)!r}.")
    if part is not None:
        raise DataError(f"{str(source)!r} is a file, which has no part {part!r}.")
    if source.suffix.lower() == ".json":
        return read_coco(source, folder or source.parent)
    return read_csv(source, folder or source.parent)


def _split(name: str) -> tuple[Path, str | None]:
    """Path and part. A colon in the name of what exists belongs to the name."""
    before, colon, part = name.rpartition(":")
    if not colon or Path(name).exists() or not Path(before).exists():
        return Path(name), None
    return Path(before), part


def _read_part(folder: Path, part: str | None, images: Path | None) -> Dataset:
    for layout in _LAYOUTS:
        if parts := layout.parts(folder):
            if part is None or layout.part_name(part) not in parts:
                missing = "is a folder" if part is None else f"has no part {part!r}"
                raise DataError(
                    f"{str(folder)!r} {missing}; name one of its parts ({', '.join(parts)}), such "
                    f"as {folder}:{parts[0]}."
                )
            return layout.read(folder, part, images)
    signs = "; ".join(layout.sign for layout in _LAYOUTS)
    raise DataError(
        f"{str(folder)!r} is a folder in none of the layouts that can be read ({signs}). Name the "
        "folder that holds these files."
    )

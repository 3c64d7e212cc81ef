r"""NUS-WIDE in its official folders, by the 925/81 protocol or with the 81 concepts alone.

- ``train`` and ``test``: the 1,000 most frequent user tags (``NUS_WID_Tags/Train_Tags1k.dat``, named
  by ``TagList1k.txt``) but for those that are also concepts, 925 in the original; ``test`` has
  besides them the 81 concepts as people judged them
  (``Groundtruth/TrainTestLabels/Labels_CONCEPT_Test.txt``), which are unseen in training. Images
  without a label are left out, as in the QKS release.
- ``train81`` and ``test81``: the 81 concepts alone, all images kept.

Both are exhaustive: a label that is not given is negative. ``ImageList/TrainImagelist.txt`` names the
images, in Windows' way (``folder\name.jpg``).
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from ovml_deploy.errors import DataError
from ovml_deploy.training.data.dataset import Dataset, Record
from ovml_deploy.training.data.text_files import check_counts, existing_folder, read_lines

_PARTS = ("train", "test", "train81", "test81")
_IMAGE_FOLDERS = ("Flickr", "images")


def nus_wide_parts(folder: Path) -> tuple[str, ...]:
    """Return the parts of NUS-WIDE where the folder looks like it."""
    marks = ("NUS_WID_Tags", "Groundtruth/TrainTestLabels")
    return _PARTS if any((folder / mark).is_dir() for mark in marks) else ()


def read_nus_wide_part(folder: Path, part: str, images: Path | None) -> Dataset:
    """Read one part. Raises DataError for a file that is absent, malformed or too short."""
    photographs = existing_folder(images or _image_folder(folder))
    which = "Train" if part.startswith("train") else "Test"
    image_list = _existing(folder / "ImageList" / f"{which}Imagelist.txt")
    names = [line.replace("\\", "/") for line in read_lines(image_list)]
    concepts = _concepts(folder)
    labels: tuple[str, ...] = ()
    shown: list[tuple[str, ...]] = [()] * len(names)
    if not part.endswith("81"):
        tags, shown = _read_tags(folder, which, image_list, len(names), set(concepts))
        labels += tags
    if part != "train":
        judged = _read_concepts(folder, which, image_list, len(names), concepts)
        shown = [tags + own for tags, own in zip(shown, judged, strict=True)]
        labels += concepts
    records = tuple(
        Record(photographs / name, positive, None)
        for name, positive in zip(names, shown, strict=True)
        if positive or part.endswith("81")
    )
    if not records:
        raise DataError(f"{str(image_list)!r} names no image with a label.")
    return Dataset(Path(f"{folder}:{part}"), records, labels, lists_labels=True)


def _concepts(folder: Path) -> tuple[str, ...]:
    places = [folder / "ConceptsList" / "Concepts81.txt", folder / "Concepts81.txt"]
    return tuple(read_lines(_existing(*places)))


def _read_tags(
    folder: Path, which: str, image_list: Path, images: int, concepts: set[str]
) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """User tags that are no concepts, and those of every image."""
    names = read_lines(_existing(folder / "NUS_WID_Tags" / "TagList1k.txt"))
    source = _existing(folder / "NUS_WID_Tags" / f"{which}_Tags1k.dat")
    kept = [(index, name) for index, name in enumerate(names) if name not in concepts]
    shown = []
    for number, row in enumerate(_rows(source), start=1):
        _check_row(source, number, row, len(names))
        shown.append(tuple(dict.fromkeys(name for index, name in kept if row[index] == "1")))
    check_counts(source, len(shown), image_list, images)
    return tuple(dict.fromkeys(name for _, name in kept)), shown


def _read_concepts(
    folder: Path, which: str, image_list: Path, images: int, concepts: Sequence[str]
) -> list[tuple[str, ...]]:
    """The concepts that people saw in every image."""
    shown: list[list[str]] = [[] for _ in range(images)]
    labels = folder / "Groundtruth" / "TrainTestLabels"
    for concept in concepts:
        source = _existing(labels / f"Labels_{concept}_{which}.txt")
        rows = list(_rows(source))
        check_counts(source, len(rows), image_list, images)
        for index, row in enumerate(rows):
            _check_row(source, index + 1, row, 1)
            if row == ["1"]:
                shown[index].append(concept)
    return [tuple(row) for row in shown]


def _rows(source: Path) -> Iterator[list[str]]:
    """The numbers of every line that has any; line by line, for a file may have 160 million."""
    with open(source, encoding="ascii", errors="replace") as file:
        for line in file:
            if row := line.split():
                yield row


def _check_row(source: Path, number: int, row: list[str], width: int) -> None:
    if len(row) != width:
        raise DataError(f"{str(source)!r}, row {number}: {len(row)} numbers instead of {width}.")
    if row.count("0") + row.count("1") != width:
        wrong = next(value for value in row if value not in ("0", "1"))
        raise DataError(f"{str(source)!r}, row {number}: {wrong!r} is neither 0 nor 1.")


def _image_folder(folder: Path) -> Path:
    found = [folder / name for name in _IMAGE_FOLDERS if (folder / name).is_dir()]
    return found[0] if found else folder / _IMAGE_FOLDERS[0]


def _existing(*places: Path) -> Path:
    for place in places:
        if place.is_file():
            return place
    raise DataError(f"There is no file {str(places[0])!r}, which NUS-WIDE's layout has.")

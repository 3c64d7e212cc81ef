"""Labelled images as commands take them: a folder of folders, or a data set's file."""

from collections.abc import Sequence
from pathlib import Path

from ovml_deploy.errors import UsageError
from ovml_deploy.pipelines.folders import Found
from ovml_deploy.pipelines.labelled_images import Labelled, LabelledFolder, read_labelled_folder
from ovml_deploy.training.data.layouts import read_dataset


def read_labelled(
    data: str, images: str | None = None, exclude: Sequence[str] = ()
) -> tuple[Sequence[str], Labelled]:
    """Return the paths of labelled images and what is known of them.

    ``exclude``: patterns of names that are passed over in a folder. Raises DataError, UsageError.
    """
    if Path(data).is_dir():
        if images is not None:
            raise UsageError(
                f"{data!r} is a folder that holds its images; leave --images {images!r} away."
            )
        folder = read_labelled_folder(data, exclude)
        return folder.paths, folder
    if exclude:
        raise UsageError(f"--exclude is for folders, and {data!r} is none; omit it.")
    dataset = read_dataset(data, images)
    return [str(record.path) for record in dataset.records], dataset


def search_of(labelled: Labelled | None) -> Found:
    """Return what the search for labelled images passed over and could not read."""
    return labelled.search if isinstance(labelled, LabelledFolder) else Found()

"""Labelled images as commands take them: a folder of folders, or a data set's file."""

from collections.abc import Sequence
from pathlib import Path

from ovml_deploy.errors import UsageError
from ovml_deploy.pipelines.labelled_images import Labelled, read_labelled_folder
from ovml_deploy.training.data.layouts import read_dataset


def read_labelled(data: str, images: str | None = None) -> tuple[Sequence[str], Labelled]:
    """Return the paths of labelled images and what is known of them. Raises DataError, UsageError."""
    if Path(data).is_dir():
        if images is not None:
            raise UsageError(
                f"{data!r} is a folder that holds its images; leave --images {images!r} away."
            )
        folder = read_labelled_folder(data)
        return folder.paths, folder
    dataset = read_dataset(data, images)
    return [str(record.path) for record in dataset.records], dataset

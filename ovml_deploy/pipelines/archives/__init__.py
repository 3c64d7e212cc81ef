"""Archives: images encoded once, and tagged with new words for ever."""

from ovml_deploy.pipelines.archives.indexing import IndexReport, index
from ovml_deploy.pipelines.archives.layout import ArchiveError, Manifest
from ovml_deploy.pipelines.archives.quantized import Loss
from ovml_deploy.pipelines.archives.retagging import Archive
from ovml_deploy.pipelines.tag_blocks import TagBlock
from ovml_deploy.pipelines.tag_files import write_tags

__all__ = [
    "Archive",
    "ArchiveError",
    "IndexReport",
    "Loss",
    "Manifest",
    "TagBlock",
    "index",
    "write_tags",
]

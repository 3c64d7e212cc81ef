"""Tags of images into the files that an archive's go to, by the same writers."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from ovml_deploy.pipelines.archives.arrow import pa
from ovml_deploy.pipelines.archives.retagging import TagBlock
from ovml_deploy.pipelines.archives.selection import Selected
from ovml_deploy.pipelines.archives.writers import check_out, write_tags
from ovml_deploy.runtime.iteration import batches
from ovml_deploy.runtime.results import TagResult
from ovml_deploy.runtime.vocabulary import Vocabulary

__all__ = ["check_out", "write_results"]

_IMAGES_OF_A_BLOCK = 256


def write_results(results: Iterable[TagResult], vocabulary: Vocabulary, out: str | Path) -> int:
    """Write a Tagger's results, all of one vocabulary, as :func:`write_tags` does; return how many.

    Images that failed have no place in such a file: their results are for the caller to report.
    """
    return write_tags(_blocks(results, vocabulary), out)


def _blocks(results: Iterable[TagResult], vocabulary: Vocabulary) -> Iterator[TagBlock]:
    places = {label: place for place, label in enumerate(vocabulary.labels)}
    good = (result for result in results if result.error is None)
    for batch in batches(good, _IMAGES_OF_A_BLOCK):
        tags = [tag for result in batch for tag in result]
        selected = Selected(
            np.array([len(result) for result in batch], np.int64),
            np.array([places[tag.label] for tag in tags], np.int64),
            np.array([tag.score for tag in tags], np.float64),
            np.array([tag.logit for tag in tags], np.float32),
            np.array([tag.query for tag in tags], np.int64),
        )
        # a name need not be text, but a file of tags holds nothing else
        names = [r.source.encode(errors="surrogateescape").decode(errors="replace") for r in batch]
        yield TagBlock(pa.array(names, pa.string()), selected, vocabulary)

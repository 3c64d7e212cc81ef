"""Parquet files of tags."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from ovml_deploy.pipelines.archives.arrow import pa, pq
from ovml_deploy.pipelines.tag_blocks import TagBlock

_ROWS_OF_A_GROUP = 1 << 16
_TAG = pa.struct(
    [
        pa.field("label", pa.string(), nullable=False),
        pa.field("score", pa.float64(), nullable=False),
        pa.field("logit", pa.float32(), nullable=False),
        pa.field("query", pa.int32(), nullable=False),
    ]
)
_IMAGES = pa.schema(
    [
        pa.field("path", pa.string(), nullable=False),
        pa.field("tags", pa.list_(pa.field("tag", _TAG, nullable=False)), nullable=False),
    ]
)


def write_parquet(blocks: Iterable[TagBlock], path: Path) -> None:
    """Write a row an image: ``path`` and ``tags``, a list of label, score, logit, query."""
    labels = _Labels()
    waiting: list[Any] = []
    # scores are all different: to look for equal ones takes longer than all else
    dictionary = ["tags.list.element.label", "tags.list.element.query"]
    with pq.ParquetWriter(path, _IMAGES, compression="zstd", use_dictionary=dictionary) as writer:
        for block in blocks:
            waiting.append(_images(block, labels))
            if sum(map(len, waiting)) >= _ROWS_OF_A_GROUP:
                writer.write_table(pa.concat_tables(waiting).combine_chunks())
                waiting = []
        if waiting:
            writer.write_table(pa.concat_tables(waiting).combine_chunks())


def _images(block: TagBlock, labels: "_Labels") -> Any:
    tags = block.tags
    values = pa.StructArray.from_arrays(
        [
            labels.of(block),
            pa.array(tags.scores),
            pa.array(tags.logits),
            pa.array(tags.queries.astype(np.int32)),
        ],
        fields=[*_TAG],
    )
    offsets = pa.array(np.concatenate([[0], np.cumsum(tags.counts)]).astype(np.int32))
    lists = pa.ListArray.from_arrays(offsets, values, type=_IMAGES.field("tags").type)
    names = block.names
    names = pa.array(names, pa.string()) if isinstance(names, list) else names.cast(pa.string())
    return pa.Table.from_arrays([names, lists], schema=_IMAGES)


class _Labels:
    """The vocabulary's labels as Arrow has them, made once."""

    def __init__(self) -> None:
        self._labels: tuple[str, ...] | None = None
        self._array: Any = None

    def of(self, block: TagBlock) -> Any:
        """The label of each of a block's tags."""
        if self._labels is not block.vocabulary.labels:
            self._labels = block.vocabulary.labels
            self._array = pa.array(self._labels, pa.string())
        return self._array.take(pa.array(block.tags.labels))

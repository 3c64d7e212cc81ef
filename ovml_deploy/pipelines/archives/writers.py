"""Where the tags of an archive go: Parquet, CSV, JSON lines, or JSON as COCO has it."""

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from ovml_deploy.errors import UsageError
from ovml_deploy.files import may_be_written, write_atomically
from ovml_deploy.pipelines.archives.arrow import pa, pa_csv, pq
from ovml_deploy.pipelines.archives.retagging import TagBlock

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
_TAGS = pa.schema([("path", pa.string()), ("label", pa.string()), ("score", pa.float64())])


def check_out(path: str | Path) -> None:
    """Raise UsageError for a file that results cannot be written to."""
    if Path(path).suffix not in _WRITERS:
        raise UsageError(f"{str(path)!r} must end in one of: {', '.join(_WRITERS)}.")
    if not may_be_written(path):
        raise UsageError(f"{str(path)!r} cannot be written. Name another place.")


def write_tags(
    blocks: Iterable[TagBlock], out: str | Path, done: Callable[[int], None] | None = None
) -> int:
    """Write tags to a file, whole or not at all, and return of how many images.

    Its ending says how. ``.parquet``: a row an image, ``path`` and ``tags``, a list of label, score,
    logit, query. ``.csv``: a row a tag (path, label, score), so none for an image without tags.
    ``.jsonl``: an object an image. ``.json``: COCO's images, categories and annotations, which have a
    score and no box. ``done`` is called with the number of images so far. Raises UsageError.
    """
    check_out(out)
    counted = _Counted(blocks, done)
    with write_atomically(out) as temporary:
        _WRITERS[Path(out).suffix](counted, temporary)
    return counted.images


class _Counted:
    def __init__(self, blocks: Iterable[TagBlock], done: Callable[[int], None] | None) -> None:
        self._blocks, self._done = blocks, done
        self.images = 0

    def __iter__(self) -> Iterator[TagBlock]:
        for block in self._blocks:
            yield block
            self.images += len(block)
            if self._done is not None:
                self._done(self.images)


def _write_parquet(blocks: Iterable[TagBlock], path: Path) -> None:
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
    return pa.Table.from_arrays([block.names.cast(pa.string()), lists], schema=_IMAGES)


def _write_csv(blocks: Iterable[TagBlock], path: Path) -> None:
    labels = _Labels()
    options = pa_csv.WriteOptions(quoting_style="needed")
    with pa_csv.CSVWriter(path, _TAGS, write_options=options) as writer:
        for block in blocks:
            tags = block.tags
            images = pa.array(np.repeat(np.arange(len(block)), tags.counts))
            columns = [block.names.cast(pa.string()).take(images), labels.of(block)]
            columns.append(pa.array(tags.scores))
            writer.write_table(pa.Table.from_arrays(columns, schema=_TAGS))


def _write_jsonl(blocks: Iterable[TagBlock], path: Path) -> None:
    with open(path, "w", encoding="utf-8") as file:
        for block in blocks:
            for row in block:
                tags = [{"label": t.label, "score": t.score, "query": t.query} for t in row]
                value = {"path": row.source, "vocabulary": row.vocabulary_id, "tags": tags}
                file.write(json.dumps(value, ensure_ascii=False) + "\n")


def _write_coco(blocks: Iterable[TagBlock], path: Path) -> None:
    """Images come first in the file, so annotations wait in another one."""
    beside = path.with_suffix(".annotations")
    try:
        with (
            open(path, "w", encoding="utf-8") as file,
            open(beside, "w+", encoding="utf-8") as rest,
        ):
            labels = _write_coco_parts(blocks, file, rest)
            file.write('],\n"categories": [')
            _write_list(file, ({"id": i, "name": label} for i, label in enumerate(labels, 1)))
            file.write('],\n"annotations": [')
            rest.seek(0)
            while piece := rest.read(1 << 20):
                file.write(piece)
            file.write("]\n}\n")
    finally:
        beside.unlink(missing_ok=True)


def _write_coco_parts(blocks: Iterable[TagBlock], file: IO[str], rest: IO[str]) -> tuple[str, ...]:
    image = annotation = 0
    labels: tuple[str, ...] = ()
    file.write('{\n"info": {"description": "made by ovml-deploy"},\n"images": [')
    for block in blocks:
        labels, tags = block.vocabulary.labels, block.tags
        images = np.repeat(np.arange(len(block)), tags.counts) + image + 1
        names = enumerate(block.names.to_pylist(), image + 1)
        _write_list(file, ({"id": i, "file_name": name} for i, name in names), image)
        values = zip(images.tolist(), tags.labels.tolist(), tags.scores.tolist(), strict=True)
        rows = (
            {"id": i, "image_id": n, "category_id": label + 1, "score": score}
            for i, (n, label, score) in enumerate(values, annotation + 1)
        )
        _write_list(rest, rows, annotation)
        image += len(block)
        annotation += len(tags.labels)
    return labels


def _write_list(file: IO[str], values: Iterable[object], before: int = 0) -> None:
    """Write a list's values, of which ``before`` were written."""
    for number, value in enumerate(values, before):
        file.write((",\n" if number else "\n") + json.dumps(value, ensure_ascii=False))


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


_WRITERS: dict[str, Callable[[Iterable[TagBlock], Path], None]] = {
    ".parquet": _write_parquet,
    ".csv": _write_csv,
    ".jsonl": _write_jsonl,
    ".json": _write_coco,
}

"""Files of tags: Parquet, CSV, JSON lines, COCO. Only Parquet needs pyarrow."""

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO

import numpy as np

from ovml_deploy.errors import MissingDependencyError, UsageError
from ovml_deploy.files import may_be_written, write_atomically
from ovml_deploy.pipelines.tag_blocks import Selected, TagBlock
from ovml_deploy.runtime.iteration import batches
from ovml_deploy.runtime.results import TagResult
from ovml_deploy.runtime.vocabulary import Vocabulary

_PARQUET = ".parquet"
_IMAGES_OF_A_BLOCK = 256


def check_out(path: str | Path) -> None:
    """Raise UsageError for a file that results cannot be written to.

    Raises MissingDependencyError for Parquet without pyarrow.
    """
    if Path(path).suffix not in _WRITERS:
        raise UsageError(f"{str(path)!r} must end in one of: {', '.join(_WRITERS)}.")
    if not may_be_written(path):
        raise UsageError(f"{str(path)!r} cannot be written. Name another place.")
    if Path(path).suffix == _PARQUET:
        _parquet_writer()


def write_tags(
    blocks: Iterable[TagBlock], out: str | Path, done: Callable[[int], None] | None = None
) -> int:
    """Write tags to a file, whole or not at all, and return of how many images.

    Its ending says how. ``.parquet``: a row an image, ``path`` and ``tags``, a list of label, score,
    logit, query. ``.csv``: a row a tag (path, label, score), so none for an image without tags.
    ``.jsonl``: an object an image. ``.json``: COCO's images, categories and annotations, which have a
    score and no box. ``done`` is called with the number of images so far. Raises as
    :func:`check_out`.
    """
    check_out(out)
    counted = _Counted(blocks, done)
    with write_atomically(out) as temporary:
        _WRITERS[Path(out).suffix](counted, temporary)
    return counted.images


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
        # a file name may hold bytes that are not UTF-8
        names = [r.source.encode(errors="surrogateescape").decode(errors="replace") for r in batch]
        yield TagBlock(names, selected, vocabulary)


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
    _parquet_writer()(blocks, path)


def _parquet_writer() -> Callable[[Iterable[TagBlock], Path], None]:
    try:
        from ovml_deploy.pipelines.archives.writers import write_parquet
    except MissingDependencyError as error:
        raise MissingDependencyError(
            "A .parquet file needs the package 'pyarrow'. Install it: "
            "pip install 'ovml-deploy[archives]'; or end --out in .csv, .jsonl or .json."
        ) from error
    return write_parquet


def _write_csv(blocks: Iterable[TagBlock], path: Path) -> None:
    """Write rows by hand: a label is quoted once for all its rows, which the csv module cannot do."""
    labels: tuple[str, ...] = ()
    quoted: list[str] = []
    with open(path, "w", encoding="utf-8", newline="") as file:
        file.write('"path","label","score"\n')
        for block in blocks:
            if block.vocabulary.labels is not labels:
                labels = block.vocabulary.labels
                quoted = [_quoted(label) for label in labels]
            tags = block.tags
            names = np.repeat(np.arange(len(block)), tags.counts).tolist()
            paths = [_quoted(name) for name in block.name_list()]
            rows = zip(names, tags.labels.tolist(), tags.scores.tolist(), strict=True)
            file.writelines(f"{paths[i]},{quoted[label]},{score!r}\n" for i, label, score in rows)


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


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
        names = enumerate(block.name_list(), image + 1)
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


_WRITERS: dict[str, Callable[[Iterable[TagBlock], Path], None]] = {
    _PARQUET: _write_parquet,
    ".csv": _write_csv,
    ".jsonl": _write_jsonl,
    ".json": _write_coco,
}

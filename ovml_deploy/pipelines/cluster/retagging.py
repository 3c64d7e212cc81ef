"""Tags an archive's images on a cluster, as one machine would: a pipeline of Ray Data."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ovml_deploy import __version__
from ovml_deploy.errors import OvmlError
from ovml_deploy.pipelines.archives.arrow import pa
from ovml_deploy.pipelines.archives.retagging import Archive
from ovml_deploy.pipelines.cluster.session import Cluster, ClusterError, connected
from ovml_deploy.pipelines.cluster.workers import RETRIES, enter, explained, plain
from ovml_deploy.pipelines.tag_blocks import Selected, TagBlock
from ovml_deploy.runtime.engine import Engine, named_device
from ovml_deploy.runtime.tagger import Tagger, VocabularySource
from ovml_deploy.runtime.vocabulary import Vocabulary

#: Row groups of an archive (1,024 images each) that are one piece of work, at most.
_GROUPS = 16
#: Pieces of work for each worker, where there are enough groups: so that all end together.
_PIECES = 8
#: Bytes of tags that travel at once.
_PIECE_BYTES = 32 << 20

_TAGS = {
    "labels": pa.int64(),
    "scores": pa.float64(),
    "logits": pa.float32(),
    "queries": pa.int64(),
}


def retag_blocks(
    cluster: Cluster,
    archive: str | Path,
    tagger: Tagger,
    vocabulary: VocabularySource,
    top_k: int | None = 5,
    threshold: float | None = None,
    device: str = "auto",
) -> Iterator[TagBlock]:
    """Yield what ``Archive.retag_blocks`` yields, matched by workers of a cluster.

    The same blocks in the same order, with the same numbers where the devices are the same.
    ``tagger``: embeds the words, here; the workers open its bundle, and the archive, under the same
    paths. A worker that dies is started anew, and its work done again.

    Memory here: some 100 MB; in each worker what ``Archive.retag_blocks`` needs. Raises what that
    raises, and ClusterError.
    """
    opened, words = Archive.open(archive), tagger.make_vocabulary(vocabulary)
    opened.matching(tagger, words, top_k, threshold)  # refused here, not by each worker
    where = (str(Path.cwd()), str(archive), str(tagger.bundle.path))
    device = named_device(tagger.bundle.path, device)
    question = (words, top_k, threshold)
    return (
        _blocks(cluster, opened.groups, (*where, device), question) if opened.groups else iter(())
    )


def _blocks(
    cluster: Cluster,
    groups: int,
    where: tuple[str, str, str, str],
    question: tuple[Vocabulary, int | None, float | None],
) -> Iterator[TagBlock]:
    with connected(cluster) as ray, explained(ray):
        reference = ray.put(question)
        arguments = {"groups": groups, "where": where, "question": [reference]}
        for table in _tables(ray, cluster, groups, arguments):
            for row in range(len(table)):
                yield _block(table, row, question[0])


def _tables(ray: Any, cluster: Cluster, groups: int, arguments: dict[str, Any]) -> Iterator[Any]:
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    each = max(1, min(_GROUPS, groups // (_PIECES * cluster.workers)))
    pieces = [range(first, min(first + each, groups)) for first in range(0, groups, each)]
    # put here: reading them would be tasks, for which the workers may have left no CPU
    numbers = ray.data.from_arrow([pa.table({"group": pa.array(piece)}) for piece in pieces])
    context = numbers.context
    context.execution_options.preserve_order = True
    context.target_max_block_size = _PIECE_BYTES
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.max_consecutive_actor_init_deaths = RETRIES
    tags = numbers.map_batches(
        Matcher,
        batch_size=None,
        batch_format="numpy",
        compute=ray.data.ActorPoolStrategy(size=min(cluster.workers, len(pieces))),
        fn_constructor_kwargs={**arguments, "version": __version__},
        **cluster.reserved,
    )
    return iter(tags.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1))


class Matcher:
    """A worker: an engine, the archive and the words, opened once."""

    def __init__(
        self, groups: int, where: tuple[str, str, str, str], question: list[Any], version: str
    ) -> None:
        import ray

        self._error: OvmlError | None = None
        try:
            self._open(groups, where, ray.get(question[0]), version)
        except OvmlError as error:  # Ray tells only in a text what a constructor raised
            self._error = plain(error)

    def _open(
        self, groups: int, where: tuple[str, str, str, str], question: tuple[Any, ...], version: str
    ) -> None:
        folder, archive, engine, device = where
        if version != __version__:
            raise ClusterError(
                f"A worker has ovml-deploy {__version__}, not {version}. Install that."
            )
        enter(folder)
        self._archive = Archive.open(archive)
        if self._archive.groups < groups:
            raise ClusterError(
                f"A worker finds {self._archive.groups} of {groups} row groups in {archive!r}. Use a "
                "file system that shows all machines the same."
            )
        tagger = Tagger(Engine.open(engine, device))
        self._matching = self._archive.matching(tagger, *question)

    def __call__(self, batch: dict[str, np.ndarray]) -> Iterator[Any]:
        """Yield tables of blocks, of the row groups in ``batch["group"]``."""
        if self._error is not None:
            raise self._error
        for number in batch["group"].tolist():
            groups = slice(number, number + 1)
            yield _table([*self._archive.matched(self._matching, groups)])


def _table(blocks: list[TagBlock]) -> Any:
    """A row a block."""
    columns = {
        "names": pa.array([block.name_list() for block in blocks], pa.list_(pa.large_string())),
        "counts": _lists([block.tags.counts for block in blocks], pa.int64()),
    }
    for name, kind in _TAGS.items():
        columns[name] = _lists([getattr(block.tags, name) for block in blocks], kind)
    return pa.table(columns)


def _lists(arrays: list[np.ndarray], kind: Any) -> Any:
    ends = np.cumsum([0, *map(len, arrays)], dtype=np.int32)
    whole = np.concatenate(arrays) if arrays else np.empty(0)
    return pa.ListArray.from_arrays(ends, pa.array(whole.astype(kind.to_pandas_dtype())))


def _block(table: Any, row: int, vocabulary: Vocabulary) -> TagBlock:
    def column(name: str) -> Any:
        return table.column(name)[row].values

    tags = {name: column(name).to_numpy() for name in ("counts", *_TAGS)}
    return TagBlock(column("names"), Selected(**tags), vocabulary)

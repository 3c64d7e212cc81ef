"""Encodes images on a cluster, into the archive that one machine would make.

These are plain Ray actors and not Ray Data: which images make a batch depends on what became of
those before (broken ones and copies take no place in it), and features may differ in the last bit
from one batch to another. So batches are planned here, between decoding and encoding, in the order of
the images; a pipeline of Ray Data has no such place.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from pathlib import Path

from ovml_deploy.pipelines.archives.batching import OnFailure
from ovml_deploy.pipelines.archives.indexing import check_options, fill
from ovml_deploy.pipelines.archives.report import IndexProgress, IndexReport
from ovml_deploy.pipelines.cluster.encoder import ClusterEncoder
from ovml_deploy.pipelines.cluster.session import Cluster, connected
from ovml_deploy.pipelines.cluster.workers import Workers
from ovml_deploy.runtime.bundle import Bundle
from ovml_deploy.runtime.engine import named_device


def index(
    cluster: Cluster,
    engine: str | Path,
    sources: Iterable[str | Path],
    out: str | Path,
    *,
    device: str = "auto",
    precision: str = "fp16",
    batch_size: int = 8,
    shard_rows: int = 4096,
    image_column: str = "image",
    exclude: Sequence[str] = (),
    progress: IndexProgress | None = None,
    on_failure: OnFailure | None = None,
    on_device: Callable[[str], None] | None = None,
) -> IndexReport:
    """Encode images into the archive ``out`` as ``archives.index`` does, on workers of a cluster.

    The same files, byte for byte, where the devices are the same. ``engine``: a bundle, under that
    path on each machine, like the sources; images of compressed tars and of Parquet files are read
    here. The archive is written here. A worker that dies is started anew, and its work done again;
    after a kill of all, the next run goes on behind the last part. ``on_device``: called with what
    the workers run on.

    Memory here: as for ``archives.index``, with features of batches under way in place of images; in
    Ray's object stores, ``4 * workers + 1`` batches of pixels.

    Raises what ``archives.index`` raises, and ClusterError.
    """
    names = [str(source) for source in sources]
    check_options(names, precision, batch_size, shard_rows, image_column)
    bundle, device = Bundle.open(engine), named_device(engine, device)
    with connected(cluster) as ray, closing(Workers(ray, cluster, str(engine), device)) as workers:
        if on_device is not None:
            on_device(workers.device)
        return fill(
            ClusterEncoder(workers, bundle, batch_size),
            names,
            out,
            precision=precision,
            batch_size=batch_size,
            shard_rows=shard_rows,
            image_column=image_column,
            exclude=exclude,
            in_place=True,
            progress=progress,
            on_failure=on_failure,
        )

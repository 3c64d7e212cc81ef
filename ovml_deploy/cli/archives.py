"""``ovml-deploy index`` and ``ovml-deploy retag``."""

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ovml_deploy import assets, output
from ovml_deploy.commandline import SOME_FAILED, command, count, names, needs_extra, number
from ovml_deploy.errors import UsageError

if TYPE_CHECKING:
    from ovml_deploy.pipelines.cluster import Cluster

_SHOWN_EVERY = 64
_HERE, _RAY = "here", "ray"


@command(
    batch_size=count,
    shard_rows=count,
    exclude=names,
    workers=count,
    worker_cpus=number,
    worker_gpus=number,
)
def index_command(
    *sources: str,
    out: str,
    engine: str = str(assets.MINI),
    device: str = "auto",
    precision: str = "fp16",
    batch_size: int = 8,
    shard_rows: int = 4096,
    image_column: str = "image",
    exclude: tuple[str, ...] = (),
    on: str = _HERE,
    workers: int = 2,
    ray_address: str | None = None,
    worker_cpus: float = 1.0,
    worker_gpus: float = 0.0,
) -> int:
    """Encode images once, into an archive that `retag` tags with any words. Run again, it goes on.

    Args:
        sources: images, folders, patterns, WebDataset shards (.tar), Parquet files with images
        out: the archive, a folder; images that it has already are passed over
        engine: a bundle, or a file in one; default: the embedded model
        device: auto, cpu, openvino, cuda, tensorrt, or a .plan file; only auto chooses by itself
        precision: how features are stored: fp16, or int8, half as large
        batch_size: images encoded at once
        shard_rows: images in a file of the archive; as many at most are encoded anew after a kill
        image_column: the column of a Parquet file that holds the images
        exclude: names or paths to pass over in folders, patterns and tars, separated by commas; case is
            ignored
        on: here, or ray: on the workers of a Ray cluster, with the same result
        workers: with --on ray, processes with an engine each
        ray_address: the cluster's; default: that in RAY_ADDRESS, else a Ray of this machine alone
        worker_cpus: CPUs that Ray reserves for a worker
        worker_gpus: GPUs that Ray reserves for a worker
    """
    with needs_extra("archives"):
        from ovml_deploy.pipelines.archives import index
    failures = output.Failures()
    options: dict[str, Any] = {
        "precision": precision,
        "batch_size": batch_size,
        "shard_rows": shard_rows,
        "image_column": image_column,
        "exclude": exclude,
        "progress": _show_index,
        "on_failure": failures.print,
    }
    cluster = _cluster(on, workers, ray_address, worker_cpus, worker_gpus)
    if cluster is None:
        from ovml_deploy.runtime.engine import Engine

        opened = Engine.open(engine, device)
        output.show_engine(opened)
        report = index(opened, sources, out, **options)
    else:
        from ovml_deploy.pipelines import cluster as distributed

        options |= {"device": device, "on_device": _show_workers(cluster)}
        report = distributed.index(cluster, engine, sources, out, **options)
    failures.close()
    output.print_search(report.passed_over.lines(), ())
    print(
        f"{out}: {report.added:,} images added, {report.copies:,} copies of others, "
        f"{report.skipped:,} there already, {report.failed:,} failed"
    )
    if report.loss is not None:
        tags = report.loss.top5_agreement
        kept = "" if tags is None else f", {tags:.1%} of the five best tags kept"
        print(
            f"stored in {precision}: relative error {report.loss.relative_error:.1e}{kept} "
            f"(first {report.loss.images} images)"
        )
    if cluster is None and report.added:
        output.print_bottleneck(report.stages)
    return SOME_FAILED if report.failed else 0


@command(top_k=count, threshold=number, workers=count, worker_cpus=number, worker_gpus=number)
def retag_command(
    archive: str,
    out: str,
    vocab: str | None = None,
    labels: str | None = None,
    engine: str = str(assets.MINI),
    top_k: int = 5,
    threshold: float | None = None,
    device: str = "auto",
    on: str = _HERE,
    workers: int = 2,
    ray_address: str | None = None,
    worker_cpus: float = 1.0,
    worker_gpus: float = 0.0,
) -> None:
    """Tag all images of an archive with any words, without the images.

    Args:
        archive: a folder that `index` filled
        out: the file of tags: .parquet, .csv, .jsonl, or .json (COCO)
        vocab: a label file, a vocabulary file, or the name of one in the bundle
        labels: the labels themselves, separated by commas
        engine: the bundle that encoded the archive; default: the embedded model
        top_k: at most so many tags an image
        threshold: only tags with at least this score; default: a calibrated vocabulary's own
        device: auto, cpu, openvino, cuda, tensorrt, or a .plan file; only auto chooses by itself
        on: here, or ray: on the workers of a Ray cluster, with the same result
        workers: with --on ray, processes with an engine each
        ray_address: the cluster's; default: that in RAY_ADDRESS, else a Ray of this machine alone
        worker_cpus: CPUs that Ray reserves for a worker
        worker_gpus: GPUs that Ray reserves for a worker
    """
    with needs_extra("archives"):
        from ovml_deploy.pipelines.archives import Archive, write_tags
        from ovml_deploy.pipelines.tag_files import check_out
    from ovml_deploy.runtime.bundle import Bundle
    from ovml_deploy.runtime.tagger import Tagger

    if (vocab is None) == (labels is None):
        raise UsageError("Name the words: give --vocab or --labels, one of them.")
    check_out(out)
    cluster = _cluster(on, workers, ray_address, worker_cpus, worker_gpus)
    opened = Archive.open(archive)
    opened.check_model(Bundle.open(engine))
    words = vocab if labels is None else [w for w in labels.split(",") if w.strip()]
    tagger = Tagger.load(engine, device, words, output.show_encoding)
    output.show_engine(tagger.engine)
    question = (tagger, tagger.vocabulary, top_k, threshold)
    if cluster is None:
        blocks = opened.retag_blocks(*question)
    else:
        from ovml_deploy.pipelines import cluster as distributed

        blocks = distributed.retag_blocks(cluster, archive, *question, device)
    images = write_tags(blocks, out, lambda done: _show(f"tagged: {done:,} of {len(opened):,}"))
    _end()
    print(f"{images:,} images with {len(tagger.vocabulary):,} labels: {out}")


def _cluster(
    on: str, workers: int, address: str | None, cpus: float, gpus: float
) -> "Cluster | None":
    """Where to work, None for here."""
    if on == _HERE:
        return None
    if on != _RAY:
        raise UsageError(f"--on is {on!r}; it is {_HERE!r} or {_RAY!r}.")
    with needs_extra("archives"):
        from ovml_deploy.pipelines.cluster import Cluster
    return Cluster(workers, address, cpus, gpus)


def _show_workers(cluster: "Cluster") -> Callable[[str], None]:
    return lambda device: print(f"{cluster.workers} workers: {device}", file=sys.stderr)


def _show_index(done: int, failed: int) -> None:
    if done % _SHOWN_EVERY == 0:
        _show(f"read: {done:,} images, {failed:,} failed")


def _show(text: str) -> None:
    if sys.stderr.isatty():
        print(text, end="\r", file=sys.stderr, flush=True)


def _end() -> None:
    if sys.stderr.isatty():
        print(file=sys.stderr)

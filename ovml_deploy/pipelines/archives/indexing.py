"""Encodes images once, into an archive."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from ovml_deploy.errors import UsageError
from ovml_deploy.pipelines.archives.batching import Batching, OnFailure
from ovml_deploy.pipelines.archives.encoders import Encoder, LocalEncoder
from ovml_deploy.pipelines.archives.filling import filling
from ovml_deploy.pipelines.archives.layout import Manifest
from ovml_deploy.pipelines.archives.quantized import check_precision
from ovml_deploy.pipelines.archives.report import IndexProgress, IndexReport
from ovml_deploy.pipelines.archives.sources import check_sources, find_items
from ovml_deploy.runtime.engine import Engine
from ovml_deploy.runtime.tagger import Tagger

__all__ = ["IndexProgress", "IndexReport", "check_options", "fill", "index"]


def index(
    engine: Engine | Tagger,
    sources: Iterable[str | Path],
    out: str | Path,
    *,
    precision: str = "fp16",
    batch_size: int = 8,
    shard_rows: int = 4096,
    image_column: str = "image",
    exclude: Sequence[str] = (),
    progress: IndexProgress | None = None,
    on_failure: OnFailure | None = None,
) -> IndexReport:
    """Encode images into the archive ``out``, or those that it lacks.

    ``sources``: image files, folders, patterns, WebDataset tars, Parquet files with encoded images
    in ``image_column``. ``exclude``: patterns of names that are passed over, see :class:`Rules`.
    ``precision``: of the stored features, "fp16" or "int8". A part is written
    every ``shard_rows`` images; after a kill, the next run goes on behind the last one, with the same
    result as if nothing had happened. Bad images are passed to ``on_failure`` (name, reason), and
    tried again by the next run.

    Memory: ``2 * batch_size`` images, three parts, 64 bytes for each image of the archive (twice
    that for moments), and the paths of a source that is a folder or pattern.

    Raises UsageError, ArchiveError, DeviceError; OSError where the archive cannot be written.
    """
    names = [str(source) for source in sources]
    check_options(names, precision, batch_size, shard_rows, image_column)
    tagger = engine if isinstance(engine, Tagger) else Tagger(engine)
    encoder = LocalEncoder(tagger, batch_size)
    return fill(
        encoder,
        names,
        out,
        precision=precision,
        batch_size=batch_size,
        shard_rows=shard_rows,
        image_column=image_column,
        exclude=exclude,
        in_place=False,
        progress=progress,
        on_failure=on_failure,
    )


def check_options(
    sources: list[str], precision: str, batch_size: int, shard_rows: int, image_column: str
) -> None:
    """Raise UsageError for options that make no sense, before any work."""
    for what, value in (("batch_size", batch_size), ("shard_rows", shard_rows)):
        if value < 1:
            raise UsageError(f"{what} is {value}; it must be at least 1.")
    check_precision(precision)
    check_sources(sources, image_column)


def fill(
    encoder: Encoder,
    sources: list[str],
    out: str | Path,
    *,
    precision: str,
    batch_size: int,
    shard_rows: int,
    image_column: str,
    exclude: Sequence[str],
    in_place: bool,
    progress: IndexProgress | None,
    on_failure: OnFailure | None,
) -> IndexReport:
    """Do what :func:`index` says, on whatever encodes; options as checked by ``check_options``.

    ``in_place``: leave images in tars to the encoder to read, as far as it can.
    """
    manifest = Manifest.of(encoder.bundle, precision)
    with filling(Path(out), manifest, encoder.description) as archive:
        run = Batching(encoder, archive, batch_size, shard_rows, on_failure)
        passed_over = run.report.passed_over
        items = find_items(sources, run.wanted, image_column, in_place, exclude, passed_over)
        run.read(items, progress)
    run.report.loss = archive.manifest.loss
    return run.report

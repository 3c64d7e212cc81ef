"""Measures the rates that scale.py sizes jobs with, on this machine, and tries its arithmetic on them.

    python benchmarks/scale_rates.py [--engine build/bench/vit-b16-qks] [--photos ../shared/photos]
                                     [--images 64] [--rows 100000] [--batch 8] [--into FILE]
                                     [--write]

``encode`` is the engine alone on ready pixels; ``decode`` reads, hashes, decodes and preprocesses on one
thread; ``retag`` tags a synthetic archive (of the engine's shape, fp16, 80 labels) from the system's
cache. What the driver of a cluster bears, ``take`` and ``give``, is its own CPU time in both jobs on a
local Ray with one worker (the embedded model and small images: its work does not depend on them). A
CPU's ``encode`` is of CPU time, too, all cores together, so that other work on the machine does not
count. At last ``index`` runs here on the same photographs, in turns with decoding and
encoding, beside the rate that scale.py gives it.
"""

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from inputs import photographs, random_vocabulary
from PIL import Image
from report import Report, add_write
from retag import fill
from scale import Job, Rates, worker_rate
from tables import show

from ovml_deploy import assets
from ovml_deploy.pipelines import cluster as distributed
from ovml_deploy.pipelines.archives import Archive, index, write_tags
from ovml_deploy.pipelines.archives.sources import Item, read
from ovml_deploy.pipelines.cluster import Cluster
from ovml_deploy.runtime.engine import Engine
from ovml_deploy.runtime.images import open_image
from ovml_deploy.runtime.iteration import batches
from ovml_deploy.runtime.tagger import Tagger
from ovml_deploy.runtime.threads import available_cpus

_LABELS = 80
_ROUNDS = 3
_ONE = Cluster(workers=1)


def seconds(call: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    start = clock()
    call()
    return clock() - start


def of_all_cores() -> float:
    """CPU seconds of this process, as if all cores had them at once."""
    return time.process_time() / available_cpus()


def clock_of(tagger: Tagger) -> Callable[[], float]:
    """What tells how long the engine takes: a CPU's own time, or another device's."""
    on_cpu = " on CPU" in tagger.backend.description or "cpu" in tagger.backend.description.lower()
    return of_all_cores if on_cpu else time.perf_counter


@dataclass(frozen=True)
class Stages:
    """Seconds an image: decoding on one thread, encoding as ``clock_of`` tells it, and on the clock.

    ``index``: on the clock. ``ratio``: of the rate that scale.py gives for ``index`` to the measured one.
    """

    decode: float
    encode: float
    encode_clock: float
    index: float
    ratio: float


def stages(tagger: Tagger, paths: list[Path], at_once: int, folder: Path) -> Stages:
    """Measure them in turns, for machines drift, and return the medians."""
    pixels: list[np.ndarray] = []

    def decode() -> None:
        pixels[:] = [
            tagger.bundle.preprocessing(open_image(read(Item(str(path), path)).data))
            for path in paths
        ]

    def encode() -> None:
        for batch in batches(pixels, at_once):
            np.asarray(tagger.engine.encode(np.stack(batch)))

    def index_all() -> None:
        out = folder / "here"
        shutil.rmtree(out, ignore_errors=True)
        index(tagger, paths, out, batch_size=at_once)

    found, clock, count = [], clock_of(tagger), len(paths)
    for turn in range(_ROUNDS + 1):
        decoding = seconds(decode, time.thread_time) / count
        start = clock()
        encoding_clock = seconds(encode) / count
        encoding = (clock() - start) / count
        whole = seconds(index_all) / count
        rates = Rates(1 / encoding_clock, 1 / decoding, 1, 1, 1, 1)
        ratio = worker_rate(rates, Job(1, 1, cores=available_cpus())) * whole
        if turn:  # the first warms up
            found.append((decoding, encoding, encoding_clock, whole, ratio))
    return Stages(*(statistics.median(values) for values in zip(*found, strict=True)))


def taking(folder: Path, images: int, at_once: int) -> float:
    """Return CPU seconds that the driver of a cluster needs for an image it indexes."""
    photos = folder / "small"
    photos.mkdir()
    chance = np.random.default_rng(0)
    for number in range(images):
        pixels = chance.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(photos / f"{number:06d}.png")
    clock: list[float] = []
    start_at = images // 4  # what starts the pipeline is not an image's

    def progress(done: int, failed: int) -> None:
        if done == start_at:
            clock.append(time.process_time())

    report = distributed.index(
        _ONE, assets.MINI, [photos], folder / "taken", batch_size=at_once, progress=progress
    )
    assert report.added == images
    return (time.process_time() - clock[0]) / (images - start_at)


def giving(archive: Path, tagger: Tagger, images: int) -> float:
    """Return CPU seconds that the driver needs for an image it writes the tags of."""
    clock: list[tuple[int, float]] = []

    def done(count: int) -> None:
        if not clock:
            clock.append((count, time.process_time()))

    blocks = distributed.retag_blocks(_ONE, archive, tagger, tagger.vocabulary)
    assert write_tags(blocks, archive.parent / "given.parquet", done) == images
    first, began = clock[0]
    return (time.process_time() - began) / (images - first)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engine", default=str(assets.MINI))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--photos", default="../shared/photos")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--into", type=Path, help="a document whose tables are replaced")
    add_write(parser)
    given = parser.parse_args()
    tagger = Tagger(Engine.open(given.engine, given.device))
    report = Report("Scale", tagger.engine)
    paths = photographs(given.photos)[: given.images]
    size = statistics.mean(path.stat().st_size for path in paths)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found = stages(tagger, paths, given.batch, folder)
        words = Tagger.of(tagger.engine, random_vocabulary(tagger.bundle, _LABELS))
        fill(folder / "archive", tagger.bundle, "fp16", given.rows)
        stored = Archive.open(folder / "archive")
        tags = folder / "tags.parquet"
        retag = statistics.median(
            seconds(lambda: write_tags(stored.retag_blocks(words, words.vocabulary), tags))
            for _ in range(_ROUNDS)
        )
        retag /= given.rows
        take = taking(folder, 16 * given.images, given.batch)
        give = giving(folder / "archive", words, given.rows)
    rates = Rates(1 / found.encode, 1 / found.decode, 1 / take, 1 / retag, 1 / give, size)
    means = {
        "encode": "a worker's engine, on ready pixels",
        "decode": "a core: read, hash, decode, preprocess",
        "take": f"what the driver stores, in batches of {given.batch}",
        "retag": f"a worker, {_LABELS} labels",
        "give": "what the driver writes the tags of",
        "image_bytes": "a photograph, mean",
    }
    table = [["rate", "measured", "of what"]]
    for what, meaning in means.items():
        unit = "bytes" if what == "image_bytes" else "images/s"
        figure = f"{getattr(rates, what):,.1f} {unit}"
        report.headline(what, figure, meaning)
        table.append([what, figure, meaning])
    report.table("rates", table)
    figures = [f"{found.ratio / found.index:.1f}", f"{1 / found.index:.1f}", f"{found.ratio:.2f}"]
    rows = [["by scale.py", "measured", "ratio, median of turns"], figures]
    report.table("index on this machine, images/s", rows)
    if given.into is not None:
        show("rates", table, given.into)
        show("index on this machine, images/s", rows, given.into)
    report.write(given.write)


if __name__ == "__main__":
    main()

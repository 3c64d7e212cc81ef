"""What tagging an archive anew costs, beside reading it and beside its arithmetic; and filling one.

    python benchmarks/retag.py [--rows 100000] [--dims 512] [--labels 80] [--rounds 5] [--cold]
                               [--into FILE]
    python benchmarks/retag.py --photos FOLDER [--into FILE]

The archive is synthetic: random features of the embedded model's shape, but ``--dims`` wide. The
disk is read twice, past the system's cache and from it (not with ``--cold``: a large archive does
not stay there). With ``--photos``, an archive is filled from
JPEG files, beside the engine alone on the same pixels.
"""

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from floor import matrix_rate
from inputs import photographs, random_vocabulary
from tables import show

from ovml_deploy import assets
from ovml_deploy.files import sha256_file
from ovml_deploy.pipelines.archives import Archive, index, write_tags
from ovml_deploy.pipelines.archives.filling import filling
from ovml_deploy.pipelines.archives.layout import Manifest
from ovml_deploy.pipelines.archives.quantized import pack
from ovml_deploy.runtime.backends import create_backend
from ovml_deploy.runtime.bundle import Bundle
from ovml_deploy.runtime.engine import Engine
from ovml_deploy.runtime.images import open_image
from ovml_deploy.runtime.iteration import batches
from ovml_deploy.runtime.tagger import Tagger

_AT_ONCE = 256
_PART = 4096


def widened(folder: Path, dims: int) -> Bundle:
    """Copy the embedded model with a matcher of another width: speed does not depend on values."""
    shutil.copytree(assets.MINI, folder)
    path, manifest_path = folder / "matcher.onnx", folder / "bundle.json"
    graph = onnx.load(path)
    for given, axis in zip(graph.graph.input, (2, 1), strict=True):
        given.type.tensor_type.shape.dim[axis].dim_value = dims
    onnx.save(graph, path)
    manifest = json.loads(manifest_path.read_text())
    manifest["dims"]["embedding"] = dims
    manifest["files"]["matcher.onnx"] = {"sha256": sha256_file(path), "bytes": path.stat().st_size}
    manifest_path.write_text(json.dumps(manifest))
    return Bundle.open(folder)


def fill(folder: Path, bundle: Bundle, precision: str, rows: int) -> None:
    """Write an archive of random features."""
    random = np.random.default_rng(0)
    shape = (_AT_ONCE, bundle.features_per_image, bundle.embed_dim)
    manifest = Manifest.of(bundle, "fp16")
    if precision == "int8":
        manifest = Manifest(**{**vars(manifest), "precision": "int8", "centre": (0.0,) * shape[2]})
    columns = pack(random.normal(size=shape).astype(np.float32), precision)
    with filling(folder, manifest, "nothing") as archive:
        for row in range(rows):
            mine = {name: column[row % _AT_ONCE] for name, column in columns.items()}
            archive.add(f"photos/{row:09d}.jpg", random.bytes(32), mine)
            if archive.rows_of_part == _PART:
                archive.end_part()
        archive.end_part()


def forget(files: list[Path]) -> None:
    """Drop files from the system's cache."""
    for path in files:
        with open(path, "rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read(files: list[Path]) -> None:
    piece = bytearray(8 << 20)
    for path in files:
        with open(path, "rb", buffering=0) as file:
            while file.readinto(piece):
                pass


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def retagging(options: argparse.Namespace, folder: Path) -> list[list[str]]:
    bundle = widened(folder / "bundle", options.dims)
    engine = Engine.load(bundle, create_backend("cpu"))
    vocabulary = random_vocabulary(bundle, options.labels)
    work = 2 * options.rows * bundle.features_per_image * options.dims * options.labels
    table = [
        [
            "stored in",
            "bytes an image",
            "disk",
            "reading, s",
            "retag, s",
            "of reading",
            "arithmetic, s",
        ]
    ]
    for precision in ("fp16", "int8"):
        place = folder / precision
        fill(place, bundle, precision, options.rows)
        files = sorted(place.glob("part-*.parquet"))
        size = sum(path.stat().st_size for path in files)
        floor = work / matrix_rate("fp32")

        def retag(place: Path = place) -> None:
            blocks = Archive.open(place).retag_blocks(engine, vocabulary)
            assert write_tags(blocks, folder / "tags.parquet") == options.rows

        for disk in ("cold",) if options.cold else ("cold", "cached"):
            taken: dict[str, list[float]] = {"read": [], "retag": []}
            for turn in range(options.rounds + 1):
                for name, call in (("read", lambda files=files: read(files)), ("retag", retag)):
                    if disk == "cold":
                        forget(files)
                    once = seconds(call)
                    if turn:
                        taken[name].append(once)
            ratios = [b / a for a, b in zip(taken["read"], taken["retag"], strict=True)]
            low, middle, high = np.quantile(ratios, (0.25, 0.5, 0.75))
            reading, retagged = (statistics.median(taken[name]) for name in ("read", "retag"))
            rate = f"{disk}, {size / reading / 1e9:.2f} GB/s"
            ratio = f"{middle:.2f} ({low:.2f} to {high:.2f})"
            values = (f"{reading:.2f}", f"{retagged:.2f}", ratio, f"{floor:.2f}")
            table.append([precision, f"{size / options.rows:,.0f}", rate, *values])
        shutil.rmtree(place)
    return table


def indexing(options: argparse.Namespace, folder: Path) -> list[list[str]]:
    tagger = Tagger.load(assets.MINI)
    paths = [str(path) for path in photographs(options.photos)]
    preprocess = tagger.bundle.preprocessing
    pixels = [preprocess(open_image(path)) for path in paths]
    table = [["images/s, engine alone", "index", "share", "as index estimates it", "bottleneck"]]

    def alone() -> None:
        for batch in batches(pixels, 8):
            np.asarray(tagger.engine.encode(np.stack(batch)))

    found = []
    for turn in range(options.rounds + 1):
        engine = seconds(alone)
        archive = folder / f"archive-{turn}"
        report = index(tagger, paths, archive)
        stages = report.stages
        whole = stages.encoding + stages.decoding + stages.storing
        if turn:
            found.append((engine / whole, engine, whole, stages))
    share, engine, whole, stages = sorted(found, key=lambda one: one[0])[len(found) // 2]
    rates = (f"{len(paths) / engine:.0f}", f"{len(paths) / whole:.0f}")
    table.append(
        [*rates, f"{share:.0%}", f"{stages.shares['encoding']:.0%}", stages.bottleneck or ""]
    )
    return table


def losses(options: argparse.Namespace, folder: Path) -> list[list[str]]:
    tagger = Tagger.load(assets.MINI)
    paths = [str(path) for path in photographs(options.photos)]
    table = [["stored in", "bytes an image", "relative error", "of the five best tags kept"]]
    for precision in ("fp16", "int8"):
        archive = folder / precision
        loss = index(tagger, paths, archive, precision=precision).loss
        assert loss is not None
        assert loss.top5_agreement is not None
        size = sum(path.stat().st_size for path in archive.glob("part-*")) / len(paths)
        figures = (f"{loss.relative_error:.1e}", f"{loss.top5_agreement:.1%}")
        table.append([precision, f"{size:,.0f}", *figures])
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--dims", type=int, default=512)
    parser.add_argument("--labels", type=int, default=80)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cold", action="store_true")
    parser.add_argument("--photos")
    parser.add_argument("--into", type=Path, help="a document whose table is replaced")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if options.photos is None:
            title = f"retag, {options.rows:,} images, {options.labels} labels"
            show(title, retagging(options, Path(folder)), options.into)
        else:
            show("index, JPEG files", indexing(options, Path(folder)), options.into)
            show("loss of storing features", losses(options, Path(folder)), options.into)


if __name__ == "__main__":
    main()

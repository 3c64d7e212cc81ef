"""How many files a second are tagged from end to end, against the engine alone.

    python benchmarks/throughput.py [--engine build/qks] [--device auto] [--batch 8] [--images 32]
                                    [--seconds 60] [--write]

``files to tags`` is ``Tagger.tag_many`` of JPEG files; ``the engine alone`` has the same images as
pixels in memory and does the rest in the same batches; ``one by one`` is ``Tagger.tag`` in a loop, and
``ONNX Runtime, one by one`` the plain way to use an exported graph: a session, an image at a time.
All take turns. Where files to tags stays below 0.92 of the engine, the stage that costs most is named.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import peers
from inputs import photographs, random_vocabulary
from report import Report, add_write

from ovml_deploy import assets
from ovml_deploy.runtime.engine import Engine
from ovml_deploy.runtime.images import open_image
from ovml_deploy.runtime.results import select_tags
from ovml_deploy.runtime.tagger import Tagger
from ovml_deploy.runtime.threads import available_cpus
from ovml_deploy.runtime.turns import Turns, median, ratio, take_turns

_TARGET = 0.92
_LABELS = 80
_FILES, _ALONE = "files to tags", "the engine alone"


def measure(tagger: Tagger, paths: Sequence[Path], batch: int, seconds: float) -> Turns[str]:
    """Return seconds that all of ``paths`` take, by way."""
    bundle, vocabulary = tagger.bundle, tagger.vocabulary
    sources = [str(path) for path in paths]
    pixels = np.stack([bundle.preprocessing(open_image(path)) for path in sources])

    def alone() -> None:
        for start in range(0, len(pixels), batch):
            features = tagger.engine.encode(pixels[start : start + batch])
            logits, winners = tagger.engine.match(features, vocabulary)
            for row, won in zip(logits, winners, strict=True):
                select_tags(row, won, vocabulary, bundle.activation, 5, None)

    ways: dict[str, Callable[[], object]] = {
        _FILES: lambda: [*tagger.tag_many(sources, batch_size=batch)],
        _ALONE: alone,
        "one by one": lambda: [tagger.tag(source) for source in sources],
    }
    name, run = peers.onnxruntime_peer(bundle)
    ways[f"{name}, one by one"] = lambda: [
        run(bundle.preprocessing(open_image(source))[None], vocabulary.embeddings)
        for source in sources
    ]
    return take_turns(ways, seconds)


def stages(tagger: Tagger, paths: Sequence[Path]) -> dict[str, float]:
    """Return milliseconds of a CPU that each stage takes of one image."""
    taken: dict[str, list[float]] = {"read": [], "decode": [], "preprocess": [], "engine": []}
    for path in [*paths[:4], *paths]:
        clock = [(time.perf_counter(), time.process_time())]
        content = path.read_bytes()
        clock.append((time.perf_counter(), time.process_time()))
        image = open_image(content)
        clock.append((time.perf_counter(), time.process_time()))
        pixels = tagger.bundle.preprocessing(image)
        clock.append((time.perf_counter(), time.process_time()))
        tagger.engine.encode(pixels[None])
        clock.append((time.perf_counter(), time.process_time()))
        for times, (_, before), (_, after) in zip(taken.values(), clock, clock[1:], strict=False):
            times.append(after - before)
    return {name: 1e3 * float(np.mean(times[4:])) for name, times in taken.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engine", default=str(assets.MINI))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--photos", default="../shared/photos")
    parser.add_argument("--seconds", type=float, default=60.0)
    add_write(parser)
    given = parser.parse_args()
    engine = Engine.open(given.engine, given.device)
    tagger = Tagger.of(engine, random_vocabulary(engine.bundle, _LABELS))
    report = Report(f"Throughput, {engine.bundle.path.name}", engine)
    paths = photographs(given.photos)[: given.images]
    turns = measure(tagger, paths, given.batch, given.seconds)
    rows = [["", "images/s", "of the engine alone"]]
    for name, taken in turns.items():
        shares = "{:.2f} ({:.2f} to {:.2f})".format(*ratio(turns[_ALONE], taken))
        rows.append([name, f"{len(paths) / median(taken):.1f}", "" if name == _ALONE else shares])
    report.table(f"{len(paths)} JPEG files, {_LABELS} labels, batches of {given.batch}", rows)
    share = ratio(turns[_ALONE], turns[_FILES])[0]
    rate = f"{len(paths) / median(turns[_FILES]):.1f} images/s"
    report.headline("files to tags", rate, f"{share:.2f} of the engine alone")
    if share < _TARGET:
        cost = stages(tagger, paths)
        most = max((name for name in cost if name != "engine"), key=cost.__getitem__)
        each = ", ".join(f"{name} {value:.1f}" for name, value in cost.items())
        report.say(
            f"Beside the engine, {most} costs most. CPU ms an image, of {available_cpus()} CPUs "
            f"that the engine uses, too: {each}."
        )
    report.write(given.write)


if __name__ == "__main__":
    main()

"""How long an image takes, by stage, batch and number of labels, beside peers and a floor.

    python benchmarks/latency.py [--engine build/qks] [--device auto] [--batch 1,8] [--labels 80,20000]
                                 [--ckpt qks.pt] [--compiled] [--seconds 10]
                                 [--write] [--json F] [--plot F]

Without arguments it takes the embedded model. ``--ckpt``: the checkpoint that the bundle was exported
from, to run it in PyTorch, too; ``--compiled`` adds ``torch.compile``. Peers have the same weights,
pixels and labels, and take turns of four calls with ours; the first call of a turn and the first turn
do not count. ``x ours`` is the median over turns of a peer's time by ours, with quartiles. The floor is
what the encoder's products take at the rate of large ones measured here, or the reading of its
weights, if that is longer. Stages are one image's, from a JPEG file, on one thread but for the engine.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import peers
from inputs import photographs, random_vocabulary
from report import Report, add_write

from ovml_deploy import assets
from ovml_deploy.runtime.bundle import ENCODER
from ovml_deploy.runtime.engine import Engine
from ovml_deploy.runtime.images import open_image
from ovml_deploy.runtime.results import select_tags
from ovml_deploy.runtime.selfcheck import relative_error
from ovml_deploy.runtime.turns import Turns, median, quantiles, ratio, take_turns
from ovml_deploy.runtime.vocabulary import Vocabulary

_OURS = "ovml-deploy"
_STAGES = ("read", "decode", "preprocess", "encode", "match", "top 5")


def measure_stages(
    engine: Engine, vocabulary: Vocabulary, paths: Sequence[Path], seconds: float
) -> dict[str, list[float]]:
    """Return each stage's seconds of image after image; the first ten warm up."""
    found: dict[str, list[float]] = {stage: [] for stage in _STAGES}
    end = time.perf_counter() + seconds
    number = 0
    while time.perf_counter() < end or number < 20:
        marks = [time.perf_counter()]

        def mark(value: Any, marks: list[float] = marks) -> Any:
            marks.append(time.perf_counter())
            return value

        content = mark(paths[number % len(paths)].read_bytes())
        image = mark(open_image(content))
        pixels = mark(engine.bundle.preprocessing(image))
        features = mark(engine.encode(pixels[None]))
        logits, winners = mark(engine.match(features, vocabulary))
        mark(select_tags(logits[0], winners[0], vocabulary, engine.bundle.activation, 5, None))
        if number >= 10:
            for stage, taken in zip(_STAGES, np.diff(marks), strict=True):
                found[stage].append(float(taken))
        number += 1
    return found


def measure_batch(
    engine: Engine,
    others: Sequence[tuple[str, peers.Peer]],
    pixels: np.ndarray,
    vocabulary: Vocabulary,
    seconds: float,
) -> tuple[Turns[str], dict[str, float]]:
    """Return each one's turns, and how far its logits are from ours, relatively."""
    embeddings = vocabulary.embeddings.copy()  # PyTorch warns of arrays that cannot be written
    ours, _ = engine.match(engine.encode(pixels), vocabulary)
    off = {name: relative_error(run(pixels, embeddings), ours) for name, run in others}
    ways: dict[str, Callable[[], object]]
    ways = {_OURS: lambda: engine.match(engine.encode(pixels), vocabulary)}
    for name, run in others:
        ways[name] = partial(run, pixels, embeddings)
    return take_turns(ways, seconds * len(ways)), off


def plot(path: Path, batches: Sequence[dict[str, Any]]) -> None:
    """Draw images a second of everybody, by batch."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 4), layout="constrained")
    names = list(batches[0]["runs"])
    for offset, name in enumerate(names):
        rates = [row["runs"][name]["images_a_second"] for row in batches]
        places = np.arange(len(batches)) + offset * 0.8 / len(names)
        axes.bar(places, rates, 0.8 / len(names), label=name)
    ticks = [f"batch {row['batch']}, {row['labels']:,} labels" for row in batches]
    axes.set_xticks(np.arange(len(batches)) + 0.4, ticks)
    axes.set_ylabel("images a second")
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engine", default=str(assets.MINI))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--batch", default="1,8")
    parser.add_argument("--labels", default="80")
    parser.add_argument("--ckpt", type=Path)
    parser.add_argument("--compiled", action="store_true")
    parser.add_argument("--photos", default="../shared/photos")
    parser.add_argument("--seconds", type=float, default=10.0, help="for each that is measured")
    add_write(parser)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    given = parser.parse_args()
    engine = Engine.open(given.engine, given.device, given.precision)
    report = Report(f"Latency, {engine.bundle.path.name}", engine)
    found: dict[str, Any] = {"environment": report.environment, "stages": [], "batches": []}
    others = [*peers.exported(engine.bundle)]
    if given.ckpt is not None:
        others += peers.in_torch(given.ckpt, given.compiled)
    sizes = [int(part) for part in given.batch.split(",")]
    vocabularies = [random_vocabulary(engine.bundle, int(n)) for n in given.labels.split(",")]
    for words in vocabularies:
        found["stages"].append(_report_stages(engine, words, given, report))
    for words in vocabularies:
        for size in sizes:
            cell = _report_batch(engine, others, words, size, given.seconds, report)
            found["batches"].append(cell)
    report.write(given.write)
    if given.json is not None:
        given.json.write_text(json.dumps(found, indent=1))
    if given.plot is not None:
        plot(given.plot, found["batches"])


def _report_stages(
    engine: Engine, words: Vocabulary, given: argparse.Namespace, report: Report
) -> dict[str, Any]:
    found = measure_stages(engine, words, photographs(given.photos), given.seconds)
    rows = [["stage", "p50 ms", "p90 ms", "p99 ms", "share"]]
    whole = sum(np.median(taken) for taken in found.values())
    for stage, taken in found.items():
        levels = [f"{1e3 * q:.2f}" for q in np.quantile(taken, (0.5, 0.9, 0.99))]
        rows.append([stage, *levels, f"{np.median(taken) / whole:.0%}"])
    totals = np.sum([*found.values()], axis=0)
    rows.append(["all", *(f"{1e3 * q:.2f}" for q in np.quantile(totals, (0.5, 0.9, 0.99))), ""])
    report.table(f"one image from its file, {len(words):,} labels", rows)
    return {"labels": len(words), "seconds": found}


def _floor(engine: Engine, shape: tuple[int, ...]) -> Any:
    """Return the encoder's floor by OpenVINO's rate of products; None where another engine runs."""
    if engine.backend.device != "openvino":
        return None
    from floor import floor

    return floor(engine.bundle.file(ENCODER), shape, engine.backend.precision)


def _report_batch(
    engine: Engine,
    others: Sequence[tuple[str, peers.Peer]],
    words: Vocabulary,
    size: int,
    seconds: float,
    report: Report,
) -> dict[str, Any]:
    shape = (size, *engine.bundle.preprocessing.size, 3)
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    before = _floor(engine, shape)
    turns, off = measure_batch(engine, others, pixels, words, seconds)
    rows = [["", "p50 / p90 / p99 ms", "images/s", "x ours", "logits off ours by"]]
    runs: dict[str, dict[str, Any]] = {}
    for name, taken in turns.items():
        levels = [1e3 * q for q in quantiles(taken, 0.5, 0.9, 0.99)]
        times = ratio(taken, turns[_OURS])
        rate = size / median(taken)
        rows.append(
            [
                f"{name}, {engine.backend.description}" if name == _OURS else name,
                " / ".join(f"{level:.1f}" for level in levels),
                f"{rate:.1f}",
                "" if name == _OURS else "{:.2f} ({:.2f} to {:.2f})".format(*times),
                f"{off[name]:.0e}" if name in off else "",
            ]
        )
        runs[name] = {"turns": taken, "images_a_second": rate, "times_ours": times}
    answer: dict[str, Any] = {"batch": size, "labels": len(words), "runs": runs}
    if before is not None and (after := _floor(engine, shape)) is not None:
        least = min(before, after, key=lambda floor: floor.seconds)
        over = median(turns[_OURS]) / least.seconds
        text = f"{least.flops / size / 1e9:.1f} GFLOP an image at {least.rate / 1e9:.0f} GFLOP/s"
        rows.append([f"floor: {text}", f"{1e3 * least.seconds:.1f}", "", f"1/{over:.2f}", ""])
        answer["floor"] = {**vars(least), "seconds": least.seconds, "ours_over_it": over}
    report.table(f"batch {size}, {len(words):,} labels: pixels to logits", rows)
    slower = (f"{name} {run['times_ours'][0]:.2f}x" for name, run in runs.items() if name != _OURS)
    middle = f"{1e3 * median(turns[_OURS]):.1f} ms"
    report.headline(f"latency, batch {size}, {len(words):,} labels", middle, "; ".join(slower))
    return answer


if __name__ == "__main__":
    main()

"""What vocabularies cost: to build, to swap while others are tagging, and to match, up to a million.

    python benchmarks/vocabulary.py [--engine build/qks] [--device auto] [--what build,swap,match]
                                    [--labels 10,1000,20000,1000000] [--seconds 20] [--write]

``build``: label embeddings at the prompts' own length, against all at the length of the tower's
context (77), from the same graph, in turns. ``swap``: one image after the other is
tagged while another thread swaps between two vocabularies of 20,000 labels once a second, in turns with
no swaps: those that somebody holds, as the server does, and those that are made anew from the cache of
label embeddings. ``match``: one image's features to its ten best labels, against reading the label
matrix once at the rate of copying memory.
"""

import argparse
import itertools
import os
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
from floor import copy_rate
from inputs import random_vocabulary
from report import Report, add_write
from tokenizers import Tokenizer

from ovml_deploy import assets
from ovml_deploy.runtime.bundle import TOKENIZER
from ovml_deploy.runtime.engine import Engine
from ovml_deploy.runtime.label_cache import LabelCache
from ovml_deploy.runtime.prompt_tokenizer import PromptTokenizer
from ovml_deploy.runtime.results import select_tags
from ovml_deploy.runtime.selfcheck import relative_error
from ovml_deploy.runtime.tagger import Tagger, VocabularySource
from ovml_deploy.runtime.text_encoder import TextEncoder
from ovml_deploy.runtime.turns import median, quantiles, ratio, take_turns
from ovml_deploy.runtime.vocabulary import Vocabulary
from ovml_deploy.templates import fill

_PROMPTS = 64  # encoded a call, or those of one label
_SWAPPED = 20_000
_PAUSE = 1.0  # seconds between swaps
_TOP = 10
_TURN = 5.0  # seconds of tagging
_NAMES = ("one", "other")


def measure_build(engine: Engine, report: Report, seconds: float) -> None:
    bundle = engine.bundle
    count = max(1, _PROMPTS // len(bundle.templates))
    labels = [f"item number {index}" for index in range(count)]
    if not bundle.text.any_length:
        report.say("This tower takes prompts of one length only: nothing to compare.")
        return
    own, full = engine.text_encoder, TextEncoder(bundle, engine.backend)
    padding = replace(bundle.text, any_length=False)
    full.tokenizer = PromptTokenizer(Tokenizer.from_file(str(bundle.file(TOKENIZER))), padding)
    prompts = [fill(template, label) for label in labels for template in bundle.templates]
    off = relative_error(own.features(prompts), full.features(prompts))
    ways = {
        "own length": lambda: own.features(prompts),
        "full length": lambda: full.features(prompts),
    }
    turns = take_turns(ways, seconds)
    rows = [["prompts", "labels/s", "x own length", "features differ by"]]
    for name, taken in turns.items():
        times = "{:.2f} ({:.2f} to {:.2f})".format(*ratio(taken, turns["own length"]))
        differ = f"{off:.0e}" if name == "full length" else ""
        rows.append([name, f"{count / median(taken):.1f}", times, differ])
    report.table(f"label embeddings, {len(bundle.templates)} prompts a label", rows)
    slower = ratio(turns["full length"], turns["own length"])[0]
    rate = f"{count / median(turns['own length']):.1f} labels/s"
    report.headline("label embeddings", rate, f"at the context's length {slower:.2f}x longer")


def measure_swap(engine: Engine, report: Report, seconds: float) -> None:
    words = {
        name: [f"{name} {index}" for index in range(_SWAPPED)] for name in _NAMES
    }  # in the cache below, for random embeddings cost what real ones do
    bundle = engine.bundle
    with tempfile.TemporaryDirectory() as folder:
        os.environ["OVML_CACHE"] = folder
        cache = LabelCache(bundle.text_hash, bundle.prompt_hash)
        rows = random_vocabulary(bundle, _SWAPPED).embeddings
        for labels in words.values():
            cache.put(dict(zip(labels, rows, strict=True)))
        tagger = Tagger.of(engine)
        held = [tagger.use_vocabulary(labels) for labels in words.values()]
        pixels = np.zeros((*bundle.preprocessing.size, 3), np.uint8)
        ways: dict[str, Sequence[VocabularySource]]
        ways = {"no swaps": (), "of those held": held, "made anew": [*words.values()]}
        taken: dict[str, list[list[float]]] = {name: [] for name in ways}
        took: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(max(2, round(seconds / _TURN))):
            for name, sources in ways.items():
                with _swapping(tagger, sources, took[name]):
                    taken[name].append(_tagging(tagger, pixels))
    table = [
        ["swaps", "a swap takes ms", "image p50 ms", "p99 ms", "slowest ms", "p99, x no swaps"]
    ]
    for name, turns in taken.items():
        levels = quantiles(turns, 0.5, 0.99, 1.0)
        times = levels[1] / quantiles(taken["no swaps"], 0.99)[0]
        swap = f"{1e3 * float(np.median(took[name])):.2f}" if took[name] else ""
        table.append([name, swap, *(f"{1e3 * level:.1f}" for level in levels), f"{times:.2f}"])
        if took[name]:
            report.headline(
                f"swap of {_SWAPPED:,} labels, {name}", f"{swap} ms", f"p99 of tagging {times:.2f}x"
            )
    report.table(f"an image, while {_SWAPPED:,} labels are swapped once a second", table)


def _tagging(tagger: Tagger, pixels: np.ndarray) -> list[float]:
    taken: list[float] = []
    end = time.perf_counter() + _TURN
    while (start := time.perf_counter()) < end:
        tagger.tag(pixels)
        taken.append(time.perf_counter() - start)
    return taken[1:]


@contextmanager
def _swapping(
    tagger: Tagger, sources: Sequence[VocabularySource], took: list[float]
) -> Iterator[None]:
    stop = threading.Event()

    def swap() -> None:
        for source in itertools.cycle(sources):
            if stop.wait(_PAUSE):
                return
            start = time.perf_counter()
            tagger.use_vocabulary(source)
            took.append(time.perf_counter() - start)

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def measure_match(engine: Engine, report: Report, sizes: Sequence[int], seconds: float) -> None:
    bundle = engine.bundle
    shape = (1, *bundle.preprocessing.size, 3)
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    features = engine.encode(pixels)
    rows = [
        ["labels", "prepared in ms", "match ms", f"top {_TOP} ms", "reading once ms", "x reading"]
    ]
    for size in sizes:
        vocabulary = random_vocabulary(bundle, size)
        start = time.perf_counter()
        engine.prepare(vocabulary)
        prepared = time.perf_counter() - start
        logits, winners = engine.match(features, vocabulary)

        def top(vocabulary: Vocabulary = vocabulary) -> object:
            return select_tags(logits[0], winners[0], vocabulary, bundle.activation, _TOP, None)  # noqa: B023

        def match(vocabulary: Vocabulary = vocabulary) -> object:
            return engine.match(features, vocabulary)

        turns = take_turns({"match": match, "top": top}, seconds)
        read = vocabulary.embeddings.nbytes / copy_rate()
        found = [median(turns[name]) for name in ("match", "top")]
        values = [f"{1e3 * value:.2f}" for value in (prepared, *found, read)]
        rows.append([f"{size:,}", *values, f"{sum(found) / read:.2f}"])
        figure, times = f"{1e3 * sum(found):.2f} ms", f"{sum(found) / read:.2f}x reading them once"
        report.headline(f"best {_TOP} of {size:,} labels", figure, times)
    report.table(f"one image, {bundle.manifest['dims']['features']} features", rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engine", default=str(assets.MINI))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--what", default="build,swap,match")
    parser.add_argument("--labels", default="10,1000,20000,1000000")
    parser.add_argument("--seconds", type=float, default=20.0, help="for each that is measured")
    add_write(parser)
    given = parser.parse_args()
    engine = Engine.open(given.engine, given.device)
    report = Report(f"Vocabularies, {engine.bundle.path.name}", engine)
    what = given.what.split(",")
    if "build" in what:
        measure_build(engine, report, given.seconds)
    if "swap" in what:
        measure_swap(engine, report, given.seconds)
    if "match" in what:
        sizes = [int(part) for part in given.labels.split(",")]
        measure_match(engine, report, sizes, given.seconds / len(sizes))
    report.write(given.write)


if __name__ == "__main__":
    main()

"""Which of this machine's devices and precisions is fastest, and how close each is to PyTorch.

    python benchmarks/backends.py [--engine build/qks] [--batch 1,8] [--labels 80] [--seconds 20]

Without ``--engine`` it exports CLIP ViT-B/16 + QKS (7 layers, 12 queries) with random weights to
build/bench once, which needs the 'export' extra (speed does not depend on the weights). Pixels to
scores: encoding and matching, no reading of files. All engines are loaded together and take turns
of four batches, so that a machine that slows down slows them all; the first of a turn does not
count, as the threads of the one before may still spin. Medians are shown. ``slower`` is against the
fastest. Errors are those of the golden inputs.
"""

import argparse
from functools import partial
from pathlib import Path

import numpy as np
from inputs import random_vocabulary
from tables import markdown

from ovml_deploy.errors import OvmlError
from ovml_deploy.runtime.backends import DEVICES, candidates, why_missing
from ovml_deploy.runtime.bundle import Bundle
from ovml_deploy.runtime.cpu import cpu_features, cpu_name
from ovml_deploy.runtime.engine import Engine
from ovml_deploy.runtime.plans import find_plans
from ovml_deploy.runtime.threads import available_cpus
from ovml_deploy.runtime.turns import median, take_turns
from ovml_deploy.runtime.vocabulary import Vocabulary

DEFAULT = Path("build/bench/vit-b16-qks")


def make_bundle(path: Path) -> Path:
    """Export the papers' model with random weights, unless that was done."""
    if path.is_dir():
        return path
    from fidelity import image_trained_models

    from export.onnx import export_bundle

    *_, (_, model) = image_trained_models()
    export_bundle(model, path)
    return path


def open_engines(bundle: Bundle) -> list[Engine]:
    """Load every device and precision that works here; print why others do not."""
    engines = []
    for device in DEVICES:
        if (reason := why_missing(device)) is not None:
            print(f"not here: {device}: {reason}")
    plans = [(str(plan.path), "auto") for plan in find_plans(bundle.path)[0]]
    for device, precision in [*candidates(graph=bundle.precision), *plans]:
        try:
            engines.append(Engine.open(bundle.path, device, precision))
        except OvmlError as error:
            print(f"refused: {error}")
    return engines


def _run(engine: Engine, pixels: np.ndarray, words: Vocabulary) -> object:
    return engine.match(engine.encode(pixels), words)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engine", type=Path)
    parser.add_argument("--batch", default="1,8")
    parser.add_argument("--labels", type=int, default=80)
    parser.add_argument("--seconds", type=float, default=20.0, help="for each batch size")
    options = parser.parse_args()
    bundle = Bundle.open(options.engine or make_bundle(DEFAULT))
    batches = [int(part) for part in options.batch.split(",")]
    print(f"{cpu_name()}, {', '.join(cpu_features())}; {available_cpus()} threads; {bundle.path}")
    engines = open_engines(bundle)
    words = random_vocabulary(bundle, options.labels)
    columns = []
    for batch in batches:
        size = (batch, *bundle.preprocessing.size, 3)
        pixels = np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)
        ways = {
            engine.backend.description: partial(_run, engine, pixels, words) for engine in engines
        }
        turns = take_turns(ways, options.seconds)
        columns.append([median(taken) / batch for taken in turns.values()])
    header = ["engine", "worst error"]
    for batch in batches:
        header += [f"batch {batch}, ms an image", "slower"]
    rows = [header]
    for i, engine in enumerate(engines):
        row = [engine.backend.description, f"{max(f.relative_error for f in engine.check()):.0e}"]
        for column in columns:
            row += [f"{1000 * column[i]:.1f}", f"{column[i] / min(column):.2f}x"]
        rows.append(row)
    print(markdown(rows))


if __name__ == "__main__":
    main()

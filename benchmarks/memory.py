"""How much memory a process holds that tags, against the weights in the precision that they are held in.

    python benchmarks/memory.py [--engine build/qks] [--device auto] [--batch 1,8] [--write]

Each row is a fresh process: resident memory (and its greatest) after loading, after tagging images in
batches of each size, and the private part of it, which no other process can share. The weights are
the encoder's and the matcher's; the text encoder is not loaded, for the vocabulary is given.
"""

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
from floor import work
from inputs import random_vocabulary
from report import Report, add_write

from ovml_deploy import assets
from ovml_deploy.runtime.bundle import ENCODER
from ovml_deploy.runtime.engine import Engine
from ovml_deploy.runtime.tagger import Tagger

_CALLS = 5
_LABELS = 80
_MB = 1 << 20
_BYTES = {"bf16": 2, "fp16": 2, "int8": 1}


def resident() -> dict[str, int]:
    """Return this process's bytes of memory: resident, its greatest so far, and private."""
    status = Path("/proc/self/status").read_text()
    private = re.findall(r"Private_\w+:\s+(\d+) kB", Path("/proc/self/smaps_rollup").read_text())
    now = dict(re.findall(r"(Vm\w+):\s+(\d+) kB", status))
    kilobytes = {
        "resident": now["VmRSS"],
        "greatest": now["VmHWM"],
        "private": sum(map(int, private)),
    }
    return {name: int(size) << 10 for name, size in kilobytes.items()}


def child(engine: str, device: str, batch: int) -> None:
    """Load, tag, and print what was held at each point."""
    held = {"imported": resident()}
    opened = Engine.open(engine, device)
    tagger = Tagger.of(opened, random_vocabulary(opened.bundle, _LABELS))
    held["loaded"] = resident()
    images = np.zeros((batch, *opened.bundle.preprocessing.size, 3), np.uint8)
    for _ in range(_CALLS):
        assert len([*tagger.tag_many([*images], batch_size=batch)]) == batch
    held["tagging"] = resident()
    print(json.dumps(held))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engine", default=str(assets.MINI))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--batch", default="1,8")
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    add_write(parser)
    given = parser.parse_args()
    if given.child is not None:
        child(given.engine, given.device, given.child)
        return
    engine = Engine.open(given.engine, given.device)
    report = Report(f"Memory, {engine.bundle.path.name}", engine)
    shape = (1, *engine.bundle.preprocessing.size, 3)
    count = work(engine.bundle.file(ENCODER), shape)[1]
    weights = count * _BYTES.get(engine.backend.precision, 4)
    rows = [["batch", "imported MB", "loaded MB", "tagging MB", "private MB", "greatest MB"]]
    rows[0] += ["tagging / weights", "less what was imported"]
    for batch in given.batch.split(","):
        command = [sys.executable, __file__, "--engine", given.engine, "--device", given.device]
        done = subprocess.run([*command, "--child", batch], capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(done.stderr)
        held = json.loads(done.stdout.splitlines()[-1])
        last, before = held["tagging"], held["imported"]["resident"]
        sizes = [before, held["loaded"]["resident"], last["resident"], last["private"]]
        sizes.append(last["greatest"])
        over = [last["resident"] / weights, (last["resident"] - before) / weights]
        rows.append(
            [batch, *(f"{size / _MB:.0f}" for size in sizes), *(f"{times:.2f}" for times in over)]
        )
        report.headline(
            f"memory, tagging in batches of {batch}",
            f"{last['resident'] / _MB:.0f} MB",
            f"{over[0]:.2f}x the weights in {engine.backend.precision}",
        )
    report.table(f"weights: {weights / _MB:.0f} MB, {engine.backend.precision}", rows)
    report.write(given.write)


if __name__ == "__main__":
    main()

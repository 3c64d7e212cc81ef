"""What 'tag_image' (C++) takes beside 'ovml-deploy tag' (Python), both on one device in fp32.

    python benchmarks/cpp.py [--tool build/cpp/tag_image] [--engine BUNDLE] [--device openvino|cpu]
        [--runs 7] [--write]

Both tag the sample photographs, once one of them and once 64 files, as processes taking turns. An image
more costs the difference of the two, over 63. New words are encoded, not read from a cache.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from report import Report, add_write

from ovml_deploy import assets
from ovml_deploy.runtime.turns import ratio

_FILES = 64
_WORDS = "cat,dog,car,coffee,rocket,temple,flower,clock"


@dataclass(frozen=True)
class Run:
    """Wall seconds, and the most memory the process held, in MB (10^6 bytes)."""

    seconds: float
    memory: float


def run(command: list[str]) -> Run:
    """Run a command to its end. Raises SystemExit where it fails."""
    with tempfile.TemporaryDirectory() as cache, tempfile.TemporaryFile() as said:
        environment = {**os.environ, "OVML_CACHE": cache}
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=said, stderr=said, env=environment)
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            said.seek(0)
            raise SystemExit(f"{command[0]} failed: {said.read().decode()}")
    return Run(seconds, used.ru_maxrss * 1024 / 1e6)


def copies(folder: Path) -> list[str]:
    """Fill a folder with files of different names, for the Python command tags no file twice."""
    photographs = assets.sample_photographs()
    return [
        str(shutil.copy(photographs[i % len(photographs)], folder / f"{i}.jpg"))
        for i in range(_FILES)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tool", default="build/cpp/tag_image")
    parser.add_argument("--engine", default=str(assets.MINI))
    parser.add_argument("--device", choices=("openvino", "cpu"), default="openvino")
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--document", type=Path, help="a document whose table is replaced, too")
    add_write(parser)
    given = parser.parse_args()
    folder = tempfile.TemporaryDirectory()
    many = copies(Path(folder.name))
    sides = {
        "C++": [given.tool, "--bundle", given.engine, "--device", given.device],
        "Python": [
            *(sys.executable, "-m", "ovml_deploy.cli", "tag", "--engine", given.engine),
            *("--device", given.device, "--precision", "fp32"),
        ],
    }
    jobs = {
        "one image": many[:1],
        "one image, 8 new words": [*many[:1], "--labels", _WORDS],
        f"{_FILES} images": many,
    }
    found: dict[tuple[str, str], list[Run]] = {(job, side): [] for job in jobs for side in sides}
    for turn in range(given.runs + 1):
        for job, arguments in jobs.items():
            for side, command in sides.items():
                done = run([*command, *arguments])
                if turn:  # the first reads the files from disk
                    found[job, side].append(done)
    report = Report("C++")
    rows = [["tagging, embedded model" if given.engine == str(assets.MINI) else given.engine]]
    rows[0] += ["C++", "Python", "Python / C++"]

    def add(what: str, of: dict[str, list[float]], unit: str) -> None:
        shown = [f"{statistics.median(of[side]):.0f} {unit}" for side in sides]
        middle, low, high = ratio([[v] for v in of["Python"]], [[v] for v in of["C++"]])
        rows.append([what, *shown, f"{middle:.2f} ({low:.2f} to {high:.2f})"])
        report.headline(what, shown[0], f"Python: {shown[1]}")

    for job in [*jobs][:2]:
        add(job, {side: [1000 * r.seconds for r in found[job, side]] for side in sides}, "ms")
    first, _, last = jobs
    each = {
        side: [
            1000 * (all_.seconds - one.seconds) / (_FILES - 1)
            for one, all_ in zip(found[first, side], found[last, side], strict=True)
        ]
        for side in sides
    }
    add("an image more", each, "ms")
    for job in (first, last):
        add(f"peak memory, {job}", {s: [r.memory for r in found[job, s]] for s in sides}, "MB")
    report.table("command", rows)
    if given.document is not None:
        from tables import show

        show("command", rows, given.document)
    report.write(given.write)


if __name__ == "__main__":
    main()

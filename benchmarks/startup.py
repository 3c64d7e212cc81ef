"""What starting costs: importing the package, and tagging one image from a cold process.

    python benchmarks/startup.py [--runs 11] [--write]

Prints medians over fresh processes, beside the floor: a Python that imports nothing, and one that
imports NumPy and ONNX Runtime, which every run must pay.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time

from report import Report, add_write

from ovml_deploy import assets

CASES = {
    "python -c pass (floor)": ["-c", "pass"],
    "import ovml_deploy": ["-c", "import ovml_deploy"],
    "import numpy, onnxruntime (floor)": ["-c", "import numpy, onnxruntime"],
    "ovml-deploy tag, one image": ["-m", "ovml_deploy.cli", "tag", "{photo}", "--top-k", "5"],
    "ovml-deploy tag, 3 new labels": [
        *("-m", "ovml_deploy.cli", "tag", "{photo}", "--labels", "cat,dog,car"),
    ],
}


def measure(arguments: list[str], runs: int) -> list[float]:
    """Return the wall time in milliseconds of each run of a fresh interpreter."""
    times = []
    for _ in range(runs + 1):
        with tempfile.TemporaryDirectory() as cache:
            start = time.perf_counter()
            subprocess.run(
                [sys.executable, *arguments],
                check=True,
                stdout=subprocess.DEVNULL,
                env={**os.environ, "OVML_CACHE": cache},
            )
            times.append((time.perf_counter() - start) * 1000)
    return times[1:]  # the first run reads the files from disk


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=11)
    add_write(parser)
    given = parser.parse_args()
    photo = str(assets.sample_photographs()[0])
    report = Report("Start-up")
    rows = [[f"medians of {given.runs} fresh processes", "ms", "slowest"]]
    for name, arguments in CASES.items():
        times = measure([part.format(photo=photo) for part in arguments], given.runs)
        rows.append([name, f"{statistics.median(times):.0f}", f"{max(times):.0f}"])
        report.headline(name, f"{rows[-1][1]} ms")
    report.table("cold processes", rows)
    report.write(given.write)


if __name__ == "__main__":
    main()

"""The short set: what matters most, of the embedded model, in one table and in less than ten minutes.

    make bench        (python benchmarks/bench.py [--runtime-python .venv/bin/python] [--write])

Runs the scripts below one after the other, each in a process of its own. ``--runtime-python``: of an
environment without the packages of development, where starting is measured.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from report import Report, add_write

_HERE = Path(__file__).parent
_STARTUP = ("startup.py", "--runs", "5")
_OTHERS = (
    ("latency.py", "--seconds", "5"),
    ("throughput.py", "--seconds", "25"),
    ("vocabulary.py", "--seconds", "30"),
    ("memory.py",),
    ("server.py", "--what", "speed", "--seconds", "9"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runtime-python", default=sys.executable)
    add_write(parser)
    given = parser.parse_args()
    report = Report("Summary")
    start = time.perf_counter()
    rows = [["what", "figure", "against"]]
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.write or Path(temporary)
        for python, (script, *options) in [
            (given.runtime_python, _STARTUP),
            *((sys.executable, other) for other in _OTHERS),
        ]:
            print(f"\n===== {script}", flush=True)
            begun = time.time()
            command = [python, str(_HERE / script), *options, "--write", str(folder)]
            subprocess.run(command, check=True)
            for written in sorted(folder.glob("*.json")):
                if written.stat().st_mtime >= begun:
                    rows += json.loads(written.read_text())["headlines"]
    print(f"\n===== all of it, in {(time.perf_counter() - start) / 60:.1f} minutes", flush=True)
    report.table("in short", rows)
    report.write(given.write)


if __name__ == "__main__":
    main()

"""Whether tagging a live source that is faster than the engine stays in time and within its memory.

    python benchmarks/soak.py [--engine BUNDLE] [--device auto] [--minutes 10] [--rate 60]
                              [--write] [--into FILE]

FFmpeg (Debian's) sends a moving test picture of 1280x720, ``--rate`` frames a second, as a camera's
stream over TCP; every frame is to be tagged, with the policy "latest-frame". In each of ten equal
stretches of time: frames sent, tagged and dropped, the time from when a frame was decoded until it
was tagged, and memory at the end of it.
"""

import argparse
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from memory import resident
from report import Report, add_write
from tables import show

from ovml_deploy import assets
from ovml_deploy.pipelines.video import FrameResult, Reading, VideoStream
from ovml_deploy.runtime.tagger import Tagger

_STRETCHES = 10
_SIZE = "1280x720"
_MB = 1 << 20
_COLUMNS = (
    "until, min",
    "decoded",
    "tagged",
    "dropped",
    "tagged/s",
    "p50 ms",
    "p99 ms",
    "worst ms",
)


@contextmanager
def camera(rate: int) -> Iterator[str]:
    """Yield the address of a stream. It is encoded beforehand, not to take the engine's cores."""
    ffmpeg = ["ffmpeg", "-loglevel", "error", "-nostdin"]
    with tempfile.TemporaryDirectory() as folder, socket.socket() as found:
        film = str(Path(folder) / "camera.ts")
        picture = f"testsrc2=rate={rate}:size={_SIZE}:duration=10"
        coded = ["-c:v", "libx264", "-preset", "veryfast", "-g", str(rate), "-bf", "0"]
        subprocess.run([*ffmpeg, "-f", "lavfi", "-i", picture, *coded, film], check=True)
        found.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{found.getsockname()[1]}"
        found.close()
        sent = ["-re", "-stream_loop", "-1", "-i", film, "-c", "copy", "-f", "mpegts"]
        sender = subprocess.Popen([*ffmpeg, *sent, f"{address}?listen=1"])
        time.sleep(1)  # it listens then
        try:
            yield address
        finally:
            sender.kill()
            sender.wait()


def watch(run: VideoStream, seconds: float) -> list[list[str]]:
    """Follow a run for some time and return a row for each stretch of it."""
    counts, rows = run.counts, list[list[str]]()
    begun = last = time.monotonic()
    before, latencies = (0, 0, 0), []
    for record in run:
        if not isinstance(record, FrameResult):
            continue
        latencies.append(1e3 * record.latency)
        now = time.monotonic()
        if now < begun + (len(rows) + 1) * seconds / _STRETCHES:
            continue
        so_far = (counts.decoded, counts.tagged, counts.dropped)
        added = [after - earlier for after, earlier in zip(so_far, before, strict=True)]
        held = resident()
        figures = (*np.quantile(latencies, (0.5, 0.99)), max(latencies))
        rows.append(
            [
                f"{(now - begun) / 60:.1f}",
                *map(str, added),
                f"{added[1] / (now - last):.1f}",
                *(f"{figure:.0f}" for figure in figures),
                f"{held['resident'] / _MB:.0f}",
            ]
        )
        before, last, latencies = so_far, now, []
        if len(rows) == _STRETCHES:
            run.stop()
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engine", default=str(assets.MINI))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--rate", type=int, default=60)
    parser.add_argument("--into", type=Path, help="a document whose table is replaced")
    add_write(parser)
    given = parser.parse_args()
    tagger = Tagger.load(given.engine, given.device)
    report = Report(f"Soak, {tagger.bundle.path.name}", tagger.engine)
    with camera(given.rate) as address:
        run = VideoStream(tagger, address, reading=Reading(fps=None))
        rows = watch(run, 60 * given.minutes)
    table = [[*_COLUMNS, "resident MB"], *rows]
    report.table(f"{given.rate} frames a second of {_SIZE}, latest-frame", table)
    if given.into is not None:
        show("soak", table, given.into)
    counts = run.counts
    shares = f"{counts.tagged} tagged, {counts.dropped} dropped of {counts.sampled}"
    growth = float(rows[-1][-1]) / float(rows[len(rows) // 2 - 1][-1]) - 1
    report.say(f"{shares}; {counts.damaged} damaged, {counts.reconnects} reconnects.")
    report.say(f"Memory over the last half: {growth:+.1%}.")
    report.headline("live video, frame to tag p99", f"{rows[-1][6]} ms", f"memory {growth:+.1%}")
    report.write(given.write)


if __name__ == "__main__":
    main()

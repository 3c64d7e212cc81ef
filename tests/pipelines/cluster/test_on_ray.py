"""Both jobs on a real Ray: two workers, one of which is killed; the result is that of one machine."""

import os
import re
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from archive_files import content, make_images, make_tar

from ovml_deploy.errors import OvmlError, UsageError
from ovml_deploy.pipelines import cluster as distributed
from ovml_deploy.pipelines.archives import Archive, TagBlock, index, write_tags
from ovml_deploy.pipelines.cluster import Cluster
from ovml_deploy.runtime.tagger import Tagger

IMAGES, ROWS = 480, 40
BROKEN = {3, 80, 81, 199, 333}
WORDS = ("cat", "dog", "red car", "tree", "boat", "lamp")
ONE, TWO = Cluster(workers=1), Cluster(workers=2)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A folder with broken images and a copy, and a tar with another copy."""
    folder = tmp_path_factory.mktemp("sources")
    paths = make_images(folder / "photos", IMAGES, BROKEN)
    paths[0].with_name("0200b.png").write_bytes(paths[7].read_bytes())
    members = [("a.png", paths[9].read_bytes()), ("b.png", b"no image")]
    return [str(paths[0].parent), str(make_tar(folder / "few.tar", members))]


@pytest.fixture(scope="module")
def tagger(tiny_bundle: Path) -> Tagger:
    return Tagger.load(tiny_bundle)


@pytest.fixture(scope="module")
def whole(sources: list[str], tagger: Tagger, tmp_path_factory) -> Path:
    """The archive that one machine makes."""
    out = tmp_path_factory.mktemp("whole") / "archive"
    report = index(tagger, sources, out, shard_rows=ROWS)
    assert (report.added, report.copies, report.failed) == (IMAGES - 5, 2, 6)
    return out


def workers(kind: str) -> list[int]:
    """The processes of Ray's workers of a kind that this process has started, by way of Ray."""
    parents, titles = {}, {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            status = (entry / "stat").read_text()
            titles[int(entry.name)] = (entry / "cmdline").read_bytes().decode(errors="replace")
        except OSError:  # it has ended
            continue
        parents[int(entry.name)] = int(status.rpartition(")")[2].split()[1])
    found = []
    for process, title in titles.items():
        ancestor: int | None = process
        while ancestor is not None and ancestor != os.getpid():
            ancestor = parents.get(ancestor)
        if ancestor is not None and re.match(rf"ray::{kind}\b", title):
            found.append(process)
    return found


@contextmanager
def one_killed(kind: str, when: Callable[[], bool]) -> Iterator[list[int]]:
    """Kill (-9) a worker of a kind, once, as soon as that holds; yields the list with its process."""
    killed: list[int] = []
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.002):
            if when() and (found := workers(kind)):
                os.kill(found[0], signal.SIGKILL)
                killed.append(found[0])
                return

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield killed
    finally:
        over.set()
        thread.join()


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)


def test_both_jobs_with_a_worker_killed(
    started_ray: Any,
    sources: list[str],
    whole: Path,
    tiny_bundle: Path,
    tagger: Tagger,
    tmp_path,
) -> None:
    """One test, for tests may run in several processes, and each would start Ray."""
    _index_is_the_same(sources, whole, tiny_bundle, tmp_path)
    _index_goes_on(sources, whole, tiny_bundle, tmp_path)
    _retag_is_the_same(whole, tagger, tmp_path)
    _workers_errors_come_here(sources, whole, tiny_bundle, tagger, tmp_path)


def _index_is_the_same(sources: list[str], whole: Path, engine: Path, tmp_path: Path) -> None:
    out, failed, devices = tmp_path / "archive", [], []
    first = out / "part-00000.parquet"
    seen: list[int] = []

    def progress(done: int, bad: int) -> None:
        """Wait for the kill, so that there is work left to lose."""
        if first.exists() and not seen:
            wait_for(lambda: bool(killed))
            seen.append(done)

    with one_killed("Worker", first.exists) as killed:
        report = distributed.index(
            TWO,
            engine,
            sources,
            out,
            shard_rows=ROWS,
            progress=progress,
            on_failure=lambda name, reason: failed.append(name),
            on_device=devices.append,
        )
    assert killed
    assert seen[0] < IMAGES - 100
    assert content(out) == content(whole)
    assert (report.added, report.copies, report.failed) == (IMAGES - 5, 2, 6)
    assert len(failed) == 6
    assert len(devices) == 1


def _index_goes_on(sources: list[str], whole: Path, engine: Path, tmp_path: Path) -> None:
    """After the end of the one that ordered it, with another number of workers."""
    out = tmp_path / "interrupted"

    def progress(done: int, failed: int) -> None:
        if (out / "part-00001.parquet").exists():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        distributed.index(ONE, engine, sources, out, shard_rows=ROWS, progress=progress)
    left = Archive.open(out).images
    assert 2 * ROWS - 2 <= left < IMAGES - 5
    report = distributed.index(ONE, engine, sources, out, shard_rows=ROWS)
    assert report.skipped >= left
    assert content(out) == content(whole)


def _retag_is_the_same(whole: Path, tagger: Tagger, tmp_path: Path) -> None:
    """On an archive large enough for a worker to be met at work: its parts many times over."""
    many = Path(shutil.copytree(whole, tmp_path / "many"))
    parts = Archive.open(whole).groups
    for number in range(parts, 1200):
        os.link(many / f"part-{number % parts:05d}.parquet", many / f"part-{number:05d}.parquet")
    here, there = tmp_path / "here.parquet", tmp_path / "there.parquet"
    rows = write_tags(Archive.open(many).retag_blocks(tagger, WORDS, 3), here)
    came = threading.Event()

    def slowly() -> Iterator[TagBlock]:
        """Wait for the kill, so that there is work left to lose."""
        for block in distributed.retag_blocks(TWO, many, tagger, WORDS, 3):
            if not came.is_set():
                came.set()
                wait_for(lambda: bool(killed))
            yield block

    with one_killed("MapWorker", came.is_set) as killed:
        assert write_tags(slowly(), there) == rows
    assert killed
    assert there.read_bytes() == here.read_bytes()


def _workers_errors_come_here(
    sources: list[str], whole: Path, engine: Path, tagger: Tagger, tmp_path: Path
) -> None:
    with pytest.raises(OvmlError, match="abacus") as wrong:
        distributed.index(ONE, engine, sources, tmp_path / "none", device="abacus")
    assert not (tmp_path / "none").exists()
    with pytest.raises(type(wrong.value), match="abacus"):
        [*distributed.retag_blocks(ONE, whole, tagger, WORDS, device="abacus")]


def test_senseless_clusters_are_refused() -> None:
    for options in ({"workers": 0}, {"cpus": -1.0}, {"gpus": float("nan")}):
        with pytest.raises(UsageError):
            Cluster(**options)

"""What is read from real files and live sources, damaged, turned, cut off, and of any program."""

import socket
import threading
from contextlib import suppress
from pathlib import Path
from threading import Event as Signal

import numpy as np
import pytest
from films import damage, film, free_port, photograph, write_film

from ovml_deploy.errors import UsageError
from ovml_deploy.pipelines.video.records import Counts, VideoError
from ovml_deploy.pipelines.video.sampling import Reading, Sampler
from ovml_deploy.pipelines.video.sources import ArraySource, Frame, Source

ALL = Reading(fps=None)


def read(source: Source | ArraySource, counts: Counts | None = None) -> list[Frame]:
    return list(source.frames(counts or Counts(), Signal()))


def moving(count: int) -> list[np.ndarray]:
    """Frames that all differ."""
    base = photograph("cat")
    return [np.roll(base, 2 * index, 1) for index in range(count)]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_film(tmp_path_factory.mktemp("clip") / "clip.mp4", moving(60))


def test_frames_and_times_are_those_of_pyav(clip: Path) -> None:
    import av

    with av.open(str(clip)) as container:
        wanted = [(f.time, f.to_ndarray(format="rgb24")) for f in container.decode(video=0)]
    source = Source(clip, ALL)
    found = read(source)
    assert [frame.time for frame in found] == pytest.approx([time for time, _ in wanted])
    assert all(np.array_equal(a.rgb(), b) for a, (_, b) in zip(found, wanted, strict=True))
    assert source.end == pytest.approx(60 / 25)


@pytest.mark.parametrize("fps", [1.0, 2.0, 7.0, 25.0, 60.0])
def test_sampling_takes_the_first_frame_of_each_slot(clip: Path, fps: float) -> None:
    counts = Counts()
    times = [frame.time for frame in read(Source(clip, Reading(fps=fps)), counts)]
    slots = [int((time + 1e-6) * fps) for time in times]
    assert slots == sorted(set(slots))
    if fps <= 25:
        assert slots == list(range(int(60 / 25 * fps - 1e-6) + 1))
        assert all(time - slot / fps <= 1 / 25 for time, slot in zip(times, slots, strict=True))
    assert (counts.decoded, counts.sampled) == (60, len(times))


def test_a_sampler_does_not_drift() -> None:
    sampler = Sampler(2.0)
    taken = [i for i in range(30 * 3600) if sampler.takes(i / 29.97)]
    assert len(taken) == pytest.approx(2 * 30 * 3600 / 29.97, abs=1)


def test_only_key_frames_are_decoded(clip: Path) -> None:
    counts = Counts()
    times = [f.time for f in read(Source(clip, Reading(fps=None, key_frames=True)), counts)]
    assert times == [0, 1, 2]
    assert counts.decoded == 3


def test_a_turned_film_is_turned_back(tmp_path: Path) -> None:
    upper = np.full((48, 80, 3), 250, np.uint8)
    upper[24:] = 5
    (frame, *_) = read(Source(write_film(tmp_path / "t.mp4", [upper] * 3, quarters=1), ALL))
    pixels = frame.rgb()
    assert pixels.shape == (80, 48, 3)
    assert pixels[40, 4].min() > 200  # what was above is on the left: a turn counterclockwise
    assert pixels[40, -4].max() < 60


@pytest.mark.parametrize(
    ("ending", "codec"),
    [("mp4", "libx264"), ("mkv", "libx264"), ("ts", "libx264"), ("ts", "mpeg2video")],
)
def test_a_damaged_stretch_costs_only_that_stretch(tmp_path: Path, ending: str, codec: str) -> None:
    """Bytes in the middle overwritten: all other frames are there, and not one shows damage."""
    path = write_film(tmp_path / f"whole.{ending}", moving(200), codec=codec)
    whole = {round(frame.time, 2): frame.rgb() for frame in read(Source(path, ALL))}
    hurt = damage(path, tmp_path / f"hurt.{ending}")
    counts = Counts()
    found = read(Source(hurt, ALL), counts)
    missing = sorted(set(whole) - {round(frame.time, 2) for frame in found})
    assert missing
    assert counts.damaged > 0
    # the stretch, the frames that show nothing right until the next key frame, a second at most
    # here each, and for the container to be found again
    assert missing[-1] - missing[0] <= 8 / 25 + 3
    assert len(found) >= len(whole) - 80
    assert found[-1].time == pytest.approx(max(whole))
    for frame in found:
        assert np.array_equal(frame.rgb(), whole[round(frame.time, 2)])


def test_a_file_cut_off_gives_what_is_there(tmp_path: Path) -> None:
    path = write_film(tmp_path / "whole.mkv", moving(100))
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert 30 < len(read(Source(cut, ALL))) < 80


def test_what_is_no_video_is_told(tmp_path: Path, clip: Path) -> None:
    with pytest.raises(VideoError, match="no such file"):
        Source(tmp_path / "absent.mp4", ALL)
    with pytest.raises(VideoError, match="is a folder"):
        Source(tmp_path, ALL)
    with pytest.raises(UsageError, match="camera:0"):
        Source("camera:front", ALL)
    text = tmp_path / "text.mp4"
    text.write_text("no film")
    with pytest.raises(VideoError, match="cannot be opened as a video"):
        read(Source(text, ALL))
    headless = tmp_path / "headless.mp4"
    headless.write_bytes(clip.read_bytes()[:3000])
    with pytest.raises(VideoError, match="cannot be"):
        read(Source(headless, ALL))


def test_frames_too_large_are_refused_before_they_are_decoded(clip: Path) -> None:
    counts = Counts()
    with pytest.raises(VideoError, match=r"320x240; at most 1,000 pixels"):
        read(Source(clip, Reading(max_pixels=1000)), counts)
    assert counts.decoded == 0
    with pytest.raises(VideoError, match="at most 1,000 pixels"):
        read(ArraySource([np.zeros((50, 50, 3), np.uint8)], "rgb", 1.0, Reading(max_pixels=1000)))


def test_arrays_are_copied_and_their_channels_said() -> None:
    memory = np.zeros((4, 5, 3), np.uint8)

    def reused():
        for value in (10, 20):
            memory[...] = (value, 0, 1)
            yield memory

    blue = read(ArraySource(reused(), "bgr", 2.0, ALL))
    assert [tuple(frame.rgb()[0, 0]) for frame in blue] == [(1, 0, 10), (1, 0, 20)]
    assert [frame.time for frame in blue] == [0, 0.5]
    red = read(ArraySource([(7.5, memory)], "rgb", None, ALL))
    assert (red[0].time, tuple(red[0].rgb()[0, 0])) == (7.5, (20, 0, 1))
    for channels in (None, "rgba"):
        with pytest.raises(UsageError, match="say 'rgb' or 'bgr'"):
            ArraySource([memory], channels, 1.0, ALL)
    for wrong in (
        np.zeros((4, 5), np.uint8),
        np.zeros((4, 5, 3)),
        np.zeros((4, 5, 4), np.uint8),
        "x",
    ):
        with pytest.raises(VideoError, match="A frame is an array"):
            read(ArraySource([wrong], "rgb", 1.0, ALL))


class Camera:
    """Sends a film to whoever connects: a part of it, and then it hangs up or hangs."""

    def __init__(self, content: bytes, hangs: bool) -> None:
        self.port = free_port()
        self.visits = 0
        self._content, self._hangs, self._over = content, hangs, Signal()
        self._listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while not self._over.is_set():
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.visits += 1
            threading.Thread(target=self._send, args=[client], daemon=True).start()

    def _send(self, client: socket.socket) -> None:
        with client, suppress(OSError):
            client.sendall(self._content[: int(len(self._content) * 0.7)])
            if self._hangs:
                self._over.wait()

    def close(self) -> None:
        self._over.set()
        self._listener.close()


@pytest.mark.parametrize("hangs", [False, True])
def test_a_live_source_that_goes_away_is_opened_anew(tmp_path: Path, hangs: bool) -> None:
    content = write_film(tmp_path / "camera.ts", moving(100)).read_bytes()
    camera, stop, counts = Camera(content, hangs), Signal(), Counts()
    reading = Reading(fps=None, timeout=1.0, backoff=(0.05, 0.1))
    times = []
    try:
        source = Source(f"tcp://127.0.0.1:{camera.port}", reading)
        assert (source.live, source.policy) == (True, "latest-frame")
        for frame in source.frames(counts, stop):
            times.append(frame.time)
            if counts.reconnects == (1 if hangs else 3):
                stop.set()
    finally:
        camera.close()
    assert camera.visits == counts.reconnects + 1
    assert len(times) > 50
    assert times[-1] > times[0]  # time goes on, though the stamps began anew


def test_a_live_source_that_never_was_there_is_told() -> None:
    with pytest.raises(VideoError, match="cannot be opened"):
        read(Source(f"tcp://127.0.0.1:{free_port()}", ALL))


def test_settings_that_make_no_sense_are_refused() -> None:
    for wrong in (
        {"fps": 0}, {"fps": float("nan")}, {"policy": "all"}, {"max_pixels": 0}, {"batch_size": 0},
        {"timeout": 0}, {"backoff": (2, 1)},
    ):  # fmt: skip
        with pytest.raises(UsageError):
            Reading(**wrong)


def test_a_film_read_in_real_time_takes_its_time(tmp_path: Path) -> None:
    import time

    path = film(tmp_path / "f.mp4", [(None, 1.0)], rate=10)
    begin = time.monotonic()
    read(Source(path, Reading(fps=None, realtime=True)))
    assert time.monotonic() - begin >= 0.9

"""Choice of the video stream of a file or playlist."""

import http.server
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from threading import Event as Signal

import numpy as np
import pytest
from films import photograph
from stream_files import Track, cover, move_cover_first, write_hls, write_streams

from ovml_deploy.pipelines.video.annotate import annotate
from ovml_deploy.pipelines.video.records import Counts, VideoError
from ovml_deploy.pipelines.video.sampling import Reading
from ovml_deploy.pipelines.video.sources import Source

ALL = Reading(fps=None, policy="every-frame")
CAT = photograph("cat")
ROCKET = photograph("rocket")
SMALL = photograph("rocket", (160, 120))


def read(name: str | Path) -> list[np.ndarray]:
    return [frame.rgb() for frame in Source(name, ALL).frames(Counts(), Signal())]


def shows_cat(pixels: np.ndarray) -> bool:
    return pixels.shape == CAT.shape and np.abs(pixels.astype(int) - CAT).mean() < 10


@pytest.fixture
def covered(tmp_path: Path) -> Path:
    """An MP4 whose first stream is its cover, as taggers of music and films write it."""
    path = write_streams(tmp_path / "covered.mp4", [Track(CAT, "default"), cover(ROCKET)])
    return move_cover_first(path)


def test_the_cover_before_an_mp4s_tracks_is_not_tagged(covered: Path, caplog) -> None:
    import av

    with av.open(str(covered)) as container:
        assert [stream.name for stream in container.streams] == ["mjpeg", "h264"]
    frames = read(covered)
    assert len(frames) == 5
    assert all(map(shows_cat, frames))
    assert caplog.text == ""


def test_the_annotated_copy_is_of_the_tagged_stream(covered: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.mp4"
    assert annotate(covered, [], out) == 5
    assert all(map(shows_cat, read(out)))


@pytest.mark.parametrize(
    ("name", "tracks"),
    [
        ("default.mp4", [Track(ROCKET), Track(CAT, "default")]),
        ("default.mkv", [Track(ROCKET), Track(CAT, "default")]),
        ("largest.mp4", [Track(SMALL, "default"), Track(CAT, "default")]),
        ("largest.mkv", [Track(SMALL), Track(CAT)]),
        ("still.mp4", [Track(ROCKET, "default", "mjpeg", 1), Track(CAT)]),
    ],
)
def test_the_best_of_several_streams_is_tagged_and_named(
    tmp_path: Path, name: str, tracks: list[Track], caplog
) -> None:
    frames = read(write_streams(tmp_path / name, tracks))
    assert len(frames) == 5
    assert all(map(shows_cat, frames))
    assert "has 2 video streams; stream 1 (320x240) is tagged" in caplog.text


def test_the_largest_of_several_programs_is_tagged(tmp_path: Path) -> None:
    path = write_streams(tmp_path / "programs.ts", [Track(SMALL), Track(CAT)])
    assert all(map(shows_cat, read(path)))


def test_an_image_attached_to_a_matroska_file_is_not_tagged(tmp_path: Path) -> None:
    path = write_streams(tmp_path / "attached.mkv", [Track(CAT)], attachment=ROCKET)
    assert all(map(shows_cat, read(path)))
    sound = write_streams(tmp_path / "sound.mka", [], "flac", attachment=ROCKET)
    with pytest.raises(VideoError, match="has no video stream"):
        read(sound)


@pytest.mark.parametrize(
    ("ending", "codec"), [("mp3", "libmp3lame"), ("flac", "flac"), ("mp4", "aac")]
)
def test_music_with_a_cover_has_no_video_stream(tmp_path: Path, ending: str, codec: str) -> None:
    path = write_streams(tmp_path / f"song.{ending}", [cover(ROCKET)], codec)
    with pytest.raises(VideoError, match=r"has no video stream\. Its cover image is not a video\."):
        read(path)
    silent = write_streams(tmp_path / f"plain.{ending}", [], codec)
    with pytest.raises(VideoError, match=r"has no video stream\.$"):
        read(silent)


def test_a_stream_without_a_decoder_is_reported(tmp_path: Path) -> None:
    path = write_streams(tmp_path / "codec.mp4", [Track(CAT)])
    path.write_bytes(path.read_bytes().replace(b"avc1", b"zzzz"))
    with pytest.raises(VideoError, match="no decoder for its video stream"):
        read(path)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, list[str]]]:
    """Serve the folder; give its address and the paths that are asked for."""
    asked: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path.lstrip("/"))
            super().do_GET()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(Handler, directory=str(tmp_path))
    ) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}", asked
        running.shutdown()


def test_of_hls_variants_the_largest_is_tagged_and_the_others_are_not_downloaded(
    tmp_path: Path, server: tuple[str, list[str]]
) -> None:
    write_hls(tmp_path, {"small": SMALL, "large": CAT})
    address, asked = server
    frames = read(f"{address}/master.m3u8")
    assert len(frames) > 50
    assert all(map(shows_cat, frames))
    assert {"large0.ts", "large1.ts", "large2.ts"} <= set(asked)
    assert not {"small1.ts", "small2.ts"} & set(asked)  # the first one is probed

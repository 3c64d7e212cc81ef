"""Files of events, frames and subtitles, and films with their tags drawn in."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from films import moving_film

from ovml_deploy.errors import UsageError
from ovml_deploy.pipelines.video.annotate import annotate, draw_labels
from ovml_deploy.pipelines.video.outputs import event_file, frame_file
from ovml_deploy.pipelines.video.records import Event, FrameResult, VideoError
from ovml_deploy.pipelines.video.webvtt import stretches, webvtt
from ovml_deploy.runtime.results import Tag
from ovml_deploy.runtime.tagger import Tagger


def event(label: str, start: float, end: float, mean: float = 0.5, **more) -> Event:
    return Event(label, start, end, mean, mean, 3, "v1", "film.mp4", **more)


@pytest.fixture
def frame(tiny_bundle: Path) -> FrameResult:
    vocabulary = Tagger.load(tiny_bundle, vocabulary=["a", "b"]).vocabulary
    tags = (Tag("a, b\n", 0.75, 1.0, 0),)
    return FrameResult("film.mp4", 4, 2.0, tags, np.array([0.75, 0.1]), vocabulary, 0.05)


def test_events_as_json_lines_and_csv(tmp_path: Path) -> None:
    begun = event("cat", 1, 2, ongoing=True)
    records = [begun, event("cat", 1, 4.25), event('a "dog", big', 3, 5)]
    for ending in ("jsonl", "csv"):
        with event_file(str(tmp_path / f"events.{ending}")) as write:
            assert not (tmp_path / f"events.{ending}").exists()  # whole, at the end
            for record in records:
                write(record)
    lines = (tmp_path / "events.jsonl").read_text().splitlines()
    first, second, third = map(json.loads, lines)
    assert first["type"] == "begin"
    assert "end" not in first
    assert second == {
        "type": "event", "label": "cat", "start": 1.0, "end": 4.25, "peak": 0.5, "mean": 0.5,
        "frames": 3, "source": "film.mp4", "vocabulary": "v1",
    }  # fmt: skip
    with open(tmp_path / "events.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["label"] for row in rows] == ["cat", 'a "dog", big']
    assert [float(row["end"]) for row in rows] == [second["end"], third["end"]]


def test_frames_as_json_lines_and_csv(tmp_path: Path, frame: FrameResult) -> None:
    failed = FrameResult("f", 5, 2.5, (), np.empty(0), frame.vocabulary, 0.1, "too dark")
    for ending in ("jsonl", "csv"):
        with frame_file(str(tmp_path / f"frames.{ending}")) as write:
            write(frame)
            write(failed)
    one, other = map(json.loads, (tmp_path / "frames.jsonl").read_text().splitlines())
    assert one["tags"] == [{"label": "a, b\n", "score": 0.75}]
    assert other["error"] == "too dark"
    with open(tmp_path / "frames.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(r["frame"], r["label"], r["error"]) for r in rows] == [
        ("4", "a, b\n", ""),
        ("5", "", "too dark"),
    ]


def test_a_live_sources_lines_are_there_at_once_and_say_when(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text('{"of": "an earlier run"}\n')
    with event_file(str(path), epoch=1_700_000_000.0) as write:
        write(event("cat", 0.5, 2))
        told = [json.loads(line) for line in path.read_text().splitlines()]
    assert told[0] == {"of": "an earlier run"}
    assert told[1]["start_at"] == "2023-11-14T22:13:20.500+00:00"
    assert told[1]["end_at"] == "2023-11-14T22:13:22.000+00:00"


def write_and_fail(path: Path) -> None:
    with event_file(str(path)) as write:
        write(event("cat", 1, 2))
        raise RuntimeError


def test_a_run_that_fails_leaves_no_file(tmp_path: Path) -> None:
    for name in ("events.csv", "events.jsonl", "film.vtt"):
        with pytest.raises(RuntimeError):
            write_and_fail(tmp_path / name)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UsageError, match=r"\.jsonl or \.csv or \.vtt"), event_file("e.xlsx"):
        pass


def test_stretches_name_all_that_is_seen_at_once() -> None:
    events = [event("cat", 0, 4, 0.9), event("dog", 2, 6, 0.5), event("tree", 4, 4, 0.3)]
    assert stretches(events, 5) == [
        (0, 2, ("cat",)),
        (2, 4, ("cat", "dog")),
        (4, 6, ("dog",)),
    ]
    assert stretches(events, 1) == [(0, 4, ("cat",)), (4, 6, ("dog",))]
    assert stretches([], 5) == []


def test_players_read_the_subtitles(tmp_path: Path) -> None:
    import av

    path = tmp_path / "film.vtt"
    with event_file(str(path)) as write:
        write(event("<b>cat</b> --> & co", 1.5, 3))
        write(event("dog", 3700, 3701.25))
    assert path.read_text() == webvtt(
        [event("<b>cat</b> --> & co", 1.5, 3), event("dog", 3700, 3701.25)]
    )
    with av.open(str(path)) as container:
        (stream,) = container.streams
        packets = [packet for packet in container.demux(stream) if packet.pts is not None]
    assert [float(p.pts * p.time_base) for p in packets] == [1.5, 3700]
    assert [float(p.duration * p.time_base) for p in packets] == [1.5, 1.25]
    assert bytes(packets[0]).decode() == "&lt;b&gt;cat&lt;/b&gt; --&gt; &amp; co"


def test_a_film_with_its_events_drawn_in(tmp_path: Path) -> None:
    import av

    path, out = moving_film(tmp_path / "film.mp4", 50), tmp_path / "tagged.mp4"
    assert annotate(path, [event("cat", 0.4, 1.2)], out) == 50
    with av.open(str(path)) as one, av.open(str(out)) as other:
        pairs = list(zip(one.decode(video=0), other.decode(video=0), strict=True))
    assert [float(a.time) for a, _ in pairs] == pytest.approx([float(b.time) for _, b in pairs])
    drawn = []
    for before, after in pairs:
        a, b = (f.to_ndarray(format="rgb24").astype(int) for f in (before, after))
        corner = np.abs(a[6:30, 6:40] - b[6:30, 6:40]).mean()
        rest = np.abs(a[120:] - b[120:]).mean()
        assert rest < 8  # encoded anew, and otherwise as it was
        drawn.append(corner > 30)
    seen = [i for i, yes in enumerate(drawn) if yes]
    assert (seen[0] / 25, (seen[-1] + 1) / 25) == pytest.approx((0.4, 1.2), abs=0.041)
    assert seen == list(range(seen[0], seen[-1] + 1))


def test_drawing_leaves_the_picture_it_is_given() -> None:
    picture = np.full((60, 80, 3), 200, np.uint8)
    drawn = draw_labels(picture, ["cat", "日本", "x" * 200, *["more"] * 30])
    assert drawn.shape == picture.shape
    assert (picture == 200).all()
    assert (drawn != 200).any()


def test_live_sources_cannot_be_annotated(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="is live"):
        annotate("rtsp://127.0.0.1/none", [], tmp_path / "out.mp4")
    assert list(tmp_path.iterdir()) == []

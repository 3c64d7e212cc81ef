"""Films, live sources and arrays through a real engine: the same tags, in order, and bounded."""

import itertools
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from films import film, photograph, write_film

from ovml_deploy.errors import UsageError, VocabularyError
from ovml_deploy.pipelines.video import (
    Event,
    FrameResult,
    Reading,
    VideoError,
    VideoStream,
    stream,
    tag_frames,
)
from ovml_deploy.runtime.tagger import Tagger

WORDS = ["cat", "dog", "boat"]


@pytest.fixture
def tagger(tiny_bundle: Path) -> Tagger:
    return Tagger.load(tiny_bundle, vocabulary=WORDS)


def moving(count: int) -> list[np.ndarray]:
    base = photograph("cat", (96, 72))
    return [np.roll(base, 3 * index, 1) for index in range(count)]


def only_frames(records) -> list[FrameResult]:
    return [record for record in records if isinstance(record, FrameResult)]


def test_a_frames_tags_are_those_of_the_tagger(tagger: Tagger, tmp_path: Path) -> None:
    import av

    path = write_film(tmp_path / "film.mp4", moving(30))
    with av.open(str(path)) as container:
        shown = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    found = only_frames(VideoStream(tagger, path, reading=Reading(fps=None, batch_size=4)))
    assert [result.index for result in found] == list(range(30))
    assert [result.time for result in found] == pytest.approx([i / 25 for i in range(30)])
    wanted = list(tagger.tag_many(shown, batch_size=4))
    assert [result.tags for result in found] == [result.tags for result in wanted]
    for result in found:
        best = result.tags[0]
        assert result.scores[WORDS.index(best.label)] == pytest.approx(best.score)
        assert result.vocabulary_id == tagger.vocabulary.id


def test_arrays_are_tagged_in_the_channels_they_are_said_to_have(tagger: Tagger) -> None:
    frames = moving(10)
    wanted = [result.tags for result in tagger.tag_many(frames)]
    red = tag_frames(tagger, frames, "rgb", rate=5)
    blue = tag_frames(tagger, (frame[..., ::-1] for frame in frames), "bgr", rate=5)
    assert [result.tags for result in red] == [result.tags for result in blue] == wanted
    with pytest.raises(UsageError, match="say 'rgb' or 'bgr'"):
        tag_frames(tagger, frames, "gray")
    with pytest.raises(UsageError, match="not for a video"):
        stream(tagger, __file__, channels="rgb")


def test_words_swapped_in_mid_stream_apply_to_whole_batches(tagger: Tagger) -> None:
    first, frames = tagger.vocabulary, moving(40)
    run = VideoStream(tagger, frames, "rgb", 10, Reading(fps=None, batch_size=4))
    seen, other = [], None
    for record in run:
        if isinstance(record, FrameResult):
            seen.append(record)
            assert len(record.scores) == len(record.vocabulary)
            if record.index == 13:
                other = tagger.use_vocabulary(["house", "tree"])
    ids = [result.vocabulary_id for result in seen]
    assert len(ids) == 40
    assert ids == [first.id] * 16 + [other.id] * 24


def test_events_of_words_that_are_gone_end_at_the_swap(tagger: Tagger) -> None:
    from ovml_deploy.pipelines.video import EventSettings

    low = EventSettings(enter=1e-12, leave=1e-12)  # every word is always there
    run = VideoStream(tagger, moving(40), "rgb", 10, Reading(fps=None, batch_size=4), low)
    ended: dict[str, Event] = {}
    for record in run:
        if isinstance(record, FrameResult) and record.index == 13:
            tagger.use_vocabulary(["house", "cat"])
        if isinstance(record, Event) and not record.ongoing:
            ended[record.label] = record
    assert {k: (e.start, round(e.end, 3)) for k, e in ended.items()} == {
        "dog": (0, 1.6),
        "boat": (0, 1.6),
        "house": (1.6, 4.0),
        "cat": (0, 4.0),
    }


def test_a_watched_file_swaps_words_and_a_broken_one_does_not(
    tagger: Tagger, tmp_path: Path, caplog
) -> None:
    words = tmp_path / "words.txt"
    words.write_text("\n".join(WORDS))
    stopped = threading.Event()

    def camera():
        for frame in itertools.cycle(moving(4)):
            if stopped.wait(0.02):
                return
            yield frame

    tagger.use_vocabulary(words)
    run = VideoStream(tagger, camera(), "rgb", reading=Reading(fps=None), vocabulary_file=words)
    said: list[tuple[str, ...]] = []
    for record in run:
        if not isinstance(record, FrameResult) or stopped.is_set():
            continue
        labels = record.vocabulary.labels
        if not said or said[-1] != labels:
            said.append(labels)
            words.write_text("house\ntree\n" if len(said) == 1 else "twice\ntwice\n")
        if len(said) == 2 and "stay as they were" in caplog.text:
            stopped.set()
    assert said == [tuple(WORDS), ("house", "tree")]
    with pytest.raises(VocabularyError, match="to watch"):
        list(VideoStream(tagger, moving(1), "rgb", 1, vocabulary_file=tmp_path / "absent.txt"))


def test_the_latest_frame_never_lags_and_counts_what_it_drops(tagger: Tagger) -> None:
    """The source is far faster than the consumer, and never held back by it."""
    made = 0

    def camera():
        nonlocal made
        for frame in itertools.islice(itertools.cycle(moving(4)), 600):
            made += 1
            time.sleep(0.002)
            yield frame

    reading = Reading(fps=None, policy="latest-frame", batch_size=4)
    run = VideoStream(tagger, camera(), "rgb", reading=reading)
    ages = []
    for record in run:
        if isinstance(record, FrameResult):
            ages.append(made - round(record.index))
            time.sleep(0.05)
    counts = run.counts
    assert made == counts.decoded == counts.sampled == 600
    assert counts.dropped > 0
    assert counts.tagged + counts.dropped == 600


def test_every_frame_holds_the_reader_back(tagger: Tagger) -> None:
    made = 0

    def endless():
        nonlocal made
        while True:
            made += 1
            yield photograph("cat", (64, 48))

    run = VideoStream(tagger, endless(), "rgb", 10, Reading(fps=None, batch_size=2))
    for record in run:
        if isinstance(record, FrameResult) and record.index == 20:
            time.sleep(0.5)
            break
    assert made < 20 + 2 + 30  # two batches prepared, one in work, and a few that wait
    assert run.counts.dropped == 0


def test_a_run_can_be_stopped_from_anywhere_and_ends_its_events(
    embedded: Tagger, tmp_path: Path
) -> None:
    path = film(tmp_path / "film.mp4", [("cat", 6)], rate=10)
    run = VideoStream(embedded, path, reading=Reading(fps=None, batch_size=2))
    ended = []
    for record in run:
        if isinstance(record, FrameResult) and record.index == 9:
            threading.Thread(target=run.stop).start()
        elif isinstance(record, Event) and not record.ongoing:
            ended.append(record)
    assert run.counts.tagged < 60
    assert [(event.label, event.start) for event in ended] == [("cat", 0)]
    assert not [t for t in threading.enumerate() if t.name.startswith("ovml-prepare")]


def test_what_ends_a_source_is_told_after_the_events_before_it(embedded: Tagger) -> None:
    def camera():
        for _ in range(12):
            yield photograph("cat")
        raise RuntimeError("the cable is out")

    told = []
    with pytest.raises(RuntimeError, match="the cable is out"):
        told.extend(stream(embedded, camera(), channels="rgb", rate=4, fps=None))
    run, ended = VideoStream(embedded, camera(), "rgb", 4, Reading(fps=None)), []
    with pytest.raises(RuntimeError):
        ended.extend(record for record in run if isinstance(record, Event))
    assert run.counts.tagged == 12


def test_a_frame_that_grows_too_large_is_refused(tagger: Tagger) -> None:
    frames = [*moving(3), np.zeros((200, 200, 3), np.uint8)]
    run = tag_frames(tagger, frames, "rgb", rate=1, max_pixels=96 * 72)
    with pytest.raises(VideoError, match="at most 6,912 pixels"):
        list(run)


def test_settings_are_checked_before_anything_runs(tagger: Tagger, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="top_k is 0"):
        VideoStream(tagger, moving(1), "rgb", 1, top_k=0)
    with pytest.raises(UsageError, match="rate is 0"):
        VideoStream(tagger, moving(1), "rgb", 0)
    with pytest.raises(VideoError, match="no such file"):
        stream(tagger, tmp_path / "absent.mp4")

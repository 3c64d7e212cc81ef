"""Events from scores: dates, hysteresis, gaps, noise, and words that come and go."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ovml_deploy.errors import UsageError
from ovml_deploy.pipelines.video.events import EventSettings, EventTracker
from ovml_deploy.pipelines.video.records import Event


def follow(times, scores, setting: EventSettings, end: float | None = None) -> list[Event]:
    """The events of one label."""
    tracker = EventTracker(setting, "film")
    tracker.use(("cat",), "v")
    found = [e for t, s in zip(times, scores, strict=True) for e in tracker.add(t, np.array([s]))]
    return [event for event in found + tracker.close(end) if not event.ongoing]


def test_an_event_is_dated_at_the_frames_that_show_it() -> None:
    times = np.arange(20) * 0.5
    scores = [0.02] * 6 + [0.9] * 7 + [0.1] * 7
    assert follow(times, scores, EventSettings()) == [
        Event("cat", 3.0, 6.5, 0.9, pytest.approx(0.9), 7, "v", "film")
    ]


def test_it_begins_at_the_higher_threshold_and_ends_at_the_lower() -> None:
    setting = EventSettings(enter=0.6, leave=0.3, smoothing=0.0, max_gap=0.0)
    scores = [0.5, 0.61, 0.4, 0.31, 0.59, 0.29, 0.5, 0.59, 0.1]
    (event,) = follow(range(9), scores, setting)
    # dated by the middle, 0.45: 0.5 is above it, and more frames from 2 to 5 are below than above
    assert (event.start, event.end) == (0, 2)
    assert follow(range(3), [0.59] * 3, setting) == []


def test_one_event_a_flickering_appearance() -> None:
    scores = [0.0] * 8 + [0.9, 0.9, 0.2] * 8 + [0.9] + [0.0] * 12
    times = np.arange(len(scores)) * 0.1
    (event,) = follow(times, scores, EventSettings(enter=0.5, leave=0.3))
    assert event.start == pytest.approx(0.8)
    assert event.end == pytest.approx(3.3)


def test_gaps_are_closed_and_short_events_left_out() -> None:
    scores = [0, 1, 1, 0, 1, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0]
    setting = EventSettings(smoothing=0.0, max_gap=1.0, min_duration=2.0)
    (event,) = follow(range(15), scores, setting)
    assert (event.start, event.end, event.frames) == (1, 6, 5)
    assert event.mean == pytest.approx(4 / 5)  # the gap is a part of it
    kept = follow(range(15), scores, EventSettings(smoothing=0.0, max_gap=0.5))
    assert [(e.start, e.end) for e in kept] == [(1, 3), (4, 6), (10, 11)]


def test_a_return_that_is_confirmed_late_still_closes_the_gap() -> None:
    """It comes back within the gap, while smoothing says so only after it."""
    scores = [0.0] * 5 + [0.8] * 20 + [0.0] * 8 + [0.8] * 20 + [0.0] * 20
    times = np.arange(len(scores)) * 0.1
    setting = EventSettings(enter=0.6, leave=0.5, smoothing=0.6, max_gap=0.9)
    (event,) = follow(times, scores, setting)
    assert event.start == pytest.approx(0.5)
    assert event.end == pytest.approx(5.3)


def test_what_is_open_ends_with_the_film_or_at_a_silence() -> None:
    (event,) = follow([0, 1, 2], [0.9] * 3, EventSettings(), end=2.5)
    assert (event.start, event.end) == (0, 2.5)
    (event,) = follow([0, 1, 2], [0.9] * 3, EventSettings())
    assert event.end == 3
    events = follow([0, 1, 2, 60, 61], [0.9] * 5, EventSettings(max_silence=30))
    assert [(e.start, e.end) for e in events] == [(0, 3), (60, 62)]
    (event,) = follow([0, 1, 2, 3], [0.9, 0.9, 0.9, 0.1], EventSettings(smoothing=9))
    assert event.end == 3  # smoothing had not noticed yet


def test_the_beginning_is_announced_once_and_its_end_always_follows() -> None:
    tracker = EventTracker(EventSettings(min_duration=0.9, smoothing=1.0))
    tracker.use(("cat",), "v")
    scores = [0, 1, 1, 1, 1, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
    said = [e for t, s in enumerate(scores) for e in tracker.add(t * 0.5, np.array([s]))]
    assert [event.ongoing for event in said] == [True, False]
    assert said[0].start == said[1].start == 0.5
    assert said[0].end >= 0.5 + 0.9


def test_words_are_swapped_and_those_that_stay_keep_their_events() -> None:
    tracker = EventTracker(EventSettings(smoothing=0.0), "camera")
    tracker.use(("cat", "dog"), "first")
    for t in range(3):
        tracker.add(t, np.array([0.9, 0.8]))
    (gone,) = tracker.use(("tree", "dog"), "second")
    assert (gone.label, gone.start, gone.end, gone.vocabulary_id) == ("cat", 0, 3, "first")
    tracker.add(3, np.array([0.9, 0.8]))
    ended = {event.label: event for event in tracker.close()}
    assert (ended["dog"].start, ended["dog"].end, ended["dog"].frames) == (0, 4, 4)
    assert (ended["tree"].start, ended["tree"].vocabulary_id) == (3, "second")


def test_new_thresholds_apply_at_once() -> None:
    tracker = EventTracker(EventSettings(smoothing=0.0))
    tracker.use(("cat",), "a", 0.9)
    assert tracker.add(0, np.array([0.5])) == tracker.add(1, np.array([0.5])) == []
    tracker.use(("cat",), "b", 0.4)
    tracker.add(2, np.array([0.5]))
    tracker.use(("cat",), "c", 0.9)
    tracker.add(3, np.array([0.5]))
    (event,) = tracker.close()
    assert (event.start, event.end) == (2, 3)


def test_thresholds_by_label_and_from_the_calibration() -> None:
    setting = EventSettings(enter={"cat": 0.9}, leave={"cat": 0.8})
    enter, leave = setting.thresholds(("cat", "dog"), 0.4)
    np.testing.assert_allclose(enter, (0.9, 0.4))
    np.testing.assert_allclose(leave, (0.8, 0.24))
    with pytest.raises(UsageError, match=r"'dog' would leave at 0\.5"):
        EventSettings(leave=0.5).thresholds(("dog",), 0.4)
    for wrong in ({"enter": 1.5}, {"leave": {"a": 0.0}}, {"smoothing": -1.0}, {"max_gap": np.nan}):
        with pytest.raises(UsageError):
            EventSettings(**wrong)


@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), min_size=1, max_size=6),
    st.floats(0.04, 2.0),
    st.floats(0.0, 2.0),
    st.integers(0, 2**32 - 1),
)
@settings(deadline=None, max_examples=150)
def test_each_appearance_is_one_event_with_exact_dates(lengths, interval, smoothing, seed) -> None:
    """Whatever the rate, the smoothing and the noise, as long as scores lie on the right side."""
    setting = EventSettings(enter=0.5, leave=0.4, smoothing=smoothing, max_gap=interval)
    least = int(np.ceil(4 * smoothing / interval)) + 3
    random = np.random.default_rng(seed)
    scores, truth, at = [], [], 0
    for absent, present in lengths:
        scores += [
            *random.uniform(0, 0.3, absent + least),
            *random.uniform(0.6, 1, present + least),
        ]
        truth.append((at + absent + least, len(scores)))
        at = len(scores)
    scores += [*random.uniform(0, 0.3, least)]
    times = np.arange(len(scores)) * interval
    events = follow(times, scores, setting)
    assert [(e.start, e.end) for e in events] == [(times[a], times[b]) for a, b in truth]
    for event, (a, b) in zip(events, truth, strict=True):
        assert event.frames == b - a
        assert event.mean == pytest.approx(np.mean(scores[a:b]))
        assert event.peak == max(scores[a:b])


@given(
    st.lists(st.tuples(st.floats(0.0, 40.0), st.floats(0.0, 1.0)), min_size=1, max_size=80),
    st.floats(0.0, 3.0),
    st.floats(0.0, 3.0),
    st.floats(0.0, 3.0),
)
@settings(deadline=None, max_examples=200)
def test_any_scores_give_events_that_make_sense(steps, smoothing, gap, least) -> None:
    times = np.cumsum([step for step, _ in steps])
    scores = np.array([score for _, score in steps])
    setting = EventSettings(smoothing=smoothing, max_gap=gap, min_duration=least)
    events = follow(times, scores, setting)
    for event in events:
        assert times[0] <= event.start <= event.end
        assert 0 < event.mean <= event.peak + 1e-9 <= 1 + 2e-9
        assert event.peak >= 0.5
        assert event.frames >= 1
    for one, other in pairwise(events):
        assert other.start >= one.end


def test_frames_that_err_at_times_make_no_flicker_and_few_wrong_dates() -> None:
    """Three frames in a hundred are on the wrong side; 200 appearances."""
    random = np.random.default_rng(5)
    setting, interval = EventSettings(enter=0.5, leave=0.3, smoothing=0.5), 0.2
    scores, truth = [], []
    for _ in range(200):
        scores += [0.1] * int(random.integers(15, 40))
        start = len(scores)
        scores += [0.85] * int(random.integers(15, 60))
        truth.append((start * interval, len(scores) * interval))
    scores = np.array(scores + [0.1] * 20)
    wrong = random.random(len(scores)) < 0.03
    scores = np.where(wrong, 0.95 - scores, scores) + random.normal(0, 0.03, len(scores))
    events = follow(np.arange(len(scores)) * interval, scores.clip(0, 1), setting)
    assert len(events) == len(truth)
    near = [
        abs(event.start - start) <= interval * 1.001 and abs(event.end - end) <= interval * 1.001
        for event, (start, end) in zip(events, truth, strict=True)
    ]
    assert np.mean(near) >= 0.9

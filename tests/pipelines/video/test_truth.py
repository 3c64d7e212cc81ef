"""Real films of known scenes through the embedded model: are events where the objects are?"""

from pathlib import Path

import numpy as np
import pytest
from films import film

from ovml_deploy.pipelines.video import EventSettings, stream
from ovml_deploy.runtime.tagger import Tagger

SEEN = {"cat": "cat", "coffee": "beverage", "temple": "building", "rocket": "missile"}
NOTHING = (None, "camera_man", "flower")  # scenes with none of the words
RATE = 12

Appearance = tuple[str, float, float]


def shuffled(
    appearances: int, seed: int
) -> tuple[list[tuple[str | None, float]], list[Appearance]]:
    """Scenes of random lengths, in whole frames, and which word is seen from when to when."""
    random = np.random.default_rng(seed)
    scenes: list[tuple[str | None, float]] = []
    truth, now = [], 0.0
    for number in range(appearances):
        empty, seen = (float(random.integers(20, 36)) / RATE for _ in range(2))
        name = list(SEEN)[number % len(SEEN)]
        scenes += [(NOTHING[number % len(NOTHING)], empty), (name, seen)]
        truth.append((SEEN[name], now + empty, now + empty + seen))
        now += empty + seen
    return [*scenes, (None, 2.0)], truth


def matched(truth: list[Appearance], events: list, interval: float) -> tuple[int, int]:
    """How many starts and ends are within an interval, and the most events an appearance has."""
    near, most = 0, 0
    for label, start, end in truth:
        own = [e for e in events if e.label == label and e.start < end and e.end > start]
        most = max(most, len(own))
        near += any(abs(e.start - start) <= interval for e in own)
        near += any(abs(e.end - end) <= interval for e in own)
    return near, most


@pytest.mark.parametrize(("fps", "noise", "enter"), [(2.0, 0.0, None), (4.0, 2.0, 0.4)])
def test_events_are_where_the_objects_are(
    embedded: Tagger, tmp_path: Path, fps: float, noise: float, enter: float | None
) -> None:
    """Steady, with the calibration's own threshold; and with a shaking, flickering, grainy camera.

    That one costs the rocket a part of its score, so words enter earlier there.
    """
    scenes, truth = shuffled(12, seed=int(fps))
    path = film(tmp_path / "film.mp4", scenes, RATE, noise)
    events = list(stream(embedded, path, fps=fps, events=EventSettings(enter=enter)))
    near, most = matched(truth, events, 1 / fps)
    print(f"{near} of {2 * len(truth)} dates, {len(events)} events for {len(truth)}")
    assert near >= 0.9 * 2 * len(truth)
    assert most == 1
    assert len(events) <= len(truth) + 1  # and hardly any where there is nothing


def test_key_frames_alone_are_enough_where_they_are_frequent(
    embedded: Tagger, tmp_path: Path
) -> None:
    path = film(tmp_path / "film.mkv", [(None, 4), ("cat", 5), (None, 4)], RATE, key_every=RATE)
    (event,) = stream(embedded, path, fps=None, key_frames=True)
    assert event.label == "cat"
    assert (event.start, event.end) == (4, 9)
    assert event.frames == 5

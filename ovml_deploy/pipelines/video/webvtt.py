"""Events as WebVTT (https://www.w3.org/TR/webvtt1/), which players show as subtitles."""

from collections.abc import Sequence
from itertools import pairwise

from ovml_deploy.pipelines.video.records import Event

_MOST_LABELS = 5


def webvtt(events: Sequence[Event], most: int = _MOST_LABELS) -> str:
    """Return a WebVTT file: a cue for each stretch of time that shows the same labels.

    The ``most`` labels with the best mean scores are named, best first. ``events`` in any order.
    """
    cues = ["WEBVTT\n"]
    for start, end, labels in stretches(events, most):
        text = ", ".join(_escaped(label) for label in labels)
        cues.append(f"{_clock(start)} --> {_clock(end)}\n{text}\n")
    return "\n".join(cues)


def stretches(events: Sequence[Event], most: int) -> list[tuple[float, float, tuple[str, ...]]]:
    """Return (start, end, labels) of each stretch that shows the same labels, in order of time."""
    starts = sorted(events, key=lambda event: event.start)
    moments = sorted({moment for event in events for moment in (event.start, event.end)})
    found: list[tuple[float, float, tuple[str, ...]]] = []
    open_events: list[Event] = []
    next_start = 0
    for start, end in pairwise(moments):
        open_events = [event for event in open_events if event.end > start]
        while next_start < len(starts) and starts[next_start].start <= start:
            if starts[next_start].end > start:
                open_events.append(starts[next_start])
            next_start += 1
        best = sorted(open_events, key=lambda event: (-event.mean, event.label))[:most]
        labels = tuple(event.label for event in best)
        if labels and found and found[-1][1:] == (start, labels):
            found[-1] = (found[-1][0], end, labels)
        elif labels:
            found.append((start, end, labels))
    return found


def _clock(seconds: float) -> str:
    thousandths = round(seconds * 1000)
    minutes, rest = divmod(thousandths, 60_000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{rest // 1000:02d}.{rest % 1000:03d}"


def _escaped(label: str) -> str:
    """A cue's text may hold neither markup nor "-->"."""
    return label.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")

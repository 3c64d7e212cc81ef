"""Video: files, streams, cameras and frames of other programs become events.

from ovml_deploy.pipelines.video import stream

for event in stream(tagger, "film.mp4", fps=2):
    print(event.label, event.start, event.end)
"""

from ovml_deploy.pipelines.video.events import EventSettings, EventTracker
from ovml_deploy.pipelines.video.records import Counts, Event, FrameResult, VideoError
from ovml_deploy.pipelines.video.sampling import Reading
from ovml_deploy.pipelines.video.stream import VideoStream, stream, tag_frames

__all__ = [
    "Counts",
    "Event",
    "EventSettings",
    "EventTracker",
    "FrameResult",
    "Reading",
    "VideoError",
    "VideoStream",
    "stream",
    "tag_frames",
]

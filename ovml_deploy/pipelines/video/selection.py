"""Selection of the video stream that is tagged."""

import logging
from typing import TYPE_CHECKING, Any

from ovml_deploy.pipelines.video.records import VideoError

if TYPE_CHECKING:
    from av.container import InputContainer

logger = logging.getLogger(__name__)


def select_stream(container: "InputContainer", name: str) -> Any:
    """Return the best video stream of a container; the demuxer discards all others.

    Cover images and thumbnails are not candidates. Streams of still images rank last. Otherwise a default
    stream is preferred, then the largest, then the first. ``name``: of the video, for messages. Raises
    VideoError if no stream remains.
    """
    from av.stream import Discard, Disposition

    images = Disposition.attached_pic | Disposition.timed_thumbnails
    videos = [s for s in container.streams.video if not s.disposition & images]
    if not videos:
        cover = " Its cover image is not a video." if container.streams.video else ""
        raise VideoError(f"{name}: has no video stream.{cover}")
    candidates = [stream for stream in videos if stream.codec_context is not None]
    if not candidates:
        raise VideoError(
            f"{name}: FFmpeg has no decoder for its video stream. Convert it to H.264 first."
        )

    def rank(stream: Any) -> tuple[bool, bool, int]:
        codec = stream.codec_context
        is_still = bool(stream.disposition & Disposition.still_image) or stream.frames == 1
        return (
            not is_still,
            bool(stream.disposition & Disposition.default),
            (codec.width or 0) * (codec.height or 0),
        )

    best = max(candidates, key=rank)  # the first of equal ones
    for stream in container.streams:
        if stream is not best:
            stream.discard = Discard.all  # or all variants of an HLS stream are downloaded
    if len(videos) > 1:
        size = f"{best.codec_context.width}x{best.codec_context.height}"
        logger.warning(
            "%s: has %d video streams; stream %d (%s) is tagged.",
            name,
            len(videos),
            best.index,
            size,
        )
    return best

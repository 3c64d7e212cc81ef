"""``ovml-deploy tag-video``."""

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ovml_deploy import assets, output
from ovml_deploy.commandline import (
    INTERRUPTED,
    SOME_FAILED,
    command,
    count,
    flag,
    needs_extra,
    number,
)
from ovml_deploy.errors import UsageError
from ovml_deploy.files import may_be_written

if TYPE_CHECKING:
    from ovml_deploy.pipelines.video import Event, VideoStream
    from ovml_deploy.pipelines.video.sinks import KafkaSink, MqttSink

_FORMATS = ("table", "json", "none")


@command(
    fps=number,
    key_frames=flag,
    enter=number,
    leave=number,
    smoothing=number,
    min_duration=number,
    max_gap=number,
    top_k=count,
    max_pixels=count,
    watch=flag,
)
def tag_video_command(
    *sources: str,
    engine: str = str(assets.MINI),
    vocab: str | None = None,
    labels: str | None = None,
    watch: bool = False,
    fps: float = 2.0,
    key_frames: bool = False,
    policy: str | None = None,
    enter: float | None = None,
    leave: float | None = None,
    smoothing: float = 0.5,
    min_duration: float = 0.0,
    max_gap: float = 1.0,
    out: str | None = None,
    frames: str | None = None,
    annotate: str | None = None,
    mqtt: str | None = None,
    kafka: str | None = None,
    format: str = "table",
    top_k: int = 5,
    max_pixels: int = 8192 * 4320,
    device: str = "auto",
    precision: str = "auto",
) -> int:
    """Tag films, network streams and cameras: what is seen from when to when.

    Args:
        sources: files, URLs (rtsp://, http://, ...), camera:0, or - for standard input
        engine: a bundle, or a file in one; default: the embedded model
        vocab: a label file, a vocabulary file, or the name of one in the bundle
        labels: the labels themselves, separated by commas
        watch: swap the vocabulary whenever the file --vocab changes
        fps: frames tagged of each second
        key_frames: tag key frames only, at most fps of them a second; others are not decoded
        policy: every-frame (the default for files), or latest-frame (for live sources): drop what is old
        enter: the smoothed score at which an event begins; default: a calibrated vocabulary's, or 0.5
        leave: the score below which it ends; default: 0.6 of enter
        smoothing: the time constant of smoothing, in seconds
        min_duration: seconds; shorter events are left out
        max_gap: seconds; events of a label no further apart are one
        out: files of events, separated by commas: .jsonl, .csv, .vtt (subtitles)
        frames: a file of each frame's tags: .jsonl or .csv
        annotate: a copy of the film with its tags drawn in: .mp4 or .mkv
        mqtt: publish events, to mqtt://[user@]host[:port]/topic; the password is in OVML_MQTT_PASSWORD
        kafka: publish events, to kafka://[user@]host[:port]/topic; the password is in OVML_KAFKA_PASSWORD
        format: what is printed: table, json (a line for each begin and event), or none
        top_k: at most so many tags a frame, in --frames
        max_pixels: pixels that a frame may have
        device: auto, cpu, openvino, cuda, tensorrt, or a .plan file; only auto chooses by itself
        precision: auto (the fastest the device has), or fp32, bf16, fp16, int8
    """
    with needs_extra("video"):
        import av  # noqa: F401
    from ovml_deploy.pipelines.video import EventSettings, Reading, VideoStream
    from ovml_deploy.runtime.tagger import Tagger

    files = [file.strip() for file in (out or "").split(",") if file.strip()]
    _check(sources, files, frames, annotate, format, vocab, labels, watch)
    reading = Reading(fps, key_frames, policy, max_pixels)
    events = EventSettings(enter, leave, smoothing, min_duration, max_gap)
    words = vocab if labels is None else [w for w in labels.split(",") if w.strip()]
    tagger = Tagger.load(engine, device, words, output.show_encoding, precision)
    output.show_engine(tagger.engine)
    watched = vocab if watch else None
    runs = [
        VideoStream(
            tagger, source, reading=reading, events=events, top_k=top_k, vocabulary_file=watched
        )
        for source in sources
    ]
    _check_live(runs, files, annotate)
    with ExitStack() as stack:
        job = _Job(stack, runs, files, frames, (mqtt, kafka), format, annotate is not None)
        for run in runs:
            job.follow(run)
    if annotate is not None and not job.interrupted:
        _annotate(sources[0], job.events, annotate, max_pixels)
    return job.code


class _Job:
    """One source after the other, into all outputs."""

    def __init__(
        self,
        stack: ExitStack,
        runs: list["VideoStream"],
        files: list[str],
        frames: str | None,
        brokers: tuple[str | None, str | None],
        form: str,
        keep: bool,
    ) -> None:
        from ovml_deploy.pipelines.video.outputs import event_file, frame_file
        from ovml_deploy.pipelines.video.sinks import KafkaSink, MqttSink

        live = next((run.source.epoch for run in runs if run.source.epoch is not None), None)
        self.interrupted, self.code, self._alone = False, 0, len(runs) == 1
        self.events: list[Event] = []
        self._keep, self._form = keep, form
        self._epoch: float | None = None
        self._sinks: list[MqttSink | KafkaSink] = []
        mqtt, kafka = brokers
        if mqtt is not None:
            self._sinks.append(MqttSink(mqtt))
            stack.callback(self._close, self._sinks[-1], mqtt)
        if kafka is not None:
            self._sinks.append(KafkaSink(kafka))
            stack.callback(self._close, self._sinks[-1], kafka)
        self._event_files = [stack.enter_context(event_file(path, live)) for path in files]
        self._frame_file = None
        if frames is not None:
            self._frame_file = stack.enter_context(frame_file(frames, live))

    def follow(self, run: "VideoStream") -> None:
        """Run one source to its end, or until this program is told to end."""
        from ovml_deploy.pipelines.video import VideoError

        if self.interrupted:
            return
        self._epoch = run.source.epoch

        def interrupt() -> None:
            self.interrupted = True
            run.stop()

        try:
            with _signals(interrupt), closing(iter(run)) as records:
                for record in records:
                    self._write(record)
        except VideoError as error:
            if self._alone and run.counts.tagged == 0:
                raise  # nothing was done, so no file is to be left
            print(f"failed: {error}", file=sys.stderr)
            self.code = SOME_FAILED
        if run.counts.failed or (run.counts.damaged and not run.source.live):
            self.code = SOME_FAILED
        if self.interrupted and not run.source.live:
            self.code = INTERRUPTED
        _report(run)

    def _write(self, record: Any) -> None:
        from ovml_deploy.pipelines.video import Event
        from ovml_deploy.pipelines.video.outputs import json_line

        if not isinstance(record, Event):
            if self._frame_file is not None:
                self._frame_file(record)
            return
        for sink in self._sinks:
            sink.write(record, self._epoch)
        if self._form == "json":
            print(json_line(record, self._epoch), end="", flush=True)
        if record.ongoing:
            return
        for write in self._event_files:
            write(record)
        if self._keep:
            self.events.append(record)
        if self._form == "table":
            times = f"{record.start:9.2f} {record.end:9.2f}"
            print(f"{times}  {record.mean:.2f}  {record.label}", flush=True)

    def _close(self, sink: "MqttSink | KafkaSink", url: str) -> None:
        sink.close()
        if sink.dropped:
            place = urlsplit(url)
            where = place.netloc.rpartition("@")[2] + place.path
            reason = "the broker was away, or did not take them"
            print(
                f"failed: {sink.dropped:,} messages did not reach {where}: {reason}",
                file=sys.stderr,
            )
            self.code = self.code or SOME_FAILED


@contextmanager
def _signals(interrupt: Callable[[], None]) -> Iterator[None]:
    """Have SIGTERM and the first Ctrl-C end the run, and a second one this program."""

    def handle(which: int, _: Any) -> None:
        signal.signal(which, before[signal.Signals(which)])
        interrupt()

    before = {which: signal.getsignal(which) for which in (signal.SIGINT, signal.SIGTERM)}
    try:
        for which in before:
            signal.signal(which, handle)
    except ValueError:  # not in the main thread, which alone may
        yield
        return
    try:
        yield
    finally:
        for which, handler in before.items():
            signal.signal(which, handler)


def _report(run: "VideoStream") -> None:
    counts = run.counts
    parts = [f"{counts.tagged:,} frames tagged of {counts.decoded:,} decoded"]
    for times, what in (
        (counts.dropped, "dropped for newer ones"),
        (counts.failed, "failed"),
        (counts.damaged, "damaged and left out"),
        (counts.reconnects, "reconnects"),
    ):
        if times:
            parts.append(f"{times:,} {what}")
    if run.source.live and counts.tagged:
        middle, late = counts.latency(0.5), counts.latency(0.99)
        parts.append(f"frame to tag {middle * 1e3:.0f} ms (p99 {late * 1e3:.0f} ms)")
    print(f"{run.source.name}: {', '.join(parts)}", file=sys.stderr)


def _annotate(source: str, events: list["Event"], out: str, max_pixels: int) -> None:
    from ovml_deploy.pipelines.video.annotate import annotate

    written = annotate(source, events, out, max_pixels=max_pixels)
    print(f"{out}: {written:,} frames", file=sys.stderr)


def _check(
    sources: tuple[str, ...],
    files: list[str],
    frames: str | None,
    annotate: str | None,
    form: str,
    vocab: str | None,
    labels: str | None,
    watch: bool,
) -> None:
    from ovml_deploy.pipelines.video.annotate import VIDEO_ENDINGS
    from ovml_deploy.pipelines.video.outputs import EVENT_ENDINGS, FRAME_ENDINGS, check_ending

    if not sources:
        raise UsageError("Name a video: a file, an rtsp:// address, or camera:0.")
    if form not in _FORMATS:
        raise UsageError(f"Unknown format {form!r}. Choose one of: {', '.join(_FORMATS)}.")
    if vocab is not None and labels is not None:
        raise UsageError("Give --vocab or --labels, not both.")
    if watch and (vocab is None or not Path(vocab).is_file()):
        raise UsageError("--watch needs a label file or vocabulary file: --vocab labels.txt")
    for path, endings in (
        *((path, EVENT_ENDINGS) for path in files),
        (frames, FRAME_ENDINGS),
        (annotate, VIDEO_ENDINGS),
    ):
        if path is not None:
            check_ending(path, endings)
            if not may_be_written(path):
                raise UsageError(f"{path}: no file can be written there.")
    if len(sources) > 1 and (annotate or any(path.endswith(".vtt") for path in files)):
        raise UsageError("--annotate and subtitles (.vtt) are of one film; name one.")


def _check_live(runs: list["VideoStream"], files: list[str], annotate: str | None) -> None:
    live = [run.source.name for run in runs if run.source.live]
    if live and len(runs) > 1:
        raise UsageError(f"{live[0]} is live and may never end: run it alone, in its own process.")
    if live and (annotate or any(path.endswith((".vtt", ".csv")) for path in files)):
        raise UsageError(
            f"{live[0]} is live: write its events to .jsonl, which grows as they come. Subtitles, CSV "
            "and --annotate are for files."
        )
    if annotate and any(run.source.name == "-" for run in runs):
        raise UsageError("Standard input cannot be read again: --annotate needs a file.")

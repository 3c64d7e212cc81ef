"""Plays a GStreamer pipeline, frame by frame, and writes down what comes out of it.

A program of its own, so that a crash ends it and not the tests: ``gst_player.py JOB.json FOLDER``. A
job has a ``pipeline`` whose last element is an appsink named ``sink``, and ``steps``, each done once
so many frames (``at``) were taken: ``set`` properties of the element named ``tag``, or ``wait`` for
the message of a name (``warning``, or an element's). The appsink holds one frame, and waits with it.
"""

import json
import sys
from pathlib import Path
from typing import Any

# ruff: noqa: E402, I001 - before numpy: docs/gstreamer.md says why
sys.path.append("/usr/lib/python3/dist-packages")
import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstVideo", "1.0")
from gi.repository import Gst, GstVideo

import numpy as np

_PATIENCE = 200 * Gst.SECOND


def fields(structure: Any) -> dict[str, Any]:
    """The fields of a GstStructure."""
    found = {}
    for i in range(structure.n_fields()):
        name = structure.nth_field_name(i)
        value = structure.get_value(name)
        found[name] = list(value) if isinstance(value, Gst.ValueArray) else value
    return found


def pixels(buffer: Any, caps: Any) -> np.ndarray:
    """A frame without the bytes that fill up its rows: RGB ``[H, W, 3]``, or all planes in a row."""
    content = np.frombuffer(buffer.extract_dup(0, buffer.get_size()), np.uint8)
    info = GstVideo.VideoInfo.new_from_caps(caps)
    kind, planes = info.finfo, []
    for i in range(kind.n_planes):
        height, width = -(-info.height >> kind.h_sub[i]), -(-info.width >> kind.w_sub[i])
        rows = content[info.offset[i] :][: height * info.stride[i]].reshape(height, -1)
        planes.append(rows[:, : width * kind.pixel_stride[i]].ravel())
    whole = np.concatenate(planes)
    return whole.reshape(info.height, info.width, 3) if kind.name == "RGB" else whole


class Player:
    def __init__(self, job: dict[str, Any]) -> None:
        self.pipeline = Gst.parse_launch(job["pipeline"])
        self.steps = list(job.get("steps", ()))
        self.since = 0
        self.messages: list[dict[str, Any]] = []
        self.errors: list[str] = []
        self.frames: list[dict[str, Any]] = []
        self.pixels: list[np.ndarray] = []

    def listen(self, wanted: str | None = None) -> None:
        """Take what is on the bus; or wait for the message of a name, since properties were set."""
        if any(entry["name"] == wanted for entry in self.messages[self.since :]):
            return
        bus = self.pipeline.get_bus()
        kinds = Gst.MessageType.ELEMENT | Gst.MessageType.WARNING | Gst.MessageType.ERROR
        kinds |= Gst.MessageType.EOS  # once all sinks have it
        while message := bus.timed_pop_filtered(_PATIENCE if wanted else 0, kinds):
            if message.type == Gst.MessageType.ERROR:
                self.errors.append(message.parse_error()[0].message)
                return
            if message.type == Gst.MessageType.WARNING:
                entry = {"name": "warning", "text": message.parse_warning()[0].message}
            elif message.type == Gst.MessageType.EOS:
                entry = {"name": "eos"}
            else:
                structure = message.get_structure()
                entry = {"name": structure.get_name(), **fields(structure)}
            self.messages.append(entry)
            if entry["name"] == wanted:
                return
        assert not wanted, f"no message {wanted}"

    def step(self) -> None:
        while self.steps and self.steps[0]["at"] == len(self.frames):
            step = self.steps.pop(0)
            if "set" in step:
                self.since = len(self.messages)
            for name, value in step.get("set", {}).items():
                self.pipeline.get_by_name("tag").set_property(name, value)
            if "wait" in step:
                self.listen(step["wait"])

    def play(self) -> None:
        self.since = len(self.messages)
        sink = self.pipeline.get_by_name("sink")
        for name, value in {"max-buffers": 1, "sync": False, "enable-last-sample": False}.items():
            sink.set_property(name, value)
        if self.pipeline.set_state(Gst.State.PLAYING) != Gst.StateChangeReturn.FAILURE:
            while not self.errors and not sink.get_property("eos"):
                self.step()
                if sample := sink.emit("try-pull-sample", Gst.SECOND // 10):
                    self.take(sample)
                self.listen()
        self.listen(None if self.errors else "eos")
        self.pipeline.set_state(Gst.State.NULL)

    def take(self, sample: Any) -> None:
        buffer = sample.get_buffer()
        meta = buffer.get_custom_meta("OvmlTags") if self.pipeline.get_by_name("tag") else None
        tags = fields(meta.get_structure()) if meta else None
        self.frames.append({"pts": buffer.pts, "tags": tags})
        self.pixels.append(pixels(buffer, sample.get_caps()))


def main(job: Path, folder: Path) -> None:
    Gst.init(None)
    player = Player(json.loads(job.read_text()))
    for _ in range(json.loads(job.read_text()).get("times", 1)):
        player.play()
    np.save(folder / "pixels.npy", np.array(player.pixels))
    told = {"frames": player.frames, "messages": player.messages, "errors": player.errors}
    (folder / "told.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

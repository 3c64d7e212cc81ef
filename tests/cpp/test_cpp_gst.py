"""ovmltag in real GStreamer pipelines, and tag_stream: the Python runtime's tags, frames untouched."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gstreamer import DEBIAN, environment, play, plugin

from ovml_deploy import assets
from ovml_deploy.errors import ImageError
from ovml_deploy.runtime.tagger import Tagger

pytest.importorskip("av", reason="the extra 'video' (av) is not installed")

from films import film, photograph, write_film

_OLD, _NEW = ["cat", "rocket", "flower"], ["coffee cup", "Siamese cat", "clock", "dog"]
_RGB = "video/x-raw,format=RGB ! appsink name=sink"
#: Frames that are under way when new words come: in the appsink, and in the element.
_UNDER_WAY = 2

pytestmark = pytest.mark.skipif(
    not (assets.MINI / "bundle.json").exists(), reason="the embedded model is not built"
)


@pytest.fixture(scope="module", autouse=True)
def _built() -> Path:
    return plugin()


@pytest.fixture(scope="module", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Labels that another device encoded differ in the last bit, and so do their vocabularies' ids."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OVML_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def python() -> Tagger:
    return Tagger.load(assets.MINI, device="openvino", precision="fp32")


@pytest.fixture(scope="module")
def moving(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An H.264 film of 60 frames that all differ, with rows that need filling up as RGB."""
    bases = [photograph(name, (158, 120)) for name in ("cat", "flower", "coffee")]
    frames = [np.roll(bases[index % 3], 2 * index, 1) for index in range(60)]
    return write_film(tmp_path_factory.mktemp("films") / "moving.mp4", frames)


def source(movie: Path, kind: str = "RGB") -> str:
    return f"filesrc location={movie} ! decodebin ! videoconvert ! video/x-raw,format={kind}"


def tag(**properties: object) -> str:
    words = {"bundle": assets.MINI, "threshold": 0, "top-k": 0, **properties}
    return "ovmltag name=tag " + " ".join(f'{name}="{value}"' for name, value in words.items())


def in_python(tagger: Tagger, labels: Sequence[str], frames: np.ndarray) -> list[dict[str, Any]]:
    tagger.use_vocabulary(list(labels))
    found = [tagger.tag(frame, top_k=None, threshold=0.0) for frame in frames]
    return [
        {
            "labels": [one.label for one in tags],
            "scores": pytest.approx([one.score for one in tags], rel=1e-4, abs=1e-9),
            "vocabulary": tags.vocabulary_id,
        }
        for tags in found
    ]


def without_name(message: dict[str, Any]) -> dict[str, Any]:
    return {field: message[field] for field in ("labels", "scores", "vocabulary")}


def test_gst_inspect_shows_it() -> None:
    done = subprocess.run(
        ["gst-inspect-1.0", "ovmltag"], env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    for name in (
        "bundle",
        "device",
        "labels",
        "vocabulary",
        "top-k",
        "threshold",
        "every",
        "post-messages",
    ):
        assert f"\n  {name} " in done.stdout


@pytest.mark.parametrize("kind", ["RGB", "I420", "NV12", "BGRx"])
def test_metadata_and_messages_are_the_tags_of_python(
    moving: Path, python: Tagger, kind: str
) -> None:
    every = 1 if kind == "RGB" else 6
    words = tag(labels=",".join(_OLD), every=every)
    played = play(f"{source(moving, kind)} ! {words} ! videoconvert ! {_RGB}")
    assert (len(played.frames), played.errors) == (60, [])
    expected = in_python(python, _OLD, played.pixels[::every])
    assert [frame["tags"] for frame in played.frames[::every]] == expected
    rest = [frame["tags"] for i, frame in enumerate(played.frames) if i % every]
    assert rest == [None] * len(rest)
    messages = played.named("ovmltag")
    assert [without_name(message) for message in messages] == expected
    assert [message["frame"] for message in messages] == list(range(0, 60, every))
    assert [message["pts"] for message in messages] == [f["pts"] for f in played.frames[::every]]
    times = [message["stream-time"] / 1e9 for message in messages]
    assert times == pytest.approx([index / 25 for index in range(0, 60, every)], abs=1e-3)


def test_a_device_by_name_gives_python_s_tags(
    moving: Path, device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OVML_CACHE", str(tmp_path))
    words = tag(labels=",".join(_OLD), every=20, device=device)
    played = play(f"{source(moving)} ! {words} ! appsink name=sink")
    python = Tagger.load(assets.MINI, device=device, precision="fp32")
    expected = in_python(python, _OLD, played.pixels[::20])
    assert [frame["tags"] for frame in played.frames[::20]] == expected


@pytest.mark.parametrize("kind", ["RGB", "I420"])
def test_frames_pass_untouched(moving: Path, kind: str) -> None:
    words = tag(labels="cat", every=7)
    with_it = play(f"{source(moving, kind)} ! {words} ! appsink name=sink")
    without = play(f"{source(moving, kind)} ! appsink name=sink")
    assert np.array_equal(with_it.pixels, without.pixels)
    assert [f["pts"] for f in with_it.frames] == [f["pts"] for f in without.frames]


def test_frames_that_others_hold_are_tagged_without_touching_theirs(moving: Path) -> None:
    """Behind a tee, buffers have two owners: tags belong to one branch alone."""
    branches = f"tee name=t t. ! queue ! {tag(labels='cat')} ! fakesink sync=false t. ! queue"
    played = play(f"{source(moving)} ! {branches} ! appsink name=sink")
    assert [frame["tags"] for frame in played.frames] == [None] * 60
    assert len(played.named("ovmltag")) == 60


def test_new_words_in_mid_stream(moving: Path, python: Tagger) -> None:
    steps = [
        {"at": 10, "set": {"labels": ",".join(_NEW)}},
        {"at": 20, "wait": "ovmltag-words"},  # frames went on until here
        {"at": 35, "set": {"labels": "cat,cat"}},
        {"at": 45, "wait": "warning"},
    ]
    words = tag(labels=",".join(_OLD))
    played = play(f"{source(moving)} ! {words} ! appsink name=sink", steps)
    plain = play(f"{source(moving)} ! appsink name=sink")
    assert np.array_equal(played.pixels, plain.pixels)  # no frame dropped, none changed
    assert played.errors == []

    expected = {
        labels: in_python(python, json.loads(labels), played.pixels)
        for labels in (json.dumps(_OLD), json.dumps(_NEW))
    }
    old, new = expected.values()
    found = [frame["tags"] for frame in played.frames]
    change = next(i for i, tags in enumerate(found) if tags["vocabulary"] == new[0]["vocabulary"])
    assert 10 <= change <= 20 + _UNDER_WAY
    assert found == [*old[:change], *new[change:]]  # every frame of one vocabulary, whole

    (swapped,) = played.named("ovmltag-words")
    assert (swapped["vocabulary"], swapped["count"]) == (new[0]["vocabulary"], len(_NEW))
    (warning,) = played.named("warning")
    assert "'cat') repeats label 1" in warning["text"]


def test_vocabularies_thresholds_and_top_k(moving: Path, python: Tagger, tmp_path: Path) -> None:
    """The bundle's default vocabulary, with its own threshold; then files of words."""
    (tmp_path / "words.txt").write_text("cat\nflower\ncoffee cup\n")
    python.use_vocabulary(["dog", "cat"])
    python.vocabulary.save(tmp_path / "pets.safetensors")
    pets = python.vocabulary.id
    steps = [
        {"at": 10, "set": {"top-k": 1, "threshold": 0.0}},
        {"at": 20, "set": {"vocabulary": str(tmp_path / "words.txt"), "top-k": 2}},
        {"at": 30, "wait": "ovmltag-words"},
        {"at": 35, "set": {"vocabulary": str(tmp_path / "pets.safetensors")}},
        {"at": 45, "wait": "ovmltag-words"},
    ]
    pipeline = f"{source(moving)} ! ovmltag name=tag bundle={assets.MINI} ! appsink name=sink"
    played = play(pipeline, steps)
    found = [frame["tags"] for frame in played.frames]
    python.use_vocabulary(python.bundle.default_vocabulary)
    for tags, frame in zip(found[:10], played.pixels[:10], strict=True):
        assert tags["labels"] == [one.label for one in python.tag(frame)]
        assert tags["vocabulary"] == python.vocabulary.id
    assert [len(tags["labels"]) for tags in found[10 + _UNDER_WAY : 20]] == [1] * 8
    assert [len(tags["labels"]) for tags in found[30 + _UNDER_WAY : 35]] == [2] * 3
    assert found[-1]["vocabulary"] == pets


def test_it_plays_again() -> None:
    small = "videotestsrc pattern=ball num-buffers=40 ! video/x-raw,format=RGB,width=158,height=120"
    both = play(f"{small} ! {tag(labels='cat', every=20)} ! appsink name=sink", times=2)
    first, again = both.frames[:40], both.frames[40:]
    assert [frame["tags"] for frame in first] == [frame["tags"] for frame in again]
    assert first[20]["tags"]["labels"] == ["cat"]


def test_a_frame_that_cannot_be_tagged_passes(python: Tagger) -> None:
    size = "video/x-raw,format=RGB,width=6000,height=1"
    played = play(f"videotestsrc num-buffers=3 ! {size} ! {tag(labels='cat')} ! appsink name=sink")
    with pytest.raises(ImageError):
        python.tag(played.pixels[0])
    assert [frame["tags"] for frame in played.frames] == [None] * 3
    assert all("error" in message for message in played.named("ovmltag"))
    assert len(played.named("ovmltag")) == 3


def without_default(tmp_path: Path) -> Path:
    bundle = tmp_path / "no-default"
    shutil.copytree(assets.MINI, bundle)
    manifest = json.loads((bundle / "bundle.json").read_text())
    del manifest["default_vocabulary"]
    (bundle / "bundle.json").write_text(json.dumps(manifest))
    return bundle


@pytest.mark.parametrize(
    ("properties", "message"),
    [
        ({"bundle": "/nowhere"}, "'/nowhere' is not a bundle"),
        ({"bundle": ""}, "Set the property 'bundle'"),
        ({"device": "abacus"}, "no device 'abacus'"),
        ({"labels": "cat,cat"}, "repeats label 1"),
        ({"labels": "owl,Owl"}, "the same token ids: labels 1, 2 ('owl', 'Owl')"),
        ({"labels": " , "}, "There are no labels"),
        ({"vocabulary": "nothing"}, "has no vocabulary 'nothing'"),
        ({"bundle": without_default}, "has no default vocabulary"),
    ],
)
def test_what_cannot_start_is_an_error_on_the_bus(
    tmp_path: Path, properties: dict[str, Any], message: str
) -> None:
    values = {k: v(tmp_path) if callable(v) else v for k, v in properties.items()}
    played = play(f"videotestsrc num-buffers=3 ! {tag(**values)} ! appsink name=sink")
    (error,) = played.errors
    assert message in error
    assert played.frames == []


def test_a_process_that_cannot_handle_exceptions_is_told_so() -> None:
    """NumPy before GStreamer: the first exception in C++ would end it."""
    program = f"""
import sys, numpy
sys.path.append({DEBIAN!r})
import gi
gi.require_version("Gst", "1.0")
from gi.repository import Gst
Gst.init(None)
pipeline = Gst.parse_launch("videotestsrc ! ovmltag bundle=/nowhere ! fakesink")
pipeline.set_state(Gst.State.PLAYING)
message = pipeline.get_bus().timed_pop_filtered(Gst.CLOCK_TIME_NONE, Gst.MessageType.ERROR)
print(message.parse_error()[0].message)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "import gi and Gst before NumPy" in done.stdout or "not a bundle" in done.stdout


def test_a_changed_bundle_is_an_error_on_the_bus(tmp_path: Path) -> None:
    shutil.copytree(assets.MINI, tmp_path / "bundle")
    with (tmp_path / "bundle" / "encoder.onnx").open("r+b") as file:
        file.truncate(1000)
    words = tag(bundle=tmp_path / "bundle")
    played = play(f"videotestsrc num-buffers=3 ! {words} ! appsink name=sink")
    assert "encoder.onnx was changed after export" in played.errors[0]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scenes") / "a film.mp4"
    return film(path, [("flower", 2), ("cat", 2)], rate=10)


def stream(*words: object) -> subprocess.CompletedProcess[str]:
    command = [str(plugin() / "tag_stream"), *map(str, words)]
    return subprocess.run(command, env=environment(), capture_output=True, text=True)


def test_tag_stream_prints_times_and_tags(scenes: Path, python: Tagger) -> None:
    options = ("--bundle", assets.MINI, "--labels", "cat,flower", "--top-k", 1, "--threshold", 0)
    done = stream(*options, "--fps", 2, scenes)
    assert (done.returncode, done.stderr) == (0, "")
    lines = [line.split("  ") for line in done.stdout.splitlines()]
    assert [line[0] for line in lines] == [f"{index / 2:.3f}" for index in range(8)]
    plain = play(f'filesrc location="{scenes}" ! decodebin ! videoconvert ! {_RGB}')
    for line, best in zip(
        lines, in_python(python, ["cat", "flower"], plain.pixels[::5]), strict=True
    ):
        assert line[1].split()[0] == best["labels"][0]
        assert float(line[1].split()[1]) == pytest.approx(best["scores"].expected[0], abs=0.006)


def test_tag_stream_turns_a_rotated_video_upright(tmp_path: Path) -> None:
    options = ("--bundle", assets.MINI, "--labels", "missile", "--threshold", 0)
    upright = photograph("rocket")
    scores = []
    for quarters in (0, 1, 2, 3):
        movie = tmp_path / f"{quarters}.mp4"
        write_film(movie, [np.rot90(upright, -quarters)], quarters=quarters)
        done = stream(*options, movie)
        assert (done.returncode, done.stderr) == (0, "")
        scores.append(float(done.stdout.split()[-1]))
    assert scores[0] > 0.2  # at most 0.02 if it is turned by 90 or 180 degrees
    assert scores == pytest.approx([scores[0]] * 4, abs=0.1)


def test_tag_stream_takes_a_pipeline_and_says_what_is_wrong() -> None:
    options = ("--bundle", assets.MINI)
    done = stream(*options, "--fps", 5, "videotestsrc num-buffers=30")
    assert (done.returncode, done.stderr, len(done.stdout.splitlines())) == (0, "", 5)
    for words, code, message in (
        ((*options, "nonsense"), 1, "no element"),
        ((*options, "filesrc location=/nowhere.mp4 ! decodebin"), 1, "No such file"),
        (("--bundle", "/nowhere", "videotestsrc"), 1, "is not a bundle"),
        ((*options, "--device", "abacus", "videotestsrc"), 2, "no device 'abacus'"),
        ((*options, "--fps", 0, "videotestsrc"), 2, "'0' is not a number"),
        ((*options,), 2, "There is no film"),
        ((*options, "videotestsrc num-buffers=1 ! video/x-raw,width=6000,height=1"), 3, "failed"),
    ):
        done = stream(*words)
        assert done.returncode == code, (words, done.stderr)
        assert message in done.stderr


def test_under_the_sanitizers(moving: Path) -> None:
    """gst-launch with the element built with ASan and UBSan, whose library comes first."""
    libraries = [
        subprocess.run(["c++", f"-print-file-name={name}"], capture_output=True, text=True)
        for name in (
            "libasan.so",
            "libstdc++.so",
        )  # gst-launch is plain C, and ASan wants to find both
    ]
    command = ["gst-launch-1.0", "-m", *source(moving).split()]
    command += f"! ovmltag bundle={assets.MINI} labels=cat,dog every=20 ! fakesink".split()
    asan = {
        "LD_PRELOAD": " ".join(found.stdout.strip() for found in libraries),
        "ASAN_OPTIONS": "exitcode=99:detect_leaks=0",
        "UBSAN_OPTIONS": "exitcode=99",
        "TBB_ENABLE_SANITIZERS": "1",
        "GST_REGISTRY_FORK": "no",
    }
    done = subprocess.run(
        command, env={**environment("asan"), **asan}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.count("ovmltag, frame=") == 3

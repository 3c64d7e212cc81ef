"""The command: what it prints, what it refuses, and its exit codes."""

import csv
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ovml_deploy import __version__, assets
from ovml_deploy.runtime.bundle import Bundle
from ovml_deploy.runtime.tagger import Tagger

ROOT = Path(__file__).resolve().parents[2]
needs_mini = pytest.mark.skipif(
    not (assets.MINI / "bundle.json").exists(), reason="the embedded model is not built yet"
)


@pytest.fixture
def tag(cli, tiny_bundle):
    """A function that runs ``ovml-deploy tag`` on the tiny bundle and reads its JSON."""

    def run(*arguments: object) -> list[dict]:
        done = cli("tag", *arguments, "--engine", tiny_bundle, "--format", "json")
        assert done.code == 0, done.err
        return json.loads(done.out)

    return run


def in_a_process(*arguments: object, **options) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "ovml_deploy.cli", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, **options)


def test_tag_prints_a_table(cli, tiny_bundle: Path, pictures: list[Path]) -> None:
    done = cli("tag", *pictures[:2], "--engine", tiny_bundle)
    assert (done.code, done.err) == (0, "")
    first = Tagger.load(tiny_bundle).tag(pictures[0])[0]
    shown = " ".join(done.out.split())
    assert pictures[1].name in shown
    assert f"{first.label} {first.score:.2f}" in shown


def test_tag_prints_json_of_the_taggers_results(tag, tiny_tagger: Tagger, pictures) -> None:
    for value, path in zip(tag(*pictures), pictures, strict=True):
        result = tiny_tagger.tag(path)
        assert value["image"] == str(path)
        assert value["vocabulary"] == result.vocabulary_id
        assert [t["label"] for t in value["tags"]] == [t.label for t in result]
        assert [t["query"] for t in value["tags"]] == [t.query for t in result]
        scores = [t["score"] for t in value["tags"]]
        assert scores == pytest.approx([t.score for t in result], rel=1e-4)


def test_tag_names_the_stage_that_holds_up_the_engine(cli, tiny_bundle, pictures, tmp_path) -> None:
    for number in range(64):
        shutil.copy(pictures[0], tmp_path / f"{number}{pictures[0].suffix}")
    done = cli("tag", tmp_path, "--engine", tiny_bundle)
    assert done.code == 0
    assert "bottleneck: " in done.err  # the tiny model is quicker than any decoder
    few = cli("tag", *sorted(tmp_path.iterdir())[:8], "--engine", tiny_bundle)
    assert (few.code, few.err) == (0, "")


def test_tag_prints_csv(cli, tiny_bundle: Path, pictures: list[Path]) -> None:
    done = cli("tag", pictures[0], "--engine", tiny_bundle, "--format=csv", "--top-k=3")
    rows = list(csv.DictReader(io.StringIO(done.out)))
    assert len(rows) == 3
    assert {row["image"] for row in rows} == {str(pictures[0])}
    assert float(rows[0]["score"]) >= float(rows[1]["score"])


def test_top_k_and_threshold(tag, pictures: list[Path]) -> None:
    everything = tag(pictures[0], "--top-k", 99)[0]["tags"]
    assert len(everything) == 5
    assert tag(pictures[0], "--top-k", 2, "--batch-size", 1)[0]["tags"] == everything[:2]
    middle = everything[2]["score"]
    assert tag(pictures[0], "--threshold", middle)[0]["tags"] == everything[:3]


def test_tag_takes_folders_and_patterns(tag, pictures: list[Path]) -> None:
    folder = pictures[0].parent
    assert [v["image"] for v in tag(folder)] == [str(path) for path in sorted(pictures)]
    by_pattern = tag(f"{folder}/*.png", pictures[0])
    assert [Path(v["image"]).suffix for v in by_pattern] == [".png"] * 3 + [".jpg"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--labels", "2024, 007,1e3,None,True,hard hat"],
        ["--labels=2024,007,1e3,None,True,hard hat"],
        ["--vocab", "labels.txt"],
    ],
)
def test_labels_that_look_like_numbers_stay_text(
    tag, pictures, tmp_path, monkeypatch, arguments: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    labels = ["2024", "007", "1e3", "None", "True", "hard hat"]
    Path("labels.txt").write_text("\n".join(labels))
    (value,) = tag(pictures[0], *arguments, "--top-k", 10)
    assert {t["label"] for t in value["tags"]} == set(labels)


def test_photos_that_look_like_numbers_are_files(tag, pictures, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("2024", "1e3", "None"):
        shutil.copy(pictures[0], name)
    assert [v["image"] for v in tag("2024", "1e3", "None")] == ["2024", "1e3", "None"]


def test_a_stored_vocabulary_has_a_name(tag, pictures: list[Path]) -> None:
    labels = {t["label"] for t in tag(pictures[0], "--vocab", "others")[0]["tags"]}
    assert labels == {"boat", "2024", "traffic light", "small bench"}


@pytest.mark.parametrize("form", ["table", "json", "csv"])
def test_bad_files_are_listed_at_the_end(cli, tiny_bundle, pictures, tmp_path, form: str) -> None:
    page = tmp_path / "page.jpg"
    page.write_text("<html>not found</html>")
    names = [page, pictures[0], tmp_path / "absent.jpg", pictures[1]]
    done = cli("tag", *names, "--engine", tiny_bundle, "--format", form)
    assert done.code == 3
    first, second = done.err.splitlines()
    assert first.startswith(f"failed: {page}: not an image that can be read (it is an HTML page")
    assert second == f"failed: {tmp_path}/absent.jpg: there is no such file."
    assert pictures[1].name in " ".join(done.out.split())


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--format", "xml"], 2, "Unknown format 'xml'. Choose one of: table, json, csv"),
        (["--top-k", "many"], 2, "'many' is not a whole number"),
        (["--top-k", "²"], 2, "'²' is not a whole number"),
        (["--top-k", "0"], 2, "top_k is 0"),
        (["--threshold", "high"], 2, "'high' is not a number"),
        (["--threshold", "7"], 2, "scores lie between 0 and 1"),
        (["--batch-size", "0"], 2, "batch_size is 0"),
        (["--vocab", "few", "--labels", "cat"], 2, "Give --vocab or --labels, not both"),
        (["--colour", "red"], 2, "colour"),
        (["--device", "gpu"], 1, "Unknown device 'gpu'. There are: auto, cuda, "),
        (["--labels", "cat,cat"], 1, "Label 2 ('cat') repeats label 1"),
        (["--labels", ""], 2, "--labels is empty"),
        (["--labels", " , "], 1, "There are no labels"),
        (["--vocab", "absent"], 1, "has no vocabulary 'absent'; it has: few, others"),
        (["--vocab", "x" * 5000], 1, "File name too long"),
        (["--vocab", "latin1.txt"], 1, "is not UTF-8 (line 1, byte 3)"),
    ],
)
def test_what_tag_refuses(
    cli, tiny_bundle, pictures, tmp_path, monkeypatch, arguments, code: int, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("latin1.txt").write_bytes(b"caf\xe9\n")
    done = cli("tag", pictures[0], "--engine", tiny_bundle, *arguments)
    assert done.code == code
    assert message in done.err
    assert done.out == ""


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["tag"], 2, "No images are named"),
        (["tag", "x.jpg", "--engine", "absent"], 1, "'absent' is not a bundle"),
        (["tag", "*.nothing"], 2, "No file matches the pattern"),
        (["tagg"], 2, "tagg"),
        (["vocab", "show"], 2, "vocabulary"),
        (["vocab", "build", "absent.txt", "--engine", "BUNDLE"], 1, "cannot be read"),
        (["vocab", "show", "absent", "--engine", "BUNDLE"], 1, "no vocabulary 'absent'"),
        (["vocab", "show", "absent.safetensors"], 1, "There is no vocabulary file"),
        (["info", "--engine", "absent"], 1, "not a bundle"),
        (["verify", "--engine", "absent"], 1, "not a bundle"),
        (["verify", "--engine", "BUNDLE", "--device", "tpu"], 1, "Unknown device 'tpu'"),
        (["verify", "--engine", "BUNDLE", "extra"], 2, "extra"),
    ],
)
def test_what_the_others_refuse(cli, tiny_bundle, arguments, code: int, message: str) -> None:
    done = cli(*[tiny_bundle if a == "BUNDLE" else a for a in arguments])
    assert done.code == code
    assert message in done.err


def test_an_unknown_option_is_met_before_anything_runs(cli, bundle_copy, tmp_path) -> None:
    labels = tmp_path / "words.txt"
    labels.write_text("forklift\n")
    target = bundle_copy / "vocabularies" / "words.safetensors"
    assert cli("vocab", "build", labels, "--engine", bundle_copy, "--nmae", "x").code == 2
    assert not target.exists()
    assert cli("vocab", "build", labels, "--engine", bundle_copy).code == 0
    assert target.exists()


def test_info_describes_a_bundle(cli, tiny_bundle: Path) -> None:
    done = cli("info", "--engine", tiny_bundle)
    assert done.code == 0
    bundle = Bundle.open(tiny_bundle)
    shown = " ".join(done.out.split())
    for part in (
        "qks (width 64, embed_dim 32, layers 2, queries 3",
        "image 32x32, shortest",
        "features 3 x 32",
        f"prompts 2, hash {bundle.prompt_hash}",
        f"text encoder hash {bundle.text_hash}",
        "vocabularies few, others",
        "parity of logits relative error",
        "onnxruntime",
    ):
        assert part in shown


def test_version(cli) -> None:
    assert cli("version").out == f"{__version__}\n"


@pytest.mark.parametrize("arguments", [[], ["vocab"], ["tag", "--help"], ["--help"]])
def test_help_lists_what_there_is(arguments: list[str]) -> None:
    done = in_a_process(*arguments, env={**os.environ, "PAGER": "cat"})
    assert done.returncode == 0
    shown = (done.stdout + done.stderr).decode()
    assert ("--threshold" if "tag" in arguments else "vocab") in shown
    assert "FIRE_METADATA" not in shown


def test_doctor_says_what_is_installed(cli, tiny_bundle: Path) -> None:
    done = cli("doctor", "--engine", tiny_bundle)
    shown = " ".join(done.out.split())
    assert done.code == 0, shown
    for part in (
        f"ovml-deploy {__version__} on Python",
        "onnxruntime",
        "CPUs",
        "auto ONNX Runtime",
        "cpu fp32 ONNX Runtime",
        "against PyTorch relative error of features",
        "CPUExecutionProvider; text encoder:",
        "OVML_DEVICE cpu",  # as the tests have it
        "All is well: ",
    ):
        assert part in shown
    assert "WRONG" not in shown


def test_doctor_for_programs(cli, tiny_bundle: Path) -> None:
    done = cli("doctor", "--engine", tiny_bundle, "--json")
    assert done.code == 0
    report = json.loads(done.out)
    assert report["ovml-deploy"] == __version__
    assert report["machine"]["ovml_device"] == "cpu"
    (trial,) = [trial for trial in report["trials"] if trial["device"] == "cpu"]
    assert trial["placement"]["encoder"]["CPUExecutionProvider"] > 0
    assert [advice["wrong"] for advice in report["verdict"]] == [False] * len(report["verdict"])


@pytest.mark.parametrize("wrong", ["model", "cache"])
def test_doctor_says_what_is_wrong(cli, monkeypatch, tiny_bundle, tmp_path, wrong: str) -> None:
    if wrong == "cache":
        monkeypatch.setattr(os, "access", lambda path, mode: False)
    done = cli("doctor", "--engine", tmp_path if wrong == "model" else tiny_bundle)
    assert done.code == 1
    found, verdict = [line for line in done.out.splitlines() if "WRONG" in line]
    assert {"model": "not a bundle", "cache": "(not writable)"}[wrong] in found
    assert {"model": "not a bundle", "cache": "OVML_CACHE"}[wrong] in done.out
    assert verdict.startswith("WRONG")


def test_names_that_are_no_text_survive(tiny_bundle: Path, pictures, tmp_path: Path) -> None:
    """A file system's names are bytes; a terminal may know ASCII only."""
    name = os.fsencode(tmp_path) + b"/caf\xe9 \xe7\x8c\xab.png"
    shutil.copy(pictures[1], name)
    for form in ("table", "json", "csv"):
        done = in_a_process(
            *("tag", tmp_path, "--engine", tiny_bundle, "--format", form),
            *("--labels", "caf\u00e9,\u732b"),
            env={**os.environ, "PYTHONIOENCODING": "ascii"},
        )
        assert done.returncode == 0, done.stderr
        assert rb"\udce9" in done.stdout
        if form == "json":
            (value,) = json.loads(done.stdout)
            assert os.fsencode(value["image"]) == name


@pytest.mark.parametrize("lines", [0, 1])
def test_a_reader_that_has_seen_enough_is_no_error(tiny_bundle: Path, lines: int) -> None:
    command = f"{sys.executable} -m ovml_deploy.cli vocab show few --engine '{tiny_bundle}'"
    done = subprocess.run(
        ["bash", "-c", f"{command} | head -n {lines}; exit ${{PIPESTATUS[0]}}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_an_interruption_is_told_apart(cli, tiny_bundle, pictures, monkeypatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Tagger, "tag_many", interrupt)
    done = cli("tag", pictures[0], "--engine", tiny_bundle)
    assert (done.code, done.err) == (130, "interrupted\n")


@needs_mini
def test_demo_tags_the_samples_twice_and_draws_them(cli, tmp_path: Path) -> None:
    done = cli("demo", "--out", tmp_path / "demo.jpg")
    assert done.code == 0
    for photograph in assets.sample_photographs():
        assert done.out.count(photograph.name) == 2
    assert (tmp_path / "demo.jpg").stat().st_size > 50_000


@needs_mini
def test_the_embedded_model_is_the_default(cli) -> None:
    sample = assets.sample_photographs()[0]
    done = cli("tag", sample, "--format", "json", "--threshold", 0)  # its own may leave few
    assert done.code == 0
    assert len(json.loads(done.out)[0]["tags"]) == 5
    # 'verify' writes into the bundle: test_cli_verify.py runs it on a copy
    for command in (["info"], ["vocab", "list"], ["doctor"]):
        assert cli(*command).code == 0

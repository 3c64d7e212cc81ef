"""``index`` and ``retag``: what they print, refuse, leave behind when killed, and their exit codes."""

import json
import os
from pathlib import Path

import pytest

pytest.importorskip("pyarrow", reason="the extra 'archives' (pyarrow) is not installed")

import pyarrow.parquet as pq
from archive_files import kill_when, make_images

from ovml_deploy.pipelines.archives import Archive
from ovml_deploy.runtime.tagger import Tagger


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """A folder of twelve images, one of them broken."""
    return make_images(tmp_path_factory.mktemp("cli") / "photos", 12, {5})[0].parent


@pytest.fixture
def archive(cli, photos, tiny_bundle, tmp_path) -> Path:
    out = tmp_path / "archive"
    assert cli("index", photos, "--out", out, "--engine", tiny_bundle).code == 3
    return out


def test_index_says_what_it_did_and_what_failed(cli, photos, tiny_bundle, tmp_path) -> None:
    arguments = ("index", photos, "--out", tmp_path / "a", "--engine", tiny_bundle)
    first, again = cli(*arguments), cli(*arguments)
    assert (first.code, again.code) == (3, 3)
    assert "11 images added, 0 copies of others, 0 there already, 1 failed" in first.out
    assert "stored in fp16: relative error" in first.out
    assert "(first 11 images)" in first.out
    assert f"failed: {photos / '0005.png'}" in first.err
    assert "0 images added, 0 copies of others, 11 there already, 1 failed" in again.out
    good = cli("index", photos / "0001.png", "--out", tmp_path / "a", "--engine", tiny_bundle)
    assert (good.code, good.err) == (0, "")


def test_ten_thousand_files_of_which_300_are_broken(cli, tiny_bundle, tmp_path) -> None:
    broken = {*range(7, 9907, 33)}
    paths = make_images(tmp_path / "photos", 10_000, broken)
    assert len(broken) == 300
    engine = ("--engine", tiny_bundle)

    tags = tmp_path / "tags.jsonl"
    done = cli("tag", tmp_path / "photos", "--labels", "cat,dog", "--out", tags, *engine)
    assert done.code == 3
    failed = {line.split(": ", 2)[1] for line in done.err.splitlines() if "failed: " in line}
    assert failed == {str(paths[number]) for number in broken}
    good = [str(path) for number, path in enumerate(paths) if number not in broken]
    assert [json.loads(line)["path"] for line in tags.read_text().splitlines()] == good

    archive = tmp_path / "archive"
    done = cli("index", tmp_path / "photos", "--out", archive, *engine)
    assert done.code == 3
    assert "9,700 images added, 0 copies of others, 0 there already, 300 failed" in done.out
    assert len((archive / "errors.jsonl").read_text().splitlines()) == 300
    rows = Archive.open(archive).retag(Tagger.load(tiny_bundle), ["cat", "dog"])
    assert [row.source for row in rows] == good


def test_index_names_the_stage_that_holds_up_the_engine(cli, photos, tiny_bundle, tmp_path) -> None:
    done = cli("index", photos, "--out", tmp_path / "a", "--engine", tiny_bundle)
    assert "bottleneck: " in done.err  # the tiny model is quicker than any decoder
    assert "% of the engine's own rate" in done.err


@pytest.mark.parametrize("ending", ["parquet", "csv", "jsonl", "json"])
def test_retag_writes_what_the_ending_says(cli, archive, tiny_bundle, tmp_path, ending) -> None:
    out = tmp_path / f"tags.{ending}"
    done = cli("retag", archive, "--labels", "cat,dog", "--out", out, "--engine", tiny_bundle)
    assert (done.code, done.out) == (0, f"11 images with 2 labels: {out}\n")
    assert out.stat().st_size > 100


def test_retag_gives_the_taggers_tags(cli, archive, photos, tiny_bundle, tmp_path) -> None:
    (tmp_path / "labels.txt").write_text("boat\nlamp\nhouse\n")
    out, engine = tmp_path / "tags.parquet", ("--engine", tiny_bundle)
    options = ("--vocab", tmp_path / "labels.txt", "--top-k", 2, "--threshold", 0.01)
    assert cli("retag", archive, "--out", out, *options, *engine).code == 0
    tagger = Tagger.load(tiny_bundle, vocabulary=["boat", "lamp", "house"])
    for row in pq.read_table(out).to_pylist():
        wanted = tagger.tag(row["path"], 2, 0.01)
        scores = [tag["score"] for tag in row["tags"]]
        assert scores == pytest.approx([tag.score for tag in wanted], abs=1e-2)


def test_wrong_command_lines(cli, archive, photos, tiny_bundle, tmp_path) -> None:
    engine = ("--engine", tiny_bundle)
    for arguments, message in (
        (("index", "--out", tmp_path / "b"), "No images are named"),
        (("index", photos, "--out", tmp_path / "b", "--precision", "fp8"), "fp16 or int8"),
        (("index", photos, "--out", tmp_path / "b", "--batch-size", 0), "batch_size is 0"),
        (("retag", archive, "--out", tmp_path / "t.csv"), "--vocab or --labels"),
        (("retag", archive, "--out", tmp_path / "t.xls", "--labels", "a"), ".parquet"),
        (("retag", archive, "--out", tmp_path / "t.csv", "--labels", "a", "--top-k", 0), "top_k"),
    ):
        done = cli(*arguments, *engine)
        assert done.code == 2, done
        assert message in done.err
    for arguments, message in (
        (("retag", photos, "--out", tmp_path / "t.csv", "--labels", "a"), "is not an archive"),
        (("index", photos, "--out", photos), "no archive and not empty"),
    ):
        done = cli(*arguments, *engine)
        assert done.code == 1, done
        assert message in done.err
    assert not (tmp_path / "t.csv").exists()


def test_retag_refuses_another_model(cli, archive, bundle_copy, tmp_path) -> None:
    from bundles import change_arrays

    change_arrays(
        bundle_copy, "golden.safetensors", lambda arrays: arrays["logits"].__imul__(1 + 1e-6)
    )
    out = tmp_path / "t.csv"
    done = cli("retag", archive, "--labels", "a", "--out", out, "--engine", bundle_copy)
    assert done.code == 1
    assert "holds features of another model" in done.err
    assert "--engine" in done.err


def test_retag_killed_and_run_again_gives_the_same(archive, tiny_bundle, tmp_path) -> None:
    """On an archive large enough to be met half written: its parts many times over."""
    for number in range(1, 400):
        os.link(archive / "part-00000.parquet", archive / f"part-{number:05d}.parquet")
    assert Archive.open(archive).images == 4400
    engine = ("--engine", tiny_bundle)

    def retag(out: Path) -> tuple[object, ...]:
        return ("retag", archive, "--labels", "cat,dog,tree", "--out", out, *engine)

    from ovml_deploy.cli import main

    whole, out = tmp_path / "whole.jsonl", tmp_path / "killed.jsonl"
    assert main([str(a) for a in retag(whole)]) == 0

    def half_written() -> bool:
        return any(path.stat().st_size > 0 for path in tmp_path.glob(".killed.jsonl.*"))

    kill_when(half_written, out, *retag(out))
    assert not out.exists()
    assert main([str(a) for a in retag(out)]) == 0
    assert out.read_bytes() == whole.read_bytes()
    assert len(whole.read_text().splitlines()) == 4400
    assert len(json.loads(whole.read_text().splitlines()[0])["tags"]) == 3


def test_without_pyarrow_the_extra_is_named(photos, tiny_bundle, tmp_path) -> None:
    import subprocess
    import sys

    code = (
        "import sys; sys.modules['pyarrow'] = None\n"
        "from ovml_deploy.cli import main\n"
        f"sys.exit(main(['index', {str(photos)!r}, '--out', {str(tmp_path / 'a')!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert "pip install 'ovml-deploy[archives]'" in done.stderr
    assert not (tmp_path / "a").exists()

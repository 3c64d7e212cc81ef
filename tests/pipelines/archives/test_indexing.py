"""An archive is the same whatever happened while it was filled, and holds what the model gave."""

import json
import shutil
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from archive_files import content, kill_when, make_images, make_tar

from ovml_deploy import assets
from ovml_deploy.errors import UsageError
from ovml_deploy.pipelines.archives import Archive, ArchiveError, index
from ovml_deploy.pipelines.archives.filling import filling
from ovml_deploy.pipelines.archives.layout import Manifest
from ovml_deploy.runtime.tagger import Tagger

BROKEN = {3, 40, 41, 99, 150, 199}


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> list[Path]:
    """200 files, six of them broken, and two copies of one."""
    paths = make_images(tmp_path_factory.mktemp("images") / "photos", 200, BROKEN)
    for name in ("0001b.png", "0160b.png"):
        paths.append(shutil.copy(paths[1], paths[0].with_name(name)))
    return sorted(paths)


@pytest.fixture(scope="module")
def tagger(tiny_bundle) -> Tagger:
    return Tagger.load(tiny_bundle)


@pytest.fixture(scope="module")
def whole(images, tagger, tmp_path_factory) -> Path:
    """The archive of an uninterrupted run."""
    out = tmp_path_factory.mktemp("whole") / "archive"
    failed: list[str] = []
    report = index(
        tagger,
        [images[0].parent],
        out,
        shard_rows=32,
        on_failure=lambda name, why: failed.append(why),
    )
    assert (report.added, report.copies, report.skipped, report.failed) == (194, 2, 0, 6)
    assert len(failed) == 6
    return out


def test_features_are_the_model_s(whole, images, tagger) -> None:
    archive = Archive.open(whole)
    assert (archive.images, archive.copies, len(archive)) == (194, 2, 196)
    names, features = [], []
    for block in archive.blocks(50):
        names += block.names.to_pylist()
        features.append(block.features)
    good = [str(p) for i, p in enumerate(images) if p.stem[-1] != "b" and int(p.stem) not in BROKEN]
    assert names == good
    exact = tagger.encode(good)
    np.testing.assert_allclose(np.concatenate(features), exact, rtol=2**-10, atol=1e-3)


def test_broken_images_are_listed_with_their_reasons(whole, images) -> None:
    lines = [json.loads(line) for line in (whole / "errors.jsonl").read_text().splitlines()]
    assert [Path(line["path"]).stem for line in lines] == [f"{n:04d}" for n in sorted(BROKEN)]
    assert all(line["path"] in line["error"] for line in lines)


def test_copies_refer_to_the_row_with_their_content(whole, images) -> None:
    rows = [
        row for path in sorted(whole.glob("copies-*")) for row in pq.read_table(path).to_pylist()
    ]
    assert [Path(row["path"]).stem for row in rows] == ["0001b", "0160b"]
    assert {row["row"] for row in rows} == {1}
    first = pq.read_table(whole / "part-00000.parquet").to_pylist()[1]
    assert {row["sha256"] for row in rows} == {first["sha256"]}


def test_the_loss_is_measured(whole, tagger) -> None:
    loss = Manifest.read(whole).loss
    assert loss.images == 31  # the first part has one copy
    assert 0 < loss.relative_error < 1e-3
    assert loss.top5_agreement == 1  # of five labels


@pytest.mark.parametrize("parts", [0, 1, 3])
def test_killed_and_run_again_it_is_the_same(whole, images, tiny_bundle, tmp_path, parts) -> None:
    out = tmp_path / "archive"
    arguments = (
        "index",
        images[0].parent,
        "--out",
        out,
        "--engine",
        tiny_bundle,
        "--shard-rows",
        32,
    )
    reached = out / (f"part-{parts - 1:05d}.parquet" if parts else ".lock")
    kill_when(reached.exists, out, *arguments)
    left = sorted(path.name for path in out.glob("part-*"))
    assert parts <= len(left)
    assert not (out / "errors.jsonl").exists()  # it did not get to the end
    report = index(Tagger.load(tiny_bundle), [images[0].parent], out, shard_rows=32)
    assert content(out) == content(whole)
    assert report.skipped >= 32 * parts
    assert not [*out.glob(".*.part")]


def test_run_again_nothing_changes_and_failures_are_tried_again(
    whole, images, tagger, tmp_path
) -> None:
    out = Path(shutil.copytree(whole, tmp_path / "archive"))
    report = index(tagger, [images[0].parent], out, shard_rows=32)
    assert (report.added, report.copies, report.skipped, report.failed) == (0, 0, 196, 6)
    assert content(out) == content(whole)
    assert index(tagger, images[:2], out).skipped == 2
    assert (out / "errors.jsonl").read_bytes() == (whole / "errors.jsonl").read_bytes()


def test_a_repaired_image_and_new_ones_are_added(whole, images, tagger, tmp_path) -> None:
    folder = Path(shutil.copytree(images[0].parent, tmp_path / "photos"))
    out = tmp_path / "archive"
    first = index(tagger, [folder / f"{n:04d}.png" for n in range(5)], out)
    assert (first.added, first.failed) == (4, 1)
    shutil.copy(folder / "0100.png", folder / "0003.png")
    again = index(tagger, [folder / f"{n:04d}.png" for n in range(8)], out)
    assert (again.added, again.skipped, again.failed) == (4, 4, 0)
    assert (out / "errors.jsonl").read_text() == ""


def test_a_tar_and_a_folder_give_the_same_features(whole, images, tagger, tmp_path) -> None:
    tar = make_tar(tmp_path / "a.tar", [(path.name, path.read_bytes()) for path in images])
    report = index(tagger, [tar], tmp_path / "archive", shard_rows=32)
    assert (report.added, report.copies, report.failed) == (194, 2, 6)
    mine, wanted = (
        [block.features for block in Archive.open(path).blocks()]
        for path in (tmp_path / "archive", whole)
    )
    np.testing.assert_array_equal(np.concatenate(mine), np.concatenate(wanted))
    assert index(tagger, [images[0].parent], tmp_path / "archive").copies == 196


def test_a_tar_that_was_repaired(images, tagger, tmp_path) -> None:
    tar = make_tar(tmp_path / "a.tar", [(path.name, path.read_bytes()) for path in images[:3]])
    data, out = tar.read_bytes(), tmp_path / "archive"
    tar.write_bytes(data[:5000])
    first = index(tagger, [tar], out)
    assert (first.added, first.failed) == (1, 1)
    assert str(tar) in (out / "errors.jsonl").read_text()
    tar.write_bytes(data)
    again = index(tagger, [tar], out)
    assert (again.added, again.copies, again.skipped, again.failed) == (1, 1, 1, 0)
    assert (out / "errors.jsonl").read_text() == ""


def test_one_process_fills_it_and_others_read(whole, tagger, images, tmp_path) -> None:
    out = Path(shutil.copytree(whole, tmp_path / "archive"))
    with filling(out, Manifest.of(tagger.bundle, "fp16"), "test"):
        with pytest.raises(ArchiveError, match="Another process is filling"):
            index(tagger, images[:1], out)
        assert Archive.open(out).images == 194


@pytest.mark.skipif(not assets.MINI.exists(), reason="the embedded model is not built")
def test_another_model_is_refused(whole, images) -> None:
    with pytest.raises(ArchiveError, match="another model"):
        index(Tagger.load(assets.MINI), images[:1], whole)


def test_another_precision_is_refused(whole, tagger, images) -> None:
    with pytest.raises(ArchiveError, match="--precision fp16"):
        index(tagger, images[:1], whole, precision="int8")


def test_a_folder_of_something_else_is_left_alone(tagger, images, tmp_path) -> None:
    (tmp_path / "diary.txt").write_text("dear diary")
    with pytest.raises(ArchiveError, match=r"not empty \(it has 'diary.txt'\)"):
        index(tagger, images[:1], tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["diary.txt"]


def test_senseless_options_are_refused(tagger, images, tmp_path) -> None:
    for options in ({"precision": "fp8"}, {"batch_size": 0}, {"shard_rows": 0}):
        with pytest.raises(UsageError):
            index(tagger, images[:1], tmp_path / "archive", **options)
    assert not (tmp_path / "archive").exists()


def test_an_archive_of_broken_images_only(tagger, images, tmp_path) -> None:
    report = index(tagger, [images[0].with_name("0003.png")], tmp_path / "archive")
    assert (report.added, report.failed, report.loss) == (0, 1, None)
    assert len(Archive.open(tmp_path / "archive")) == 0


def test_int8_is_half_as_large(tagger, images, tmp_path, whole) -> None:
    out = tmp_path / "archive"
    report = index(tagger, [images[0].parent], out, precision="int8", shard_rows=32)
    assert 0 < report.loss.relative_error < 0.02
    assert report.loss.top5_agreement == 1
    stored = np.concatenate([block.features for block in Archive.open(out).blocks()])
    exact = np.concatenate([block.features for block in Archive.open(whole).blocks()])
    assert np.linalg.norm(stored - exact) < 0.02 * np.linalg.norm(exact)
    schema = pq.read_schema(out / "part-00000.parquet")
    assert schema.field("features").type.byte_width == exact[0].size


def test_stages_add_up(tagger, images, tmp_path) -> None:
    start = time.perf_counter()
    stages = index(tagger, [images[0].parent], tmp_path / "archive").stages
    assert (
        0 < sum((stages.encoding, stages.decoding, stages.storing)) <= time.perf_counter() - start
    )
    assert stages.beside > 0
    assert sum(stages.shares.values()) == pytest.approx(1)

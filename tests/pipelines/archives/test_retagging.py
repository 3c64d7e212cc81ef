"""Tags of stored features are the matcher's, and those that the Tagger gives for the images."""

import os
import shutil
import threading
from concurrent.futures import Executor, Future
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from archive_files import make_images
from bundles import edit_manifest

from ovml_deploy import assets
from ovml_deploy.errors import UsageError, VocabularyError
from ovml_deploy.pipelines.archives import Archive, ArchiveError, index, reading, retagging
from ovml_deploy.runtime import iteration
from ovml_deploy.runtime.calibration import Calibration
from ovml_deploy.runtime.results import select_tags
from ovml_deploy.runtime.tagger import Tagger
from ovml_deploy.runtime.vocabulary import Vocabulary

WORDS = ("cat", "dog", "coffee cup", "flower", "rocket", "temple", "clock", "camera")


@pytest.fixture(scope="module")
def tagger() -> Tagger:
    if not (assets.MINI / "bundle.json").exists():
        pytest.skip("the embedded model is not built")
    return Tagger.load(assets.MINI)


@pytest.fixture(scope="module")
def samples(tmp_path_factory) -> list[Path]:
    """The sample photographs, and one of them twice."""
    folder = tmp_path_factory.mktemp("samples")
    paths = [Path(shutil.copy(path, folder)) for path in assets.sample_photographs()]
    return [*paths, Path(shutil.copy(paths[2], folder / "z-copy.jpg"))]


@pytest.fixture(scope="module")
def archives(tagger, samples, tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("archives")
    for precision in ("fp16", "int8"):
        index(tagger, samples, folder / precision, precision=precision, shard_rows=5)
    return {precision: folder / precision for precision in ("fp16", "int8")}


def random_words(tagger: Tagger, count: int, calibrated: bool) -> Vocabulary:
    random = np.random.default_rng(0)
    embeddings = random.normal(size=(count, tagger.bundle.label_dim)) / 30
    calibration = Calibration(0.9, random.normal(size=count), 0.3) if calibrated else None
    names = tuple(f"word {i}" for i in range(count))
    bundle = tagger.bundle
    return Vocabulary(
        "random", names, embeddings, bundle.text_hash, bundle.prompt_hash, calibration
    )


@pytest.mark.parametrize("top_k", [1, 5, None])
def test_the_tags_are_those_of_the_images(tagger, samples, archives, top_k) -> None:
    """fp16 moves scores by 2e-4 at most, so only labels as close as that may change places."""
    rows = {row.source: row for row in Archive.open(archives["fp16"]).retag(tagger, WORDS, top_k)}
    assert {*rows} == {str(path) for path in samples}
    words = tagger.make_vocabulary(WORDS)
    for path in samples:
        wanted, found = tagger.tag(path, top_k, vocabulary=words), rows[str(path)]
        assert [tag.label for tag in found] == [tag.label for tag in wanted]
        assert [tag.score for tag in found] == pytest.approx([t.score for t in wanted], abs=2e-4)
        assert found.vocabulary_id == wanted.vocabulary_id


def test_with_the_calibrated_vocabulary_and_its_threshold(tagger, samples, archives) -> None:
    rows = {row.source: row for row in Archive.open(archives["fp16"]).retag(tagger, "words")}
    for path in samples:
        wanted, found = tagger.tag(path), rows[str(path)]
        assert [tag.label for tag in found] == [tag.label for tag in wanted]
        assert [tag.score for tag in found] == pytest.approx([t.score for t in wanted], abs=5e-4)


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_exactly_the_matcher_s_logits_of_the_stored_features(tagger, archives, precision) -> None:
    archive = Archive.open(archives[precision])
    words = tagger.make_vocabulary(WORDS)
    wanted = []
    for block in archive.blocks():
        logits, winners = tagger.engine.match(block.features, words)
        for name, row, won in zip(block.names.to_pylist(), logits, winners, strict=True):
            wanted.append((name, select_tags(row, won, words, tagger.bundle.activation, 5, None)))
    found = [(row.source, row.tags) for row in archive.retag(tagger, words)]
    assert [row for row in found if not row[0].endswith("z-copy.jpg")] == wanted


def test_a_copy_has_its_original_s_tags_and_follows_it(tagger, samples, archives) -> None:
    rows = [*Archive.open(archives["fp16"]).retag(tagger, WORDS)]
    names = [Path(row.source).name for row in rows]
    assert len(rows) == len(samples)
    copy = rows[names.index("z-copy.jpg")]
    assert copy.tags == rows[names.index(samples[2].name)].tags


@pytest.mark.parametrize("calibrated", [False, True])
@pytest.mark.parametrize(("top_k", "threshold"), [(7, None), (None, 0.6)])
def test_many_labels_in_tiles_give_the_same(
    tagger, archives, monkeypatch, calibrated, top_k, threshold
) -> None:
    archive, words = Archive.open(archives["fp16"]), random_words(tagger, 500, calibrated)
    at_once = [*archive.retag(tagger, words, top_k, threshold)]
    monkeypatch.setattr(retagging, "TILE", 64)
    in_tiles = [*archive.retag(tagger, words, top_k, threshold)]
    assert sum(map(len, at_once)) > 50
    for one, other in zip(at_once, in_tiles, strict=True):
        assert [(t.label, t.query) for t in one] == [(t.label, t.query) for t in other]
        assert [t.logit for t in one] == pytest.approx([t.logit for t in other], rel=1e-5, abs=1e-4)


def test_a_softmax_model_too(bundle_copy, tmp_path, monkeypatch) -> None:
    edit_manifest(bundle_copy, lambda manifest: manifest["head"].update(activation="softmax"))
    tagger = Tagger.load(bundle_copy, vocabulary="few")
    images = make_images(tmp_path / "photos", 6)
    index(tagger, images, tmp_path / "archive")
    monkeypatch.setattr(retagging, "TILE", 3)
    rows = Archive.open(tmp_path / "archive").retag(tagger, "few", 3)
    for row, wanted in zip(rows, tagger.tag_many(images, 3), strict=True):
        assert [t.score for t in row] == pytest.approx([t.score for t in wanted], abs=1e-2)
        assert sum(t.score for t in row) < 1


def test_the_numbers_of_a_block_stay_bounded(tagger) -> None:
    for labels, top_k in ((1, 1), (80, 5), (20_000, 5), (20_000, 20_000)):
        words = random_words(tagger, labels, False)
        matching = retagging._Matching(tagger.engine, words, top_k, None)
        size = matching.images_of_a_block
        assert size * max(min(labels, retagging.TILE), top_k) <= retagging._LOGITS


@pytest.mark.parametrize("precision", ["fp16", "int8"])
@pytest.mark.parametrize("images", [1, 3])
def test_features_are_matched_in_pieces(tagger, archives, monkeypatch, images, precision) -> None:
    archive = Archive.open(archives[precision])
    whole = [*archive.retag(tagger, WORDS)]
    numbers = images * archive.manifest.features * archive.manifest.embedding
    monkeypatch.setattr(retagging, "_FEATURES", numbers)  # a block here has up to five images
    pieces = [*archive.retag(tagger, WORDS)]
    for one, other in zip(pieces, whole, strict=True):
        assert [(t.label, t.query) for t in one] == [(t.label, t.query) for t in other]
        assert [t.logit for t in one] == pytest.approx([t.logit for t in other], rel=1e-5, abs=1e-4)


def test_another_model_is_refused_with_the_remedy(archives, tiny_bundle) -> None:
    with pytest.raises(ArchiveError, match=r"of another model.*--engine"):
        Archive.open(archives["fp16"]).retag(Tagger.load(tiny_bundle), "few")


def test_senseless_questions_are_refused(tagger, archives, tiny_tagger) -> None:
    archive = Archive.open(archives["fp16"])
    for options in ({"top_k": 0}, {"threshold": 1.5}):
        with pytest.raises(UsageError):
            archive.retag(tagger, WORDS, **options)
    with pytest.raises(VocabularyError, match="another text encoder"):
        archive.retag(tagger, tiny_tagger.vocabulary)


def test_damaged_archives_say_what_is_wrong(tagger, archives, tmp_path) -> None:
    def copy(name: str) -> Path:
        return Path(shutil.copytree(archives["fp16"], tmp_path / name))

    with pytest.raises(ArchiveError, match=r"no archive.json in it"):
        Archive.open(tmp_path)
    cut = copy("cut")
    os.truncate(cut / "part-00001.parquet", 9000)
    with pytest.raises(ArchiveError, match=r"part-00001.parquet is damaged .* index"):
        Archive.open(cut)
    within = copy("within")
    part = within / "part-00000.parquet"
    data = bytearray(part.read_bytes())
    data[4:64] = bytes(60)  # the first page's header
    part.write_bytes(data)
    with pytest.raises(ArchiveError, match=r"part-00000.parquet is damaged"):
        [*Archive.open(within).retag(tagger, WORDS)]
    gone = copy("gone")
    (gone / "part-00000.parquet").unlink()
    with pytest.raises(ArchiveError, match=r"part-00000.parquet is missing"):
        Archive.open(gone)
    other = copy("other")
    pq.write_table(
        pq.read_table(other / "part-00001.parquet", columns=["path"]), other / "part-00001.parquet"
    )
    with pytest.raises(ArchiveError, match=r"part-00001.parquet is damaged"):
        Archive.open(other)
    newer = copy("newer")
    manifest = newer / "archive.json"
    manifest.write_text(manifest.read_text().replace('"version": 1', '"version": 9'))
    with pytest.raises(ArchiveError, match="version 9"):
        Archive.open(newer)


def test_a_reader_may_stop_early(tagger, archives, monkeypatch) -> None:
    monkeypatch.setattr(retagging, "_LOGITS", len(WORDS))  # a block an image
    archive = Archive.open(archives["fp16"])
    everything = [*archive.retag(tagger, WORDS)]
    rows = archive.retag(tagger, WORDS)
    assert [next(rows) for _ in range(4)] == everything[:4]
    rows.close()
    names = [thread.name for thread in threading.enumerate()]
    assert not [name for name in names if name.startswith(("ovml-match", "ovml-read"))]


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="the system takes no such advice")
def test_a_large_archive_leaves_the_system_s_cache_where_reading_holds_nothing_up(
    tagger, samples, tmp_path, monkeypatch
) -> None:
    index(tagger, [str(path) for path in samples], tmp_path / "archive", shard_rows=2)
    archive, told = Archive.open(tmp_path / "archive"), []
    assert archive.groups == 4  # and a part that only has a copy
    monkeypatch.setattr(os, "posix_fadvise", lambda _, *advice: told.append(advice))
    wanted = [*archive.retag(tagger, WORDS)]
    assert told == []  # it is small
    monkeypatch.setattr(archive._stored, "_is_large", True)
    monkeypatch.setattr(reading, "_AHEAD", archive.groups)

    class Eager(Executor):
        """Has called everything before it is asked for."""

        def __init__(self, *_: object, **__: object) -> None: ...

        def submit(self, call, *arguments):
            future: Future = Future()
            future.set_result(call(*arguments))
            return future

    monkeypatch.setattr(iteration, "ThreadPoolExecutor", Eager)
    assert [*archive.retag(tagger, WORDS)] == wanted
    assert len(told) == archive.groups
    for path, (start, size, advice) in zip(
        sorted((tmp_path / "archive").glob("part-*")), told, strict=False
    ):
        assert advice == os.POSIX_FADV_DONTNEED
        assert start == 4  # behind Parquet's magic number, up to the footer
        assert start + size < path.stat().st_size
        assert size > 2 * archive.manifest.features * archive.manifest.embedding


def test_features_are_the_reader_s_own(archives) -> None:
    archive = Archive.open(archives["fp16"])
    blocks = [*archive.blocks(1)]
    first = blocks[0].features.copy()
    assert not np.array_equal(first, blocks[-1].features)
    np.testing.assert_array_equal(blocks[0].features, first)
    np.testing.assert_array_equal(first, next(archive.blocks(8)).features[:1])

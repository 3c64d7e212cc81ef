"""The public API (DESIGN §8): tagging, features kept for later, and vocabularies swapped."""

import dataclasses
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import ovml_deploy
from ovml_deploy import Tagger, Vocabulary
from ovml_deploy.errors import (
    BundleError,
    DeviceError,
    ImageError,
    LabelError,
    UsageError,
    VocabularyError,
)
from ovml_deploy.runtime.bundle import Bundle
from ovml_deploy.runtime.calibration import Calibration


def decoding_threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("ovml-decode")]


def test_the_tags_are_pytorchs(tiny_tagger: Tagger, tiny_model, pictures: list[Path]) -> None:
    labels = list(tiny_tagger.vocabulary.labels)
    pixels = np.stack([tiny_tagger.bundle.preprocessing(Image.open(p)) for p in pictures])
    with torch.no_grad():
        features = tiny_model.encode(torch.from_numpy(pixels))
        logits, winners = tiny_model.match(features, tiny_model.embed_labels(labels))
    for row, won, path in zip(logits.numpy(), winners.numpy(), pictures, strict=True):
        result = tiny_tagger.tag(path, top_k=None)
        order = np.argsort(-row)
        assert [tag.label for tag in result] == [labels[i] for i in order]
        np.testing.assert_allclose([tag.logit for tag in result], row[order], rtol=1e-3)
        scores = 1 / (1 + np.exp(-row[order].astype(np.float64)))
        np.testing.assert_allclose([tag.score for tag in result], scores, rtol=1e-3)
        assert [tag.query for tag in result] == list(won[order])
        assert result.source == str(path)
        assert result.vocabulary_id == tiny_tagger.vocabulary.id


def test_every_kind_of_source_gives_the_same_tags(tiny_tagger: Tagger, pictures) -> None:
    path = pictures[1]  # a PNG: every way keeps the pixels
    image = Image.open(path)
    with path.open("rb") as file:
        sources = [path, str(path), path.read_bytes(), file, image, np.asarray(image)]
        results = [tiny_tagger.tag(source) for source in sources]
        assert {result.tags for result in results} == {results[0].tags}
    assert [r.tags for r in tiny_tagger.tag_many([*sources[:3], *sources[4:]])] == [
        results[0].tags
    ] * 5


def test_top_k_and_threshold(tiny_tagger: Tagger, pictures: list[Path]) -> None:
    everything = tiny_tagger.tag(pictures[0], top_k=None)
    assert len(everything) == 5
    assert tiny_tagger.tag(pictures[0], top_k=2).tags == everything.tags[:2]
    middle = everything[2].score
    assert tiny_tagger.tag(pictures[0], threshold=middle).tags == everything.tags[:3]
    (many,) = tiny_tagger.tag_many(pictures[:1], top_k=2, threshold=middle)
    assert many.tags == everything.tags[:2]


def test_a_calibrated_vocabulary_brings_its_threshold(tiny_tagger: Tagger, pictures) -> None:
    plain = tiny_tagger.tag(pictures[0], top_k=None)
    logits = {tag.label: tag.logit for tag in plain}
    labels = tiny_tagger.vocabulary.labels
    # logits all 0, 1, 2, 3, 4 after calibration, in the vocabulary's order
    offsets = np.array([i - 2 * logits[label] for i, label in enumerate(labels)])
    calibration = Calibration(2.0, offsets, threshold=0.85)
    calibrated = dataclasses.replace(tiny_tagger.vocabulary, calibration=calibration)
    tiny_tagger.use_vocabulary(calibrated)
    result = tiny_tagger.tag(pictures[0])
    assert [tag.label for tag in result] == list(labels[:1:-1])
    expected = 1 / (1 + np.exp(-np.array([4, 3, 2])))
    np.testing.assert_allclose([tag.score for tag in result], expected, atol=1e-3)
    np.testing.assert_allclose([t.logit for t in result], [logits[t.label] for t in result], 1e-4)
    assert result.vocabulary_id == calibrated.id
    (many,) = tiny_tagger.tag_many(pictures[:1])
    assert [tag.label for tag in many] == [tag.label for tag in result]
    everything = tiny_tagger.tag(pictures[0], threshold=0.0)
    assert [tag.label for tag in everything] == list(labels[::-1])
    assert tiny_tagger.tag(pictures[0], top_k=2).tags == result.tags[:2]
    strict = dataclasses.replace(calibration, threshold=1.0)
    strict_words = dataclasses.replace(calibrated, calibration=strict)
    assert tiny_tagger.tag(pictures[0], vocabulary=strict_words).tags == ()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"top_k": 0}, "top_k is 0"),
        ({"threshold": 1.5}, r"threshold is 1\.5; scores lie between 0 and 1"),
        ({"threshold": -0.1}, "threshold is"),
        ({"threshold": float("nan")}, "threshold is nan"),
        ({"batch_size": 0}, "batch_size is 0"),
    ],
)
def test_wrong_numbers_are_refused_at_once(tiny_tagger: Tagger, arguments, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        tiny_tagger.tag_many([], **arguments)
    if "batch_size" not in arguments:
        with pytest.raises(UsageError, match=message):
            tiny_tagger.tag("any.jpg", **arguments)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 8])
def test_bad_images_are_results_of_their_own(tiny_tagger, pictures, tmp_path, batch_size) -> None:
    page = tmp_path / "page.jpg"
    page.write_text("<!DOCTYPE html><html>404</html>")
    half = tmp_path / "half.jpg"
    half.write_bytes(pictures[0].read_bytes()[:300])
    absent = tmp_path / "absent.jpg"
    images = [pictures[0], page, pictures[1], half, absent, *pictures[2:], page]
    results = list(tiny_tagger.tag_many(images, batch_size=batch_size))
    assert [r.source for r in results] == [str(p) for p in images]
    bad = {str(page), str(half), str(absent)}
    for result in results:
        if result.source in bad:
            assert result.source in result.error
            assert result.tags == ()
        else:
            alone = tiny_tagger.tag(result.source)
            assert result.error is None
            assert [t.label for t in result] == [t.label for t in alone]
            np.testing.assert_allclose([t.logit for t in result], [t.logit for t in alone], 1e-4)
        assert result.vocabulary_id == tiny_tagger.vocabulary.id
    assert "HTML page" in results[1].error
    assert "no such file" in results[4].error


def test_only_bad_images_and_none_at_all(tiny_tagger: Tagger) -> None:
    results = list(tiny_tagger.tag_many(["absent.jpg", b"", 5], batch_size=2))
    assert [bool(r.error) for r in results] == [True] * 3
    assert list(tiny_tagger.tag_many([])) == []


def test_a_bad_image_alone_is_an_error(tiny_tagger: Tagger) -> None:
    with pytest.raises(ImageError, match=r"absent\.jpg: there is no such file"):
        tiny_tagger.tag("absent.jpg")
    with pytest.raises(ImageError, match="there is no such file"):
        tiny_tagger.encode([np.zeros((4, 4, 3), np.uint8), "absent.jpg"])


class Endless:
    """Images without end that count how many were taken."""

    def __init__(self, path: Path) -> None:
        self.path, self.taken = path, 0

    def __iter__(self) -> Iterator[Path]:
        while True:
            self.taken += 1
            yield self.path


def test_reading_ahead_is_bounded_and_ends_with_the_reader(tiny_tagger, pictures) -> None:
    source = Endless(pictures[0])
    results = tiny_tagger.tag_many(source, batch_size=4)
    assert source.taken == 0  # lazy
    for count in range(1, 30):
        assert next(results).error is None
        assert source.taken <= count + 4 + 2 * 4
    assert decoding_threads()
    results.close()
    assert decoding_threads() == []
    for _ in zip(tiny_tagger.tag_many(source, batch_size=2), range(3), strict=False):
        pass
    assert decoding_threads() == []


def test_an_error_in_the_source_ends_the_run_cleanly(tiny_tagger: Tagger, pictures) -> None:
    def broken() -> Iterator[Path]:
        yield from pictures
        raise RuntimeError("the camera went away")

    with pytest.raises(RuntimeError, match="camera") as caught:
        list(tiny_tagger.tag_many(broken(), batch_size=2))
    assert decoding_threads() == [], caught  # also while the traceback is held


def test_features_can_be_kept_and_matched_later(tiny_tagger: Tagger, pictures) -> None:
    features = tiny_tagger.encode(pictures)
    assert features.shape == (6, 3, 32)
    assert features.dtype == np.float32
    single = tiny_tagger.encode(pictures[0])
    np.testing.assert_allclose(single, features[:1], rtol=1e-4, atol=1e-5)
    other = tiny_tagger.make_vocabulary(["boat", "tree"])
    logits = tiny_tagger.match(features, other)
    assert logits.shape == (6, 2)
    np.testing.assert_allclose(tiny_tagger.match(features[0], other), logits[:1], rtol=1e-4)
    for row, path in zip(logits, pictures, strict=True):
        tagged = {t.label: t.logit for t in tiny_tagger.tag(path, vocabulary=other)}
        np.testing.assert_allclose([tagged["boat"], tagged["tree"]], row, rtol=1e-3, atol=1e-4)
    assert tiny_tagger.match(features).shape == (6, 5)  # the current vocabulary
    assert tiny_tagger.vocabulary.name == "few"


def test_many_images_are_encoded_in_batches(tiny_tagger: Tagger, pictures) -> None:
    sizes = []
    encode = tiny_tagger.engine.encode
    tiny_tagger.engine.encode = lambda pixels: sizes.append(len(pixels)) or encode(pixels)
    assert tiny_tagger.encode([pictures[i % 6] for i in range(20)]).shape == (20, 3, 32)
    assert max(sizes) <= 8
    assert sum(sizes) == 20
    assert tiny_tagger.encode([]).shape == (0, 3, 32)


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_features_come_one_by_one_past_bad_images(tiny_tagger, pictures, batch_size) -> None:
    images = ["absent.jpg", *pictures[:3], b"", *pictures[3:]]
    found = list(tiny_tagger.encode_many(images, batch_size))
    names = ["absent.jpg", *map(str, pictures[:3]), "<0 bytes>", *map(str, pictures[3:])]
    assert [name for name, _ in found] == names
    assert [isinstance(value, ImageError) for _, value in found] == [
        i in (0, 4) for i in range(len(images))
    ]
    assert "no such file" in str(found[0][1])
    features = np.stack([value for _, value in found if isinstance(value, np.ndarray)])
    np.testing.assert_allclose(features, tiny_tagger.encode(pictures), rtol=1e-4, atol=1e-5)


def test_encoding_many_is_lazy_and_bounded(tiny_tagger: Tagger, pictures) -> None:
    source = Endless(pictures[0])
    encoded = tiny_tagger.encode_many(source, batch_size=2)
    assert source.taken == 0
    next(encoded)
    assert source.taken <= 2 + 2 * 2
    encoded.close()
    assert decoding_threads() == []
    with pytest.raises(UsageError, match="batch_size is 0"):
        tiny_tagger.encode_many(pictures, batch_size=0)


@pytest.mark.parametrize("shape", [(3,), (2, 3, 31), (2, 4, 32), (1, 2, 3, 32), (32,)])
def test_features_of_another_shape_are_refused(tiny_tagger: Tagger, shape) -> None:
    with pytest.raises(UsageError, match=r"Features must be \[B, 3, 32\]; these are"):
        tiny_tagger.match(np.zeros(shape))


def test_vocabularies_of_every_kind(tiny_tagger: Tagger, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("yard.txt").write_text("forklift\n2024\n")
    Path("others").write_text("a file of this name comes first\n")
    from_words = tiny_tagger.use_vocabulary(["forklift", "2024"])
    assert tiny_tagger.vocabulary is from_words
    from_words.save("saved.safetensors")
    for source, name in [
        ("yard.txt", "yard"),
        (Path("yard.txt"), "yard"),
        ("saved.safetensors", "saved"),
        (Path("saved.safetensors"), "saved"),
        (from_words, "custom"),
    ]:
        vocabulary = tiny_tagger.use_vocabulary(source)
        assert (vocabulary.name, vocabulary.id) == (name, from_words.id)
    assert len(tiny_tagger.use_vocabulary("others")) == 1
    assert tiny_tagger.use_vocabulary("few").labels[0] == "cat"


def test_a_name_with_a_point_is_found_in_the_bundle(bundle_copy: Path) -> None:
    folder = bundle_copy / "vocabularies"
    (folder / "few.safetensors").rename(folder / "coco.v2.safetensors")
    assert Tagger.load(bundle_copy, vocabulary="coco.v2").vocabulary.name == "coco.v2"


@pytest.mark.parametrize(
    ("source", "kind", "message"),
    [
        ([], LabelError, "no labels"),
        (["cat", "cat"], LabelError, "repeats"),
        ("absent", VocabularyError, "no vocabulary 'absent'"),
        ("absent.txt", LabelError, "absent.txt: The label file cannot be read"),
        ("absent.safetensors", VocabularyError, "no vocabulary file"),
    ],
)
def test_a_vocabulary_that_cannot_be_made_changes_nothing(
    tiny_tagger, source, kind, message: str
) -> None:
    before = tiny_tagger.vocabulary
    with pytest.raises(kind, match=message):
        tiny_tagger.use_vocabulary(source)
    assert tiny_tagger.vocabulary is before


def test_without_a_vocabulary_it_says_what_to_do(bundle_copy: Path, pictures) -> None:
    manifest = bundle_copy / "bundle.json"
    text = manifest.read_text()
    assert '"default_vocabulary": "few"' in text
    manifest.write_text(text.replace('"default_vocabulary": "few"', '"default_vocabulary": null'))
    tagger = Tagger.load(bundle_copy)
    for act in (
        lambda: tagger.vocabulary,
        lambda: tagger.tag(pictures[0]),
        lambda: tagger.tag_many(pictures),
        lambda: tagger.match(tagger.encode(pictures)),
    ):
        with pytest.raises(VocabularyError, match=r"No vocabulary is in use\. Call use_vocabulary"):
            act()
    other = tagger.make_vocabulary("others")
    assert tagger.tag(pictures[0], vocabulary=other).vocabulary_id == other.id


def test_a_strangers_vocabulary_is_refused_for_one_call_too(tiny_tagger, pictures) -> None:
    stranger = Vocabulary("s", ("cat",), np.zeros((1, 32)), "0", "0")
    for act in (tiny_tagger.tag, tiny_tagger.tag_many):
        with pytest.raises(VocabularyError, match="made for another text encoder"):
            act([pictures[0]] if act == tiny_tagger.tag_many else pictures[0], vocabulary=stranger)


@pytest.mark.parametrize("device", ["cpu", "auto"])
def test_devices(tiny_bundle: Path, device: str) -> None:
    assert Tagger.load(tiny_bundle, device).backend.device == "cpu"


def test_an_unknown_device_is_refused(tiny_bundle: Path) -> None:
    with pytest.raises(DeviceError, match=r"Unknown device 'gpu'\. There are: auto, cuda, "):
        Tagger.load(tiny_bundle, "gpu")


def test_any_file_in_a_bundle_names_it(tiny_bundle: Path) -> None:
    assert Tagger.load(tiny_bundle / "encoder.onnx").bundle.path == Bundle.open(tiny_bundle).path
    with pytest.raises(BundleError, match="is not a bundle"):
        Tagger.load(tiny_bundle.parent)


def test_the_package_offers_its_names() -> None:
    for name in ovml_deploy.__all__:
        assert getattr(ovml_deploy, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'Taggr'"):
        _ = ovml_deploy.Taggr


def test_swapping_while_others_tag_never_mixes(tiny_tagger: Tagger, pictures) -> None:
    """Four threads tag, a fifth swaps 200 times: each result is of the vocabulary it names."""
    words = [tuple(f"{name} {i}" for i in range(count)) for name, count in (("a", 40), ("b", 70))]
    vocabularies = [tiny_tagger.make_vocabulary(labels) for labels in words]
    logits = {
        v.id: {p: tiny_tagger.match(tiny_tagger.encode(p), v)[0] for p in pictures}
        for v in vocabularies
    }
    position = {v.id: {label: i for i, label in enumerate(v.labels)} for v in vocabularies}
    tiny_tagger.use_vocabulary(vocabularies[0])
    swapped = threading.Event()

    def tag(number: int) -> set[str]:
        seen = set()
        rounds = 0
        while not swapped.is_set() or rounds < 3:
            rounds += 1
            if number % 2:
                results = [tiny_tagger.tag(p, top_k=None) for p in pictures]
            else:
                results = list(tiny_tagger.tag_many(pictures, top_k=None, batch_size=4))
            for path, result in zip(pictures, results, strict=True):
                assert result.error is None
                known = position[result.vocabulary_id]
                assert {t.label for t in result} == set(known)
                expected = logits[result.vocabulary_id][path]
                for found in result:
                    assert abs(found.logit - expected[known[found.label]]) < 1e-3
                seen.add(result.vocabulary_id)
        return seen

    def swap() -> None:
        try:
            for turn in range(200):
                # by turns ready-made, and made from words at that moment
                source = vocabularies[turn % 2] if turn % 4 < 2 else words[turn % 2]
                tiny_tagger.use_vocabulary(source)
                time.sleep(0.002)
        finally:
            swapped.set()

    with ThreadPoolExecutor(5) as pool:
        tagging = [pool.submit(tag, number) for number in range(4)]
        pool.submit(swap).result()
        seen = [future.result() for future in tagging]
    assert set().union(*seen) == set(logits)

"""Labels of a prompt-tuned bundle: tuned ones, new ones, and new ones in a group."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from backbones import TUNED
from safetensors.numpy import load_file, save_file

from ovml_deploy.errors import BundleError, LabelError, VocabularyError
from ovml_deploy.files import sha256_file
from ovml_deploy.runtime.backends import create_backend
from ovml_deploy.runtime.bundle import TEXT_ENCODER, Bundle
from ovml_deploy.runtime.bundle import TUNED as FILE
from ovml_deploy.runtime.describe import describe_bundle
from ovml_deploy.runtime.label_cache import LabelCache
from ovml_deploy.runtime.tagger import Tagger
from ovml_deploy.runtime.text_encoder import TextEncoder
from ovml_deploy.runtime.tuned_labels import TunedLabels
from ovml_deploy.runtime.verify import failures, verify

GROUPS = "animals, plants, things"


@pytest.fixture(scope="module")
def tagger(tuned_bundle: Path) -> Tagger:
    return Tagger.load(tuned_bundle)


def rehash(folder: Path, name: str = FILE) -> None:
    """Write a file's hash into the manifest, as one would who means to change it."""
    manifest = json.loads((folder / "bundle.json").read_text())
    manifest["files"][name]["sha256"] = sha256_file(folder / name)
    (folder / "bundle.json").write_text(json.dumps(manifest))


def retune(folder: Path) -> None:
    """Make it the bundle of another tuning of the same labels."""
    tuned = TunedLabels.read(Bundle.open(folder))
    turned = np.ascontiguousarray(tuned.embeddings[::-1])
    dataclasses.replace(tuned, embeddings=turned).save(folder / FILE)
    rehash(folder)


def test_words_are_swapped_as_for_any_bundle(tagger: Tagger, pictures) -> None:
    features = tagger.encode(pictures)
    assert features.shape == (6, 17, 32)
    kept = tagger.match(features)
    words = tagger.use_vocabulary(["a boat", "cat", "red bench"])
    assert words.embeddings.shape == (3, 64)
    swapped = tagger.match(features)
    assert swapped.shape == (6, 3)
    np.testing.assert_allclose(swapped[:, 1], kept[:, 0], rtol=1e-5, atol=1e-6)
    assert {tag.label for tag in tagger.tag(pictures[0])} == set(words.labels)
    tagger.use_vocabulary("tuned")
    np.testing.assert_allclose(tagger.match(features), kept, rtol=1e-5, atol=1e-6)


def test_a_group_changes_a_new_label(tagger: Tagger) -> None:
    made = {
        group: tagger.make_vocabulary({"forklift": group, "drone": None})
        for group in (None, "things", "plants")
    }
    rows = np.stack([vocabulary.embeddings for vocabulary in made.values()])
    assert np.abs(np.diff(rows[:, 0], axis=0)).max(axis=1).min() > 0.01
    np.testing.assert_array_equal(rows[0, 1], rows[1, 1])
    assert len({vocabulary.id for vocabulary in made.values()}) == 3
    assert tagger.make_vocabulary(["forklift", "drone"]).id == made[None].id


def test_label_files_name_groups(tagger: Tagger, tuned_bundle: Path, tmp_path: Path) -> None:
    path = tmp_path / "yard.txt"
    path.write_text("forklift\tthings\n\ndrone\n cat \t animals\n")
    made = tagger.make_vocabulary(path)
    words = {"forklift": "things", "drone": None, "cat": "animals"}
    assert made.id == tagger.make_vocabulary(words).id
    assert (made.name, made.labels) == ("yard", tuple(words))
    assert Tagger.load(tuned_bundle, vocabulary=path).vocabulary.id == made.id
    assert Tagger.load(tuned_bundle, vocabulary=words).vocabulary.id == made.id


def test_a_tuned_label_keeps_its_group(tagger: Tagger) -> None:
    plain = tagger.make_vocabulary(["cat"])
    assert tagger.make_vocabulary({"cat": TUNED["cat"]}).id == plain.id
    with pytest.raises(LabelError, match="'cat' was tuned in the group 'animals', so it cannot be"):
        tagger.make_vocabulary({"cat": "things"})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"forklift": "vehicles"}, f"no group 'vehicles'. The groups of this model are: {GROUPS}"),
        ({"cat": "vehicles"}, "no group 'vehicles'"),
        ({"forklift": " "}, "The group of 'forklift' is ' '"),
        ({"forklift": 7}, "The group of 'forklift' is 7"),
        ({"forklift": "things", " forklift": None}, "repeats label 1"),
        ({}, "no labels"),
    ],
)
def test_an_unknown_group_is_named(tagger: Tagger, words, message: str) -> None:
    before = tagger.vocabulary
    with pytest.raises(LabelError, match=message):
        tagger.use_vocabulary(words)
    assert tagger.vocabulary is before


@pytest.mark.parametrize("words", [{"forklift": "things"}, {"cat": None, "dog": "animals"}])
def test_other_bundles_have_no_groups(tiny_tagger: Tagger, words, tmp_path: Path) -> None:
    with pytest.raises(LabelError, match=r"names the group .* but this qks model has no groups"):
        tiny_tagger.use_vocabulary(words)
    path = tmp_path / "words.txt"
    path.write_text("cat\nforklift\tthings\n")
    with pytest.raises(LabelError, match=r"'forklift' names the group 'things'"):
        tiny_tagger.use_vocabulary(path)
    assert len(tiny_tagger.use_vocabulary({"cat": None, "boat": None})) == 2


def test_a_prompt_longer_than_the_text_tower_is_named(tagger: Tagger, tuned_model) -> None:
    """Learned tokens take their places too: a name that fits alone may not fit behind them."""
    limit, learned = tagger.bundle.text.context_length, 3 + 2
    fits = " ".join(["a"] * (limit - 2 - learned))
    for group in (None, "things"):
        made = tagger.make_vocabulary({fits: group})
        expected = tuned_model.embed_labels([fits], {fits: group} if group else None).numpy()
        np.testing.assert_allclose(made.embeddings, expected, atol=1e-5)
    longer = f"{fits} a"
    with pytest.raises(LabelError, match=r"The prompt of 'a a .* has 78 tokens, .* reads 77"):
        tagger.make_vocabulary({longer: "things"})
    tagger.make_vocabulary([longer])  # without the group's two tokens


class Counting:
    """The CPU backend, counting the prompts of the text graph."""

    def __init__(self) -> None:
        self.prompts = 0

    def load(self, bundle: Bundle, name: str, exact: bool = False):
        graph = create_backend("cpu").load(bundle, name)
        assert name == TEXT_ENCODER
        assert exact

        def counted(inputs):
            self.prompts += len(inputs["token_ids"])
            return graph(inputs)

        return counted


def test_what_is_encoded_and_what_is_kept(tuned_bundle: Path, tmp_path: Path) -> None:
    """A new label is encoded once for each group it is in; a tuned one never, nor is it cached."""
    bundle = Bundle.open(tuned_bundle)

    def cost(words) -> int:
        backend = Counting()
        cache = LabelCache(bundle.text_hash, bundle.prompt_hash, tmp_path)
        made = TextEncoder(bundle, backend, cache).vocabulary(words)
        np.testing.assert_array_equal(
            made.embeddings.round(4), TextEncoder(bundle, backend, cache).embed(words).round(4)
        )
        return backend.prompts - 2 * len(set(words) - set(TUNED))

    assert cost(["cat", "dog"]) == 0
    assert cost({"drone": None, "cat": None}) == 2
    assert cost({"drone": "things"}) == 2
    assert cost({"drone": "plants"}) == 2
    assert cost(["drone"]) == cost({"drone": "plants"}) == cost({"drone": "things"}) == 0
    cache = LabelCache(bundle.text_hash, bundle.prompt_hash, tmp_path)
    assert set(cache.get(["cat", "dog", "drone", "drone\tplants"])) == {"drone", "drone\tplants"}


def test_vocabularies_of_another_tuning_are_refused(
    tagger: Tagger, tuned_copy: Path, tmp_path: Path
) -> None:
    before = tagger.bundle
    retune(tuned_copy)
    other = Bundle.open(tuned_copy)
    assert other.text_hash != before.text_hash
    with pytest.raises(VocabularyError, match="'tuned' was made for another text encoder"):
        Tagger.load(tuned_copy)
    tagger.make_vocabulary(["drone", "cat"]).save(tmp_path / "words.safetensors")
    with pytest.raises(VocabularyError, match="made for another text encoder"):
        Tagger.load(tuned_copy, vocabulary=tmp_path / "words.safetensors")
    assert Tagger.load(tuned_copy, vocabulary=["drone", "cat"]).vocabulary.text_hash == (
        other.text_hash
    )


def test_the_hash_covers_where_tokens_stand(tuned_copy: Path) -> None:
    before = Bundle.open(tuned_copy).text_hash
    path = tuned_copy / "bundle.json"
    manifest = json.loads(path.read_text())
    manifest["learned_tokens"]["groups"].reverse()
    path.write_text(json.dumps(manifest))
    assert Bundle.open(tuned_copy).text_hash != before


def test_a_changed_file_of_tuned_labels_is_found(tuned_copy: Path) -> None:
    content = bytearray((tuned_copy / FILE).read_bytes())
    content[-1] ^= 0x10
    (tuned_copy / FILE).write_bytes(content)
    for act in (verify, lambda engine: Tagger.load(engine, vocabulary=["cat"]), describe_bundle):
        with pytest.raises(BundleError, match=r"tuned\.safetensors was changed after export"):
            act(tuned_copy)
    (tuned_copy / FILE).unlink()
    with pytest.raises(BundleError, match=r"tuned\.safetensors is missing"):
        verify(tuned_copy)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda arrays: arrays.pop("labels"), "holds no tuned labels"),
        (lambda arrays: arrays.pop("embeddings"), "holds no tuned labels"),
        (lambda arrays: arrays.update(labels=np.frombuffer(b"\xff", np.uint8)), "no tuned labels"),
        (lambda arrays: arrays.update(labels=np.frombuffer(b"a\na", np.uint8)), "repeats label 1"),
        (
            lambda arrays: arrays.update(embeddings=arrays["embeddings"][1:]),
            r"embeddings \[4, 64\]",
        ),
        (
            lambda arrays: arrays.update(embeddings=arrays["embeddings"][:, :32].copy()),
            r"\[4, 32\]",
        ),
        (
            lambda arrays: arrays.update(embeddings=arrays["embeddings"].astype(np.float64)),
            "float64",
        ),
        (lambda arrays: arrays["embeddings"].fill(np.nan), "not finite"),
    ],
)
def test_tuned_labels_that_do_not_fit_are_refused(tuned_copy: Path, change, message: str) -> None:
    arrays = {name: array.copy() for name, array in load_file(tuned_copy / FILE).items()}
    change(arrays)
    save_file({name: np.ascontiguousarray(a) for name, a in arrays.items()}, tuned_copy / FILE)
    rehash(tuned_copy)
    with pytest.raises(BundleError, match=message):
        TextEncoder(Bundle.open(tuned_copy), create_backend("cpu"))


def test_tuned_labels_that_are_not_pytorchs_fail_the_check(tuned_copy: Path) -> None:
    retune(tuned_copy)
    (reason,) = failures(verify(tuned_copy))
    assert reason.startswith("label_embeddings has a relative error")


def test_a_bundle_tells_its_groups(tuned_bundle: Path, tiny_bundle: Path) -> None:
    told = dict(describe_bundle(tuned_bundle))
    assert (told["tuned labels"], told["groups"]) == ("4", GROUPS)
    assert len(told["head"]) < 200
    assert not {"tuned labels", "groups"} & set(dict(describe_bundle(tiny_bundle)))

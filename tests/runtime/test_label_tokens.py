"""Labels that are one label to the model are refused; those that it does not know are named."""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from ovml_deploy import assets
from ovml_deploy.errors import LabelError
from ovml_deploy.runtime.backends import create_backend
from ovml_deploy.runtime.bundle import Bundle
from ovml_deploy.runtime.label_cache import LabelCache
from ovml_deploy.runtime.tagger import Tagger
from ovml_deploy.runtime.text_encoder import TextEncoder
from ovml_deploy.runtime.vocabulary import Vocabulary

needs_mini = pytest.mark.skipif(
    not (assets.MINI / "bundle.json").exists(), reason="the embedded model is not built"
)


def encoder_of(bundle: Path) -> TextEncoder:
    return TextEncoder(Bundle.open(bundle), create_backend("cpu"))


@pytest.fixture(scope="module")
def tiny(tiny_bundle: Path) -> TextEncoder:
    """CLIP's tokenizer, which knows every byte."""
    return encoder_of(tiny_bundle)


@pytest.fixture(scope="module")
def mini() -> TextEncoder:
    """An uncased WordPiece tokenizer, which does not know every character."""
    return encoder_of(assets.MINI)


SAME = [
    ("owl", "Owl", "OWL"),
    ("caf\u00e9", "cafe\u0301"),
    ("fish", "\ufb01sh"),
    ("red car", "red\u00a0car", "red  car"),
    ("owl", "\uff4f\uff57\uff4c"),
    ("it's", "it\u2019s"),
    ("AT&T", "AT&amp;T"),
]


@pytest.mark.parametrize("labels", [*SAME, ("a " * 127 + "b", "a " * 127 + "c")])
def test_labels_with_the_same_token_ids_are_refused(tiny, labels: Sequence[str]) -> None:
    with pytest.raises(LabelError) as refused:
        tiny.vocabulary(["tree", *labels])
    numbers = ", ".join(str(number) for number in range(2, 2 + len(labels)))
    assert f"the same token ids: labels {numbers} (" in str(refused.value)
    for label in labels:
        assert repr(label) in str(refused.value) or ascii(label) in str(refused.value)


@needs_mini
@pytest.mark.parametrize("labels", [*SAME, ("cat", "c\u200dat"), ("cafe", "caf\u00e9")])
def test_an_uncased_wordpiece_tokenizer_is_asked_as_well(mini, labels: Sequence[str]) -> None:
    with pytest.raises(LabelError, match="the same token ids: labels 1, 2"):
        mini.vocabulary(labels)


def test_all_sets_are_listed_at_once_with_their_lines(tiny_bundle, tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    path.write_text("# pets\nowl\n\nCat\nOwl\ndog\ncat\nOWL\n")
    tagger = Tagger.load(tiny_bundle)
    before = tagger.vocabulary
    with pytest.raises(LabelError) as refused:
        tagger.use_vocabulary(path)
    assert str(refused.value) == (
        f"{path}: The model cannot tell these labels apart, because their prompts have the same token "
        "ids: lines 2, 5, 8 ('owl', 'Owl', 'OWL'); lines 4, 7 ('Cat', 'cat'). Keep one of each."
    )
    assert tagger.vocabulary is before


def test_labels_that_look_alike_are_shown_with_escapes(tiny) -> None:
    with pytest.raises(LabelError, match=r"\('caf\\xe9', 'cafe\\u0301'\)"):
        tiny.vocabulary(["caf\u00e9", "cafe\u0301"])


def test_different_ids_are_different_labels(tiny) -> None:
    labels = ["owl", "owls", "an owl", "C", "C#", "3 cats", "\u68df", "\U0001f989"]
    assert tiny.vocabulary(labels).labels == tuple(labels)


@needs_mini
def test_unknown_labels_are_named(mini, caplog) -> None:
    with caplog.at_level(logging.WARNING):
        vocabulary = mini.vocabulary(["cat", "\u68df", "\u68df owl"])
    assert len(vocabulary) == 3
    (message,) = caplog.messages
    assert "does not know any part of these labels" in message
    assert "'\u68df' (label 2)." in message
    with pytest.raises(LabelError, match=r"labels 2, 3 \('.', '.'; unknown to the tokenizer\)"):
        mini.vocabulary(["cat", "\u68df", "\U0001f989"])


def test_the_unknown_token_of_sentencepiece_is_found() -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    from ovml_deploy.runtime.bundle import TextSettings
    from ovml_deploy.runtime.prompt_tokenizer import PromptTokenizer

    pieces = [("<unk>", 0.0), ("\u2581", -1.0), ("\u2581cat", -1.0)]
    tokenizer = Tokenizer(models.Unigram(pieces, 0, False))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    ours = PromptTokenizer(tokenizer, TextSettings(16, True, False, 0, "whitespace"))
    assert ours.unknown_id == 0
    assert ours.empty_ids.issuperset(ours(["\u68df"])[0])
    assert not ours.empty_ids.issuperset(ours(["cat"])[0])


def test_prompts_of_groups_and_tuned_labels_are_their_own(tuned_bundle: Path) -> None:
    encoder = encoder_of(tuned_bundle)
    groups = {"Owl": "animals", "owl": "things", "OWL": None, "Cat": None, "cat": None}
    vocabulary = encoder.vocabulary(groups)
    distances = [
        np.abs(vocabulary.embeddings[first] - vocabulary.embeddings[second]).max()
        for first, second in ((0, 1), (0, 2), (1, 2), (3, 4))
    ]
    assert min(distances) > 1e-3
    with pytest.raises(LabelError, match=r"labels 1, 2 \('Owl', 'owl'\)"):
        encoder.vocabulary({"Owl": "animals", "owl": "animals"})


def test_a_cached_label_is_not_tokenized_again(tiny_bundle: Path, tmp_path: Path) -> None:
    bundle = Bundle.open(tiny_bundle)
    cache = LabelCache(bundle.text_hash, bundle.prompt_hash, tmp_path)
    encoder = TextEncoder(bundle, create_backend("cpu"), cache)
    encoder.vocabulary(["owl", "cat"])
    read: list[str] = []
    real = encoder.tokenizer

    def recording(texts):
        read.extend(texts)
        return real(texts)

    again = TextEncoder(bundle, create_backend("cpu"), cache)
    again._prompts._tokenize = recording  # type: ignore[attr-defined]
    assert again.vocabulary(["cat", "owl"]).labels == ("cat", "owl")
    assert read == []
    with pytest.raises(LabelError, match=r"labels 1, 3 \('owl', 'Owl'\)"):
        again.vocabulary(["owl", "cat", "Owl"])


def test_a_cache_of_an_earlier_release_gets_its_marks(tiny_bundle: Path, tmp_path: Path) -> None:
    import sqlite3

    bundle = Bundle.open(tiny_bundle)
    cache = LabelCache(bundle.text_hash, bundle.prompt_hash, tmp_path)
    row = np.ones(bundle.label_dim, np.float32)
    cache.put({"owl": row, "Owl": row})
    with sqlite3.connect(cache.path) as connection:
        connection.execute("DROP TABLE marks")
    encoder = TextEncoder(bundle, create_backend("cpu"), cache)
    with pytest.raises(LabelError, match="labels 1, 2"):
        encoder.vocabulary(["owl", "Owl"])
    assert {*cache.marks(["owl", "Owl"])} == {"owl", "Owl"}
    np.testing.assert_array_equal(encoder.vocabulary(["owl"]).embeddings[0], row)


def test_a_stored_vocabulary_with_such_labels_is_still_read(tiny_bundle, tmp_path: Path) -> None:
    bundle = Bundle.open(tiny_bundle)
    rows = np.eye(3, bundle.label_dim, dtype=np.float32)
    old = Vocabulary("old", ("owl", "Owl", "# cat"), rows, bundle.text_hash, bundle.prompt_hash)
    old.save(tmp_path / "old.safetensors")
    assert Tagger.load(tiny_bundle, vocabulary=tmp_path / "old.safetensors").vocabulary.id == old.id


def test_a_data_set_s_labels_are_warned_of(tiny_bundle: Path, caplog) -> None:
    tagger = Tagger.load(tiny_bundle)
    with caplog.at_level(logging.WARNING):
        vocabulary = tagger.make_vocabulary(["owl", "Owl", "cat"], allow_same=True)
    assert vocabulary.labels == ("owl", "Owl", "cat")
    assert "labels 1, 2 ('owl', 'Owl')" in caplog.text

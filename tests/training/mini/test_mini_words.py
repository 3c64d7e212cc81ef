"""The words the model learns from, and that those it is measured by are kept from it."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ovml_deploy.training.data.text_files import read_lines
from ovml_deploy.training.mini.taxonomy import FALSE, TRUE, UNKNOWN, Taxonomy
from ovml_deploy.training.mini.words import (
    EVERYDAY_FILE,
    FOREIGN_FILE,
    VOCABULARY_FILE,
    Words,
    WordSplit,
    split_words,
)
from ovml_deploy.training.wordnet import NounIndex, WordNet, parse_synset

GROUPS, LEAVES = 6, 20
Check = Callable[[Taxonomy, WordSplit], None]


@pytest.fixture
def split(taxonomy: Taxonomy, index: NounIndex) -> WordSplit:
    return split_words(taxonomy, ["cat"], index)


@pytest.fixture(scope="module")
def many() -> tuple[Taxonomy, WordSplit]:
    """120 classes in six groups; some share their first or second name with the next one."""
    lines = ["00000001 05 n 01 thing 0 000 | is"]
    classes = []
    for group in range(GROUPS):
        above = f"{group + 2:08}"
        lines.append(f"{above} 05 n 01 group{group} 0 001 @ 00000001 n 0000 | of group {group}")
        for leaf in range(LEAVES):
            number = 100 + group * LEAVES + leaf
            shared = number - number % 3 if number % 3 < 2 else number
            first = f"leaf{number}" if group < 3 else f"pair{number // 2}"
            lines.append(
                f"{number:08} 05 n 02 {first} 0 other{shared} 0 001 @ {above} n 0000 "
                f"| defines {number}"
            )
            classes.append(f"n{number:08}")
    taxonomy = Taxonomy(WordNet(map(parse_synset, lines)), classes)
    return taxonomy, split_words(taxonomy, ["leaf105", "other111", "group3"], NounIndex([]))


def by_text(words: Words) -> dict[str, list[int]]:
    return dict(zip(words.texts, words.truth.tolist(), strict=True))


def meanings(taxonomy: Taxonomy, texts: tuple[str, ...]) -> set[str]:
    return {
        kind for kind in taxonomy.kinds if not set(taxonomy.wordnet.names(kind)).isdisjoint(texts)
    }


def test_words_are_true_of_all_below_them(split: WordSplit, taxonomy: Taxonomy) -> None:
    names = by_text(split.all_names)
    assert names["beast"] == names["animal"] == taxonomy.truth(["n00000002"]).tolist()
    assert names["tabby cat"] == taxonomy.truth(["n00000004"]).tolist()
    assert by_text(split.all_definitions)["barks"] == names["dog"]
    assert "puppy" not in names  # below a class: the classifier cannot tell it


def test_an_everyday_word_is_kept_from_training(split: WordSplit, taxonomy: Taxonomy) -> None:
    assert by_text(split.everyday) == {"cat": taxonomy.truth(["n00000003"]).tolist()}
    assert "cat" not in split.names.texts
    assert "a feline" not in split.definitions.texts
    assert "cat" in split.all_names.texts
    assert "a feline" in split.all_definitions.texts
    assert "tabby" in split.names.texts


def check_withheld(taxonomy: Taxonomy, split: WordSplit) -> None:
    measured = (split.validation, split.everyday, split.unseen)
    assert all(words.texts for words in measured)
    trained = {*split.names.texts, *split.definitions.texts}
    seen = [set(words.texts) for words in measured]
    assert all(trained.isdisjoint(texts) for texts in seen)
    assert sum(map(len, seen)) == len(set().union(*seen))
    for words in measured:
        for kind in meanings(taxonomy, words.texts):
            synset = taxonomy.wordnet.synsets[kind]
            assert trained.isdisjoint(synset.names)
            assert synset.gloss not in trained


def check_labels(taxonomy: Taxonomy, split: WordSplit) -> None:
    first = {taxonomy.wordnet.names(kind)[0] for kind in taxonomy.kinds}
    assert set(split.seen_labels.texts) <= first & set(split.names.texts)
    assert set(split.validation.texts) | set(split.unseen.texts) <= first
    assert len(split.seen_labels.texts) > 0.3 * len(split.names.texts)
    for words in (split.names, split.seen_labels, split.validation, split.everyday, split.unseen):
        assert (words.truth == TRUE).any(dim=1).all()
        assert len(set(words.texts)) == len(words.texts) == len(words.truth)


@pytest.mark.parametrize("check", [check_withheld, check_labels])
def test_seen_and_unseen_are_split_by_meaning(
    many: tuple[Taxonomy, WordSplit], check: Check
) -> None:
    check(*many)


@pytest.mark.parametrize("check", [check_withheld, check_labels])
def test_the_real_words_are_split_by_meaning(
    real_split: tuple[Taxonomy, WordSplit], check: Check
) -> None:
    check(*real_split)


def test_a_name_that_also_means_something_withheld_is_in_no_training(
    many: tuple[Taxonomy, WordSplit],
) -> None:
    _, split = many
    assert by_text(split.everyday)["other111"].count(TRUE) == 2  # of leaf111 and of leaf112
    assert {"leaf111", "leaf112", "other111"}.isdisjoint(split.names.texts)
    assert {"defines 111", "defines 112"}.isdisjoint(split.definitions.texts)
    assert "other105" not in split.names.texts
    assert "leaf106" not in split.everyday.texts


def test_the_split_is_the_same_every_time(many: tuple[Taxonomy, WordSplit]) -> None:
    taxonomy, split = many
    again = split_words(taxonomy, split.everyday.texts, NounIndex([]))
    assert again.unseen.texts == split.unseen.texts
    assert again.validation.texts == split.validation.texts
    assert again.names.texts == split.names.texts


def test_unseen_labels_are_the_everyday_and_the_unseen_words(
    many: tuple[Taxonomy, WordSplit],
) -> None:
    _, split = many
    labels = split.unseen_labels()
    assert labels.texts == split.everyday.texts + split.unseen.texts
    assert torch.equal(labels.truth, torch.cat([split.everyday.truth, split.unseen.truth]))


def test_a_word_is_true_unknown_or_false_of_a_picture(split: WordSplit, taxonomy: Taxonomy) -> None:
    words = split.all_names.lookup(["cat", "tabby", "food"])
    pictures = {
        ("n00000004",): [TRUE, TRUE, FALSE],
        ("n00000006",): [FALSE, FALSE, FALSE],
        ("n00000003",): [TRUE, UNKNOWN, FALSE],  # some cat: it may be a tabby
        ("n00000002",): [UNKNOWN, UNKNOWN, FALSE],
        ("n00000002", "n00000004"): [TRUE, TRUE, FALSE],  # true beats unknown
        ("n00000006", "n00000003"): [TRUE, UNKNOWN, FALSE],  # unknown beats false
        ("n00000009", "n00000002", "n00000005"): [TRUE, UNKNOWN, TRUE],
        (): [FALSE, FALSE, FALSE],
    }
    targets = words.true_of(taxonomy.shown(list(pictures)))
    assert targets.dtype == torch.int8
    assert targets.tolist() == list(pictures.values())


def test_lookup_keeps_the_order_and_leaves_out_unknown_words(split: WordSplit) -> None:
    found = split.all_names.lookup(["tabby", "justice", "dog"])
    assert found.texts == ("tabby", "dog")
    names = by_text(split.all_names)
    assert found.truth.tolist() == [names["tabby"], names["dog"]]
    nothing = split.all_names.lookup(["justice"])
    assert nothing.texts == ()
    assert nothing.true_of(torch.ones(2, found.truth.shape[1])).shape == (2, 0)


def test_words_are_joined_with_their_truth(split: WordSplit) -> None:
    both = split.names.plus(split.everyday)
    assert by_text(both) == by_text(split.names) | by_text(split.everyday)


def test_foreign_words_are_related_to_no_class(split: WordSplit) -> None:
    assert "justice" in split.foreign.texts
    related = {"animal", "entity", "cat", "orange", "puppy"}  # above, a class, below one
    assert related.isdisjoint(split.foreign.texts)
    assert set(read_lines(FOREIGN_FILE)) <= set(split.foreign.texts)
    assert not split.foreign.truth.any()


@pytest.mark.parametrize("file", [VOCABULARY_FILE, EVERYDAY_FILE, FOREIGN_FILE])
def test_word_files_hold_no_word_twice(file: Path) -> None:
    words = [word.lower() for word in read_lines(file)]
    assert len(words) == len(set(words)) > 50


@pytest.fixture(scope="session")
def real_split(real_words: tuple[Taxonomy, NounIndex]) -> tuple[Taxonomy, WordSplit]:
    taxonomy, index = real_words
    return taxonomy, split_words(taxonomy, read_lines(EVERYDAY_FILE), index)


def test_every_shipped_word_is_known(real_split: tuple[Taxonomy, WordSplit]) -> None:
    known = set(real_split[1].all_names.texts)
    assert [word for word in read_lines(VOCABULARY_FILE) if word not in known] == []


def test_everyday_words_are_many_and_each_holds_for_something(
    real_split: tuple[Taxonomy, WordSplit],
) -> None:
    everyday = real_split[1].everyday
    assert len(everyday.texts) >= 70
    hits = (everyday.truth == TRUE).any(dim=1)
    assert [text for text, hit in zip(everyday.texts, hits, strict=True) if not hit] == []


def test_foreign_words_name_nothing_that_a_picture_may_show(
    real_split: tuple[Taxonomy, WordSplit],
) -> None:
    taxonomy, split = real_split
    named = {name.lower() for kind in taxonomy.kinds for name in taxonomy.wordnet.names(kind)}
    assert len(split.foreign.texts) > 1000
    assert named.isdisjoint(split.foreign.texts)

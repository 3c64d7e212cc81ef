"""What holds for what: classes and everything above them."""

import torch

from ovml_deploy.training.mini.taxonomy import FALSE, TRUE, UNKNOWN, Taxonomy

NAMES = ("dog", "tabby", "persian", "orange", "sandbox", "animal", "entity", "cat", "food")
OFFSETS = dict(zip(NAMES, (6, 4, 5, 9, 12, 2, 1, 3, 8), strict=True))


def offset(name: str) -> str:
    return f"n{OFFSETS[name]:08}"


def by_name(values: torch.Tensor) -> dict[str, int]:
    return dict(zip(NAMES, values.tolist(), strict=True))


def test_kinds_are_the_classes_in_order_then_what_is_above_them(taxonomy: Taxonomy) -> None:
    assert taxonomy.kinds == tuple(offset(name) for name in NAMES)
    assert taxonomy.class_count == 5
    assert offset("cat") in taxonomy
    assert "n00000007" not in taxonomy  # puppy: below a class


def test_a_word_holds_below_its_meaning_and_is_unknown_above_it(taxonomy: Taxonomy) -> None:
    truth = taxonomy.truth([offset("cat")])
    assert truth.dtype == torch.int8
    expected = dict.fromkeys(NAMES, FALSE)
    expected |= dict.fromkeys(("cat", "tabby", "persian"), TRUE)
    expected |= dict.fromkeys(("animal", "entity"), UNKNOWN)
    assert by_name(truth) == expected


def test_a_word_of_two_meanings_holds_for_both(taxonomy: Taxonomy) -> None:
    truth = by_name(taxonomy.truth([offset("animal"), offset("tabby")]))
    assert truth["animal"] == truth["dog"] == truth["tabby"] == truth["persian"] == TRUE
    assert truth["entity"] == UNKNOWN
    assert truth["food"] == truth["orange"] == truth["sandbox"] == FALSE


def test_a_word_without_a_meaning_holds_for_nothing(taxonomy: Taxonomy) -> None:
    assert set(by_name(taxonomy.truth([])).values()) == {FALSE}


def test_class_counts_count_classes_and_not_what_is_between(taxonomy: Taxonomy) -> None:
    counts = taxonomy.class_counts()
    assert {name: counts[offset(name)] for name in NAMES} == {
        **dict.fromkeys(("dog", "tabby", "persian", "orange", "sandbox", "food"), 1),
        **{"cat": 2, "animal": 3, "entity": 5},
    }


def test_a_class_above_another_counts_itself(taxonomy: Taxonomy) -> None:
    both = Taxonomy(taxonomy.wordnet, [offset("cat"), offset("tabby")])
    assert both.class_counts()[offset("cat")] == 2
    assert len(both.kinds) == len(set(both.kinds)) == 4


def test_shown_marks_what_each_picture_holds_and_nothing_above(taxonomy: Taxonomy) -> None:
    shown = taxonomy.shown([[offset("dog"), offset("cat")], [], [offset("orange")]])
    assert shown.dtype == torch.bool
    names = [{name for name, there in by_name(row).items() if there} for row in shown]
    assert names == [{"dog", "cat"}, set(), {"orange"}]

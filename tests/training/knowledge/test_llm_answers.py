"""Answers are data: what is usable is taken, the rest is counted by kind, and nothing crashes."""

import json
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ovml_deploy.errors import DataError
from ovml_deploy.training.knowledge import answers as reasons
from ovml_deploy.training.knowledge import assemble as left_out
from ovml_deploy.training.knowledge.answers import Answer, read_answer
from ovml_deploy.training.knowledge.assemble import assemble
from ovml_deploy.training.knowledge.file import Knowledge, Relation


def read(text: Any, sentences: int = 4) -> tuple[Answer, dict[str, int]]:
    skipped = Counter[str]()
    text = text if isinstance(text, str) else json.dumps(text)
    answer = read_answer(text, sentences, skipped)
    return answer, {reason: count for reason, count in skipped.items() if count}


def test_a_good_answer_is_taken_whole() -> None:
    given_ = {
        "synonyms": ["kitty"],
        "broader": ["animal"],
        "kinds": ["tabby", "Siamese"],
        "attributes": [" long\n tail "],
        "contexts": ["sofa"],
        "sentences": ["A cat sleeps."],
        "shares": [["cat", "dog"]],
        "co-occurs": [["cat", "sofa"]],
        "kind-of": [["cat", "animal"]],
        "explanation": {"ignored": 1},
    }
    answer, skipped = read(given_)
    assert skipped == {}
    assert answer == Answer(
        synonyms=("kitty",),
        broader=("animal",),
        kinds=("tabby", "Siamese"),
        attributes=("long tail",),
        contexts=("sofa",),
        sentences=("A cat sleeps.",),
        shares=(("cat", "dog"),),
        co_occurs=(("cat", "sofa"),),
        kind_of=(("cat", "animal"),),
    )


@pytest.mark.parametrize(
    "text",
    [
        '{"contexts": ["sofa"]}',
        '```json\n{"contexts": ["sofa"]}\n```',
        'Sure! Here {it} is {}:\n{"contexts": ["sofa"]} I hope {this} helps.',
        '<think>{"contexts": ["draft"]}</think>{"contexts": ["sofa"]}',
        '{"a": 1} {"contexts": ["sofa"]}',
        '{"contexts": ["sofa", "sofa"]}',
        '{"contexts": "sofa"}',
        '{"contexts": ["so\nfa"]}'.replace("so\nfa", "\nsofa"),
    ],
)
def test_the_object_is_found_in_what_is_around_it(text: str) -> None:
    assert read(text) == (Answer(contexts=("sofa",)), {})


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", reasons.EMPTY),
        (" \n ", reasons.EMPTY),
        ("I cannot help with that.", reasons.NO_OBJECT),
        ('{"sentences": ["A cat', reasons.NO_OBJECT),
        ('["A cat."]', reasons.NO_OBJECT),
        ("{" * 100_000, reasons.NO_OBJECT),
        ('{"sentences": ' + "[" * 100_000, reasons.NO_OBJECT),
        ('{"sentences": ' + "9" * 5000 + "}", reasons.NO_OBJECT),
        ('{"sentences": []}' + " " * reasons.MAX_ANSWER_CHARS, reasons.TOO_LARGE),
    ],
)
def test_an_answer_that_cannot_be_used_is_counted(text: str, reason: str) -> None:
    assert read(text) == (Answer(), {reason: 1})


@pytest.mark.parametrize(
    ("entries", "reason", "count"),
    [
        ([1, None, ["A cat."], {"text": "A cat."}, True], reasons.WRONG_TYPE, 5),
        ({"1": "A cat."}, reasons.WRONG_TYPE, 1),
        (17, reasons.WRONG_TYPE, 1),
        (["", "  "], reasons.NO_TEXT, 2),
        (["x" * 301], reasons.LONG_SENTENCE, 1),
        (["a \x1b[31mcat", "a \u202ecat", "a \ud800 cat", "a\x00cat"], reasons.UNPRINTABLE, 4),
    ],
)
def test_entries_that_cannot_be_used_are_counted(entries: Any, reason: str, count: int) -> None:
    assert read({"sentences": entries}) == (Answer(), {reason: count})


def test_only_about_as_many_are_taken_as_were_asked_for() -> None:
    entries = [f"Cat number {n}." for n in range(5000)]
    answer, skipped = read(
        {"sentences": entries, "synonyms": entries, "shares": [["a", "b"]] * 501}
    )
    assert answer.sentences == tuple(entries[:8])
    assert answer.synonyms == tuple(entries[:20])
    assert skipped == {reasons.TOO_MANY: 4992 + 4980 + 1}


@pytest.mark.parametrize(
    "key", ["synonyms", "attributes", "contexts", "broader", "kinds", "sentences"]
)
def test_each_key_alone_tells_the_object(key: str) -> None:
    answer, skipped = read(f'{{"a": 1}} {{"{key}": ["x"]}}')
    assert (getattr(answer, key), skipped) == (("x",), {})


def test_pairs_are_pairs_of_texts() -> None:
    answer, skipped = read({"shares": [["a", "b"], ["a"], "ab", ["a", 1], ["a", "b" * 81], None]})
    assert answer.shares == (("a", "b"),)
    assert skipped == {reasons.WRONG_TYPE: 4, reasons.LONG_PHRASE: 1}


_JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(sorted(reasons._KEYS)), inner),
    max_leaves=20,
)


@given(
    st.dictionaries(st.sampled_from(sorted(reasons._KEYS)), _JSON), st.text(max_size=5), st.text()
)
@settings(max_examples=60, deadline=None)
def test_no_answer_crashes(found: dict[str, Any], before: str, anything: str) -> None:
    for text in (before + json.dumps(found), anything):
        answer, _ = read(text)
        with_a_sentence = Answer(sentences=("A cat.",))
        knowledge = assemble(["cat", "A"], [answer, with_a_sentence], [answer], "x", Counter())
        knowledge.targets()


def put_together(
    names: list[str], about: list[Answer], between: list[Answer]
) -> tuple[Knowledge, dict[str, int]]:
    skipped = Counter[str]()
    return assemble(names, about, between, "a test", skipped), dict(skipped)


CAT = Answer(sentences=("A cat.",))


def test_sentences_mention_what_their_text_says() -> None:
    cat = Answer(
        synonyms=("kitty",),
        sentences=("Two kitties and dogs.", "A dog.", "A bird.", "a  DOG!", "It's a bird."),
    )
    knowledge, skipped = put_together(["dog", "cat"], [Answer(), cat], [CAT])
    assert [(s.text, s.categories) for s in knowledge.sentences] == [
        ("Two kitties and dogs.", ("dog", "cat")),
        ("A dog.", ("dog",)),
        ("A cat.", ("cat",)),
    ]
    assert skipped == {left_out.REPEATED: 1, left_out.NO_CATEGORY: 2}


def test_synonyms_that_would_mislead_are_left_out() -> None:
    cat = Answer(
        synonyms=("Cats", "dogs", "the", "a thing", "feline", "???"), sentences=("A cat.",)
    )
    knowledge, skipped = put_together(["cat", "dog"], [cat, Answer()], [])
    assert knowledge.categories[0].synonyms == ("feline",)
    assert skipped == {left_out.OTHER_NAME: 1, left_out.VAGUE_SYNONYM: 3}


def test_what_is_a_kind_of_what_is_transitive_and_never_turns_round() -> None:
    names = ["cat", "animal", "being", "pet"]
    about = [
        Answer(broader=("feline", "Animals", "cat"), sentences=("A cat.",)),
        Answer(broader=("being",)),
        Answer(broader=("cat",), synonyms=("feline",)),  # a being is no cat
        Answer(),
    ]
    between = [Answer(kind_of=(("cat", "pet"), ("being", "cats"), ("cat", "stone")))]
    knowledge, skipped = put_together(names, about, between)
    assert [c.broader for c in knowledge.categories] == [
        ("animal", "being", "pet"),
        ("being",),
        (),
        (),
    ]
    assert skipped == {left_out.CONTRADICTION: 2, left_out.NOT_LISTED: 1}


def test_kinds_are_mentions_unless_they_are_categories() -> None:
    names = ["animal", "cat", "dog", "pet"]
    about = [
        Answer(kinds=("Cats", "puppy", "mouse", "kitties", "animals", "the thing", "!")),
        Answer(synonyms=("kitty",), kinds=("tabby", "kitty", "cat", "animal")),
        Answer(kinds=("puppy", "pet")),
        Answer(broader=("dog",), kinds=("dog",)),  # which of them it says first is believed
    ]
    texts = ("A mouse.", "Puppies.", "A tabby.", "A kitty.")
    knowledge, skipped = put_together(names, about, [Answer(sentences=texts)])
    assert [category.kinds for category in knowledge.categories] == [
        ("puppy", "mouse"),
        ("tabby",),
        ("puppy",),
        (),
    ]
    assert [category.broader for category in knowledge.categories] == [
        (),
        ("animal",),
        (),
        ("dog",),
    ]
    assert [sentence.categories for sentence in knowledge.sentences] == [
        ("animal",),
        ("animal", "dog"),
        ("cat",),
        ("cat",),
    ]
    assert skipped == {
        left_out.KIND_BY_OTHER_NAME: 1,
        left_out.VAGUE_KIND: 2,
        left_out.CONTRADICTION: 2,
    }


def test_relations_are_between_two_of_the_list_and_once() -> None:
    answer = Answer(
        shares=(("dogs", "Cat"), ("cat", "dog"), ("cat", "cats"), ("cat", "stone")),
        co_occurs=(("cat", "dog"),),
    )
    knowledge, skipped = put_together(["cat", "dog"], [CAT, Answer()], [answer])
    assert knowledge.relations == (
        Relation("cat", "dog", "shares"),
        Relation("cat", "dog", "co-occurs"),
    )
    assert skipped == {left_out.NOT_LISTED: 1}


def test_without_a_sentence_there_is_no_knowledge() -> None:
    bird = Answer(sentences=("A bird.",))
    with pytest.raises(DataError, match=r"no sentence .*1 sentences that mention no category"):
        put_together(["cat"], [bird], [])

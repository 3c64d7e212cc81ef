"""Asking a language model, over real HTTP: what is asked, kept, retried, counted and given up."""

import itertools
import json
import re
from pathlib import Path

import pytest
from chat_server import ChatServer, Reply, category_of, good_answer, kind_of

from ovml_deploy.errors import DataError, EndpointError, LabelError
from ovml_deploy.training.knowledge.answer_cache import AnswerCache
from ovml_deploy.training.knowledge.answers import EMPTY, NO_OBJECT
from ovml_deploy.training.knowledge.file import Category, Relation

QUESTIONS = 5  # what matters; each of three categories; one batch


def failing(server: ChatServer, what: Reply, times: int = 10**6, about: str = "dog") -> None:
    """Answer well, but the first so many times fail for one category."""
    left = [times]

    def script(question: str, number: int) -> Reply | str:
        if kind_of(question) == "category" and category_of(question) == about and left[0] > 0:
            left[0] -= 1
            return what
        return good_answer(question)

    server.script = script


def about_dog(server: ChatServer) -> list[float]:
    """When the question about dogs came."""
    return [
        request.time
        for request in server.requests
        if kind_of(request.question) == "category" and category_of(request.question) == "dog"
    ]


def test_the_three_kinds_of_questions_become_knowledge(server: ChatServer, ask) -> None:
    gathered = ask()
    knowledge = gathered.knowledge
    assert knowledge.source == f"scripted at {server.url}"
    assert knowledge.categories == (
        Category("cat", ("catoid",), ("furry",), ("garden",), ("animal",)),
        Category("dog", ("dogoid",), ("furry",), ("garden",), ("animal",)),
        Category("animal", ("animaloid",), ("furry",), ("garden",)),
    )
    assert knowledge.relations == (
        Relation("cat", "dog", "shares"),
        Relation("cat", "dog", "co-occurs"),
        Relation("dog", "animal", "co-occurs"),
    )
    assert [sentence.categories for sentence in knowledge.sentences] == [
        *[("cat",)] * 2,
        *[("dog",)] * 2,
        *[("animal",)] * 2,
        ("cat", "dog"),
        ("dog", "animal"),
    ]
    assert gathered.skipped == {}
    tally = gathered.tally
    assert (tally.questions, tally.sent, tally.answered, tally.known) == (5, 5, 5, 0)
    assert [kind_of(question) for question in server.questions].count("category") == 3
    assert kind_of(server.questions[0]) == "agnostic"
    for question in server.questions[1:]:
        if kind_of(question) == "category":
            assert "kinds of attributes: hue, shape\n" in question  # of the first answer
            assert "kinds of context: place\n" in question
            assert "2 captions" in question
    assert {request.model for request in server.requests} == {"scripted"}
    assert {request.headers["authorization"] for request in server.requests} == {
        "Bearer secret-key"
    }


def test_a_rerun_is_free_and_says_the_same(server: ChatServer, ask, tmp_path: Path) -> None:
    first = ask()
    again = ask(concurrency=1)
    assert again.knowledge == first.knowledge
    assert len(server.requests) == QUESTIONS
    assert (again.tally.sent, again.tally.known) == (0, QUESTIONS)
    kept = (tmp_path / "cache" / "answers.sqlite").read_bytes()
    assert b"secret-key" not in kept


def test_other_models_settings_and_categories_are_asked_anew(server: ChatServer, ask) -> None:
    ask()
    for change in ({"model": "other"}, {"seed": 1}, {"base_url": server.url + "/"}):
        before = len(server.requests)
        ask(**change)
        expected = 0 if "base_url" in change else QUESTIONS
        assert len(server.requests) - before == expected, change
    before = len(server.requests)
    ask(["cat", "dog", "animal", "bird"])
    asked = [kind_of(question) for question in server.questions[before:]]
    assert sorted(asked) == ["category", "relation"]  # of the bird, and of all


def test_kinds_are_asked_for_and_found(server: ChatServer, ask) -> None:
    def script(question: str, number: int) -> str:
        answer = good_answer(question)
        if kind_of(question) == "category" and category_of(question) == "dog":
            assert '"kinds": ["up to ten everyday kinds of \'dog\'' in question
            kinds = {"kinds": ["poodle", "dogoid"], "sentences": ["Two poodles and a cat."]}
            return json.dumps({**json.loads(answer), **kinds})
        return answer

    server.script = script
    knowledge = ask().knowledge
    assert knowledge.categories[1].kinds == ("poodle",)
    found = {sentence.text: sentence.categories for sentence in knowledge.sentences}
    assert found["Two poodles and a cat."] == ("cat", "dog")


def test_useless_answers_are_counted_and_kept(server: ChatServer, ask) -> None:
    useless = {"cat": '{"sentences": ["A cat', "animal": "", "relation": None}

    def script(question: str, number: int) -> Reply | str:
        kind = kind_of(question)
        key = category_of(question) if kind == "category" else kind
        return Reply(useless[key]) if key in useless else good_answer(question)

    server.script = script
    gathered = ask()
    assert gathered.skipped == {NO_OBJECT: 1, EMPTY: 2}
    assert {s.categories for s in gathered.knowledge.sentences} == {("dog",)}
    assert gathered.tally.failed == 0
    ask()
    assert len(server.requests) == QUESTIONS  # they are paid for, too


def test_when_what_matters_is_not_told_common_kinds_are_used(server: ChatServer, ask) -> None:
    server.script = lambda question, number: (
        "It depends." if kind_of(question) == "agnostic" else good_answer(question)
    )
    assert ask().skipped == {NO_OBJECT: 1}
    about = [question for question in server.questions if kind_of(question) == "category"]
    assert all("kinds of attributes: color, " in question for question in about)


def test_a_busy_server_is_given_the_time_it_asks_for(server: ChatServer, ask) -> None:
    failing(server, Reply(status=429, headers={"Retry-After": "1"}), times=1)
    gathered = ask(concurrency=1)
    first, second = about_dog(server)
    assert 1.0 <= second - first < 30.0  # and not the 0.02 s of our own
    assert (gathered.tally.sent, gathered.tally.failed) == (QUESTIONS + 1, 0)


def test_all_workers_are_quiet_when_the_server_asks(server: ChatServer, ask) -> None:
    busy = Reply(status=429, headers={"Retry-After": "1"})
    server.script = lambda question, number: (
        busy if number == 2 else Reply(good_answer(question), delay=0.05)
    )
    ask([f"thing{letter}" for letter in "abcdefgh"], concurrency=2)
    times = [request.time for request in server.requests]
    # the other worker would go on every 0.05 s
    assert max(later - one for one, later in itertools.pairwise(times)) > 0.6


def test_who_asks_for_an_hour_is_not_waited_for(server: ChatServer, ask) -> None:
    failing(server, Reply(status=429, headers={"Retry-After": "3600"}))
    gathered = ask()
    assert gathered.tally.failed == 1
    assert len(about_dog(server)) == 1


@pytest.mark.parametrize(
    "trouble",
    [
        Reply(status=500),
        Reply(status=503),
        Reply(status=408),
        Reply("late", delay=1.0),
        Reply(good_answer("agnostic"), drop=True),
        Reply(good_answer("agnostic"), drop=True, headers={"Content-Encoding": "gzip"}),
    ],
    ids=["500", "503", "408", "timeout", "drop", "garbled"],
)
def test_trouble_that_passes_is_retried(server: ChatServer, ask, trouble: Reply) -> None:
    failing(server, trouble, times=2)
    gathered = ask(timeout=0.4)
    assert len(about_dog(server)) == 3
    assert gathered.tally.sent == QUESTIONS + 2
    assert gathered.tally.failed == 0
    assert gathered.knowledge == ask().knowledge


@pytest.mark.parametrize(
    ("trouble", "attempts", "reason"),
    [
        (Reply(status=500), 3, "status 500: .*scripted 500"),
        (Reply("late", delay=1.0), 3, "no answer within 0.4 s"),
        (Reply("", drop=True), 3, "Connection error"),
        (Reply(status=400), 1, "status 400"),  # of this question: others were answered
        (Reply(body=b"<html>"), 1, "no chat completion, but: <html>"),
        (Reply(body=b'{"choices": []}'), 1, "no chat completion"),
        (Reply(body=b'{"choices": [{"message": 7}]}'), 1, "no chat completion"),
        (Reply(body=b"[" * 100_000), 1, "no chat completion"),
        (Reply(body=b"\xff\x00", headers={"Content-Type": "text/html"}), 1, "no chat compl"),
    ],
)
def test_a_question_that_fails_is_counted_and_the_others_go_on(
    server: ChatServer, ask, trouble: Reply, attempts: int, reason: str
) -> None:
    failing(server, trouble)
    gathered = ask(timeout=0.4)
    assert len(about_dog(server)) == attempts
    assert gathered.tally.failed == 1
    assert gathered.tally.unasked == 0
    assert re.search(reason, gathered.tally.last_failure)
    assert {s.categories for s in gathered.knowledge.sentences} >= {("cat",), ("animal",)}
    server.script = lambda question, number: good_answer(question)
    before = len(server.requests)
    assert ask().tally.failed == 0
    assert len(server.requests) == before + 1  # the failed one, and only that


def test_hopeless_refusals_stop_at_once_with_what_to_do(server: ChatServer, ask) -> None:
    for status in (401, 403, 404):
        server.requests.clear()
        failing(server, Reply(status=status))
        with pytest.raises(EndpointError, match=rf"refuses: status {status}.*--base-url, --model"):
            ask(concurrency=1, seed=status)
        assert [kind_of(question) for question in server.questions] == ["agnostic"] + [
            "category"
        ] * 2
        server.requests.clear()
        server.script = lambda question, number: good_answer(question)
        ask(concurrency=1, seed=status)
        assert len(server.requests) == 3  # the answers before it were kept


def test_a_bad_request_at_the_start_stops(server: ChatServer, ask) -> None:
    server.script = lambda question, number: Reply(status=400)
    with pytest.raises(EndpointError, match="does not answer: status 400"):
        ask()
    assert len(server.requests) == 1


def test_several_failures_in_a_row_stop(server: ChatServer, ask) -> None:
    names = [f"thing{letter}" for letter in "abcdefghijkl"]
    server.script = lambda question, number: (
        good_answer(question) if number < 4 else Reply(status=500)
    )
    with pytest.raises(EndpointError, match=r"failed 5 times in a row.*3 answers are kept"):
        ask(names, concurrency=1, attempts=1)
    assert len(server.requests) == 8


def test_failures_with_answers_between_them_do_not_stop(server: ChatServer, ask) -> None:
    names = [f"thing{letter}" for letter in "abcdefghijklmn"]
    server.script = lambda question, number: (
        Reply(status=500) if number % 2 == 0 else good_answer(question)
    )
    tally = ask(names, concurrency=1, attempts=1).tally
    assert (tally.failed, tally.answered, tally.unasked) == (8, 9, 0)


def test_nobody_there(server: ChatServer, ask) -> None:
    server.close()
    with pytest.raises(EndpointError, match="does not answer: Connection error"):
        ask()


def test_messages_of_the_server_show_no_key_and_no_control_characters(
    server: ChatServer, ask
) -> None:
    message = "bad key secret-key \x1b[31m" + "x" * 1000
    body = json.dumps({"error": {"message": message}}).encode()
    server.script = lambda question, number: Reply(status=401, body=body)
    with pytest.raises(EndpointError) as caught:
        ask()
    assert "secret-key" not in str(caught.value)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 600


def test_the_budget_counts_what_is_sent_retries_among_it(server: ChatServer, ask) -> None:
    gathered = ask(max_requests=3)
    assert len(server.requests) == 3
    assert (gathered.tally.sent, gathered.tally.unasked) == (3, 2)
    gathered = ask(max_requests=1)
    assert len(server.requests) == 4
    assert (gathered.tally.known, gathered.tally.sent, gathered.tally.unasked) == (3, 1, 1)
    assert ask(max_requests=0).tally.unasked == 1
    failing(server, Reply(status=500))
    gathered = ask(seed=1, max_requests=4, concurrency=1, attempts=50)
    assert len(server.requests) == 4 + 4
    assert (gathered.tally.unasked, gathered.tally.failed) == (3, 0)


def test_a_budget_that_buys_nothing_is_an_error(ask) -> None:
    for budget in (0, 1):
        with pytest.raises(DataError, match=f"no answer about any .*{budget} requests were sent"):
            ask(max_requests=budget)


def test_answers_that_cannot_be_kept_are_not_asked_for(
    server: ChatServer, ask, tmp_path: Path
) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "answers.sqlite").write_bytes(b"no data base " * 100)
    with pytest.raises(DataError, match=r"cannot be kept in .*answers\.sqlite.*--cache"):
        ask()
    (tmp_path / "cache" / "answers.sqlite").unlink()
    (tmp_path / "cache").rmdir()
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(DataError, match="cannot be kept"):
        ask()
    assert server.requests == []


def test_categories_are_checked_before_anything_is_asked(server: ChatServer, ask) -> None:
    for names in (["cat", "???"], ["Cat", "cat"], ["cat", "cat"], []):
        with pytest.raises(LabelError):
            ask(names)
    assert server.requests == []


def test_the_cache_keeps_any_text(tmp_path: Path) -> None:
    cache = AnswerCache("http://localhost", "m", folder=tmp_path)
    for answer in ("", "caf\u00e9 \ud800 \x00 \U0001f431", "x" * 100_000):
        cache.put("q\ud800", answer)
        assert AnswerCache("http://localhost", "m", folder=tmp_path).get("q\ud800") == answer
    assert cache.get("q") is None
    assert AnswerCache("http://localhost", "m2", folder=tmp_path).get("q\ud800") is None

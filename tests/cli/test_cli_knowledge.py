"""``ovml-deploy knowledge``: what it writes and says, and what survives a kill."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from chat_server import ChatServer, Reply, category_of, good_answer, kind_of

from ovml_deploy.training import mini
from ovml_deploy.training.knowledge.file import read_knowledge
from ovml_deploy.training.knowledge.questions import FOLDER

NAMES = ["cat", "dog", "animal", "car"]
QUESTIONS = 6  # what matters; each of four categories; one batch


@pytest.fixture
def server() -> Iterator[ChatServer]:
    server = ChatServer()
    yield server
    server.close()


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_BASE_URL", "OPENAI_API_KEY", "OPENAI_MODEL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OVML_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    Path("labels.txt").write_text("\n".join(NAMES))


@pytest.fixture
def options(server: ChatServer) -> list[str]:
    return ["knowledge", "labels.txt", "--base-url", server.url, "--model=m", "--sentences=2"]


def test_it_writes_knowledge_and_tells_what_it_took(cli, server: ChatServer, options) -> None:
    server.script = lambda question, number: (
        "Sorry."
        if kind_of(question) == "category" and category_of(question) == "animal"
        else good_answer(question).replace("A furry cat", "A bird").replace("next to", "by")
    )
    done = cli(*options, "--out", "new/k.json")
    assert (done.code, done.err) == (0, "")
    shown = " ".join(done.out.split())
    for part in (
        f"source m at {server.url}",
        "categories 4",
        "sentences 8",
        "sentences per category 2.8",
        "categories without a sentence 0",
        "relations 4",
        "questions 6",
        "requests sent 6",
        "answers from the cache 0",
        "questions that failed 0",
        "left out: answers without the JSON object asked for 1",
        "left out: sentences that mention no category 1",
        "new/k.json: 8 sentences",
    ):
        assert part in shown
    knowledge = read_knowledge("new/k.json")
    assert knowledge.names == tuple(NAMES)
    again = cli(*options, "--out", "again.json", "--concurrency=1")
    assert Path("again.json").read_bytes() == Path("new/k.json").read_bytes()
    assert "answers from the cache 6" in " ".join(again.out.split())
    assert len(server.requests) == QUESTIONS


def test_the_endpoint_may_be_in_the_environment(cli, server: ChatServer, monkeypatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    monkeypatch.setenv("OPENAI_MODEL", "from-the-environment")
    monkeypatch.setenv("OPENAI_API_KEY", "a-key")
    assert cli("knowledge", "labels.txt").code == 0
    (about,) = {(r.model, r.headers["authorization"]) for r in server.requests}
    assert about == ("from-the-environment", "Bearer a-key")
    assert read_knowledge("knowledge.json").source == f"from-the-environment at {server.url}"


def test_categories_without_a_sentence_are_named(cli, server: ChatServer, options) -> None:
    server.script = lambda question, number: (
        good_answer(question)
        if kind_of(question) == "category" and category_of(question) == "cat"
        else "{}"
    )
    shown = " ".join(cli(*options).out.split())
    assert "categories without a sentence 3 (dog, animal, car)" in shown


def test_ones_own_questions_are_asked(cli, server: ChatServer, options) -> None:
    shutil.copytree(FOLDER, "mine")
    Path("mine/category.txt").write_text('"synonyms" of photographs that show: {category}\nPlease.')
    assert cli(*options, "--questions=mine").code == 0
    assert '"synonyms" of photographs that show: dog\nPlease.' in server.questions
    Path("mine/category.txt").write_text("{categorie}")
    done = cli(*options, "--questions=mine")
    assert done.code == 2
    assert "{categorie}, which is not known" in done.err


def test_a_spent_budget_leaves_what_there_is_and_says_how_to_go_on(
    cli, server: ChatServer, options
) -> None:
    done = cli(*options, "--max-requests=3", "--concurrency=1")
    assert done.code == 3
    assert "The budget is spent: 3 of 6 questions were asked." in done.err
    assert len(server.requests) == 3
    assert {s.categories for s in read_knowledge("knowledge.json").sentences} == {
        ("cat",),
        ("dog",),
    }
    assert cli(*options, "--max-requests=3").code == 0
    assert len(read_knowledge("knowledge.json").sentences) == 11
    assert max(Counter(server.questions).values()) == 1


def test_a_budget_that_buys_nothing_leaves_no_file(cli, server: ChatServer, options) -> None:
    done = cli(*options, "--max-requests=1")
    assert done.code == 1
    assert "no answer about any category" in done.err
    assert not Path("knowledge.json").exists()


def test_failed_questions_are_told(cli, server: ChatServer, options) -> None:
    server.script = lambda question, number: (
        Reply(status=400) if kind_of(question) == "relation" else good_answer(question)
    )
    done = cli(*options)
    assert done.code == 3
    assert "1 questions failed, the last with: status 400" in done.err
    assert read_knowledge("knowledge.json").relations == ()


def test_a_wrong_key_stops(cli, server: ChatServer, options) -> None:
    server.script = lambda question, number: Reply(status=401)
    done = cli(*options)
    assert done.code == 1
    assert "refuses: status 401" in done.err
    assert not Path("knowledge.json").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--base-url=http://localhost:1/v1"], "--model or OPENAI_MODEL"),
        (["--model=m"], "OPENAI_API_KEY or with --api-key"),
        (["--model=m", "--base-url=nowhere"], "'nowhere' is not like"),
        (["--provider=oracle"], "--provider is 'oracle'; there are openai and wordnet"),
        (["--provider=wordnet", "--model=m"], "leave --model away"),
        (["--provider=wordnet", "--max-requests=0"], "leave --max-requests away"),
        (["--sentences=0"], "--sentences is 0"),
        (["--sentences=101"], "--sentences is 101"),
        (["--max-requests=-1"], "'-1' is not a whole number"),
        (["--out=."], "cannot be written to '.'"),
        (["--out=labels.txt/k.json"], "cannot be written to"),
        (["--questions=absent", "--model=m", "--api-key=k"], "no questions in 'absent/"),
    ],
)
def test_wrong_command_lines(cli, arguments: list[str], message: str) -> None:
    done = cli("knowledge", "labels.txt", *arguments)
    assert done.code == 2
    assert message in done.err


@pytest.mark.parametrize("provider", ["openai", "wordnet"])
def test_categories_that_cannot_be_are_refused(
    cli, server: ChatServer, options, provider: str
) -> None:
    for labels, message in (
        ("cat\n???", "'???' has no letters"),
        ("cat\nCat", "'cat' and 'Cat' are the same words"),
        ("cat\ncat", "repeats line 1"),
        ("", "no labels"),
    ):
        Path("labels.txt").write_text(labels)
        done = cli(*(options if provider == "openai" else (*options[:2], "--provider=wordnet")))
        assert done.code == 1
        assert message in done.err
    assert server.requests == []


def test_without_the_package_it_says_what_to_install(cli, options, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    monkeypatch.delitem(sys.modules, "ovml_deploy.training.knowledge.endpoint", raising=False)
    done = cli(*options)
    assert done.code == 1
    assert "pip install 'ovml-deploy[knowledge]'" in done.err


def hold_from(server: ChatServer, held: Callable[[int], bool]) -> tuple[threading.Event, ...]:
    """Let the server hold some requests back; returns "one is held" and "let them go"."""
    reached, release = threading.Event(), threading.Event()

    def script(question: str, number: int) -> str:
        if held(number):
            reached.set()
            release.wait(20)
        return good_answer(question)

    server.script = script
    return reached, release


def start(options: list[str], *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "ovml_deploy.cli", *options, *more]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_after_a_kill_no_paid_question_is_asked_again(cli, server: ChatServer, options) -> None:
    reached, release = hold_from(server, lambda number: number == 5)
    process = start(options, "--concurrency=1")
    assert reached.wait(30)
    process.kill()
    assert process.wait(10) == -signal.SIGKILL
    process.communicate()
    release.set()
    paid = server.questions[:4]
    assert server.answered[:4] == paid
    assert not Path("knowledge.json").exists()
    server.requests.clear()
    server.script = lambda question, number: good_answer(question)
    done = cli(*options, "--concurrency=1")
    assert done.code == 0
    assert len(server.requests) == QUESTIONS - 4
    assert not set(server.questions) & set(paid)
    assert len(read_knowledge("knowledge.json").sentences) == 11


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_waits_for_what_is_on_its_way(
    cli, server: ChatServer, options, number: int
) -> None:
    reached, release = hold_from(server, lambda request: request > 3)
    process = start(options, "--concurrency=2")
    assert reached.wait(30)
    while len(server.requests) < 5:  # both are on their way
        time.sleep(0.01)
    process.send_signal(number)
    assert process.stderr
    assert "Stopping." in process.stderr.readline()
    release.set()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted. 5 answers are kept in" in err
    assert "the same command goes on" in err
    assert not Path("knowledge.json").exists()
    server.script = lambda question, request: good_answer(question)
    assert cli(*options).code == 0
    assert len(server.requests) == QUESTIONS


def test_a_second_ctrl_c_waits_for_nothing(server: ChatServer, options) -> None:
    reached, release = hold_from(server, lambda request: request > 3)
    process = start(options, "--concurrency=2")
    assert reached.wait(30)
    process.send_signal(signal.SIGINT)
    assert process.stderr
    assert "Stopping." in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert len(server.requests) < QUESTIONS
    release.set()


_HAS_WORDNET = pytest.mark.skipif(
    not Path("/usr/share/wordnet/data.noun").exists(), reason="wordnet-base is not installed"
)


@_HAS_WORDNET
def test_the_embedded_vocabularys_knowledge_is_what_the_command_gives(cli) -> None:
    folder = Path(mini.__file__).parent
    done = cli("knowledge", str(folder / "words.txt"), "--provider=wordnet", "--sentences=6")
    assert (done.code, done.err) == (0, "")
    shipped = (folder / "knowledge.json").read_bytes()
    assert Path("knowledge.json").read_bytes() == shipped  # else write it anew, as here
    assert len(shipped) < 1_500_000


@_HAS_WORDNET
def test_wordnet_needs_no_endpoint(cli) -> None:
    done = cli("knowledge", "labels.txt", "--provider=wordnet", "--sentences=3", "--seed=1")
    assert (done.code, done.err) == (0, "")
    knowledge = read_knowledge("knowledge.json")
    assert knowledge.names == tuple(NAMES)
    assert f"sentences {len(knowledge.sentences)}" in " ".join(done.out.split())
    assert "requests sent" not in done.out
    before = Path("knowledge.json").read_bytes()
    cli("knowledge", "labels.txt", "--provider=wordnet", "--sentences=3", "--seed=2")
    assert Path("knowledge.json").read_bytes() != before

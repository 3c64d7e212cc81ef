"""Command lines: every option has its value, and nothing is guessed."""

import re

import pytest

from ovml_deploy import commandline
from ovml_deploy.commandline import command, count, flag, number


class Program:
    """A program with commands like ours, which say what they were called with."""

    def __init__(self) -> None:
        self.group = Group()

    @command(top_k=count, threshold=number, fast=flag)
    def tag(
        self,
        *photos: str,
        labels: str | None = None,
        prefix: str = "",
        top_k: int = 5,
        threshold: float | None = None,
        fast: bool = False,
    ) -> None:
        """Tag images."""
        print(photos, labels, prefix, top_k, threshold, fast)

    @command()
    def serve(self, engine: str = "mini", host: str = "localhost") -> None:
        """Serve a bundle."""
        print(engine, host)


class Group:
    """A group of commands."""

    @command()
    def build(self, labels: str, name: str | None = None) -> None:
        """Build one."""
        print(labels, name)


@pytest.fixture
def run(capsys):
    """A function that runs a command line and returns its exit code, output and errors."""

    def run_line(*line: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = commandline.run(Program(), "program", line)
        return (code, *capsys.readouterr())

    return run_line


@pytest.mark.parametrize(
    ("line", "printed"),
    [
        (("tag", "a.jpg", "--labels", "cat"), "('a.jpg',) cat  5 None False"),
        (("tag", "--labels=a=b", "a.jpg", "b.jpg"), "('a.jpg', 'b.jpg') a=b  5 None False"),
        (("tag", "--top_k", "3", "--threshold=-1"), "() None  3 -1.0 False"),
        (("tag", "--threshold", "-1", "-5"), "('-5',) None  5 -1.0 False"),
        (("tag", "--fast", "a.jpg"), "('a.jpg',) None  5 None True"),
        (("tag", "a.jpg", "--fast"), "('a.jpg',) None  5 None True"),
        (("tag", "a.jpg", "--fast=false"), "('a.jpg',) None  5 None False"),
        (("tag", "--fast", "TRUE", "a.jpg"), "('a.jpg',) None  5 None True"),
        (("tag", "a.jpg", "--no-fast"), "('a.jpg',) None  5 None False"),
        (("tag", "a.jpg", "--nofast"), "('a.jpg',) None  5 None False"),
        (("tag", "a.jpg", "--prefix="), "('a.jpg',) None  5 None False"),
        (("tag", "a.jpg", "--prefix", "- "), "('a.jpg',) None -  5 None False"),
        (("tag", "a.jpg", "--labels=-x,None"), "('a.jpg',) -x,None  5 None False"),
        (("tag", "a.jpg", "--", "b.jpg", "-"), "('a.jpg', 'b.jpg', '-') None  5 None False"),
        (("tag", "-"), "('-',) None  5 None False"),
        (("serve", "qks", "--host", "0.0.0.0"), "qks 0.0.0.0"),
        (("group", "build", "a.txt", "--name", "True"), "a.txt True"),
    ],
)
def test_what_is_accepted(run, line: tuple[str, ...], printed: str) -> None:
    assert run(*line) == (0, f"{printed}\n", "")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (("tag", "a.jpg", "--labels"), "--labels needs a value"),
        (("tag", "--labels", "--fast"), "--labels needs a value"),
        (("tag", "a.jpg", "--top-k"), "--top-k needs a value"),
        (("serve", "--host"), "--host needs a value"),
        (("tag", "a.jpg", "--labels="), "--labels is empty"),
        (("tag", "a.jpg", "--labels", " "), "--labels is empty"),
        (("tag", "a.jpg", "--top-k=5.0"), "--top-k: '5.0' is not a whole number"),
        (("tag", "a.jpg", "--threshold=nan"), "--threshold: 'nan' is not a number"),
        (
            ("tag", "a.jpg", "--fast=maybe"),
            "--fast is a switch and takes no value; it was given 'maybe'",
        ),
        (
            ("tag", "a.jpg", "--nothreshold"),
            "has no option '--nothreshold'. Did you mean --threshold?",
        ),
        (("tag", "a.jpg", "--no-labels"), "has no option '--no-labels'"),
        (("tag", "--lables", "cat"), "has no option '--lables'. Did you mean --labels?"),
        (("tag", "-t", "3"), "not abbreviated.*'-t' does not. Write --top-k or --threshold"),
        (("tag", "-top-k", "3"), "Write --top-k"),
        (("serve", "-x"), "'-x' does not"),
        (("tag", "--top-k", "1", "--top_k=2"), "--top-k is given twice"),
        (("tag", "--fast", "--no-fast"), "--fast is given twice"),
        (("serve", "qks", "--engine", "b"), "--engine is given, and 'qks' as well"),
        (("tag", "a.jpg", "--", "--interactive"), "'--interactive' stands after '--'"),
        (("tag", "a.jpg", "--", "--trace"), "'--trace' stands after '--'"),
        (("--interactive",), "has no command '--interactive'"),
        (("--", "--interactive"), "needs a command before '--'"),
        (("__class__",), "has no command '__class__'"),
        (("group", "__init__"), "'program group' has no command '__init__'"),
        (("tagg",), "no command 'tagg'. Did you mean tag? The commands are: group, serve, tag"),
    ],
)
def test_what_is_refused(run, line: tuple[str, ...], message: str) -> None:
    code, out, err = run(*line)
    assert (code, out) == (2, "")
    assert re.search(message.replace("?", r"\?"), err), err


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        (("-h",), "program - A program"),
        (("--help",), "program - A program"),
        (("--", "--help"), "program - A program"),
        (("group", "-h"), "program group - A group"),
        (("serve", "-h"), "program serve - Serve a bundle"),
        (("serve", "qks", "--host", "x", "--help"), "program serve - Serve a bundle"),
        (("group", "build", "--", "-h"), "program group build - Build one"),
    ],
)
def test_help_is_shown_wherever_it_is_asked_for(run, line: tuple[str, ...], shown: str) -> None:
    code, out, err = run(*line)
    assert (code, out) == (0, "")
    assert shown in err
    assert "-h, --host" not in err  # abbreviations are not offered


def test_completion_is_left_of_fires_own_options(run) -> None:
    code, out, _ = run("--", "--completion")
    assert code == 0
    assert "complete" in out

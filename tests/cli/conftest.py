"""The command, run in this process."""

from typing import NamedTuple

import pytest

from ovml_deploy.cli import main


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def cli(capsys):
    """A function that runs the command in this process."""

    def run(*arguments: object) -> Outcome:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        shown = capsys.readouterr()
        assert "Traceback" not in shown.err
        return Outcome(code, shown.out, shown.err)

    return run

"""How a command line becomes a call and an exit code: Fire's parsing, with no surprises.

Exit codes: 0 all well; 1 an error, nothing done; 2 a wrong command line; 3 finished, but some
images failed; 130 interrupted.
"""

import functools
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import TextIOWrapper
from typing import Any

import fire
import fire.decorators
import fire.helptext
from fire.core import FireExit
from fire.decorators import SetParseFn, SetParseFns

from ovml_deploy import arguments
from ovml_deploy.decoder_messages import silence_decoders
from ovml_deploy.errors import MissingDependencyError, OvmlError, UsageError

SOME_FAILED = 3
INTERRUPTED = 130

# Fire marks what it decorates with this attribute, and would list it in --help as a group.
fire.decorators.FIRE_METADATA = "_fire_metadata"
# Options are not abbreviated, so that a further option changes the meaning of no command line.
fire.helptext._GetShortFlags = lambda flags: []


@dataclass(frozen=True)
class Job:
    """A parsed command. It runs once Fire has accepted the whole command line, not before.

    Fire would take a public member for a further word of the command line, so it has none.
    """

    _run: Callable[[], int | None]


def command(**types: Callable[[str], Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Make a function a command whose arguments stay text, except those with a type given here."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def parsed(*args: Any, **kwargs: Any) -> Job:
            return Job(functools.partial(function, *args, **kwargs))

        switches = frozenset(name for name, read in types.items() if read is flag)
        setattr(parsed, arguments.SWITCHES, switches)
        parsers = {name: arguments.named(name, read) for name, read in types.items()}
        return SetParseFns(**parsers)(SetParseFn(str)(parsed))

    return decorate


def count(text: str) -> int:
    """Read a whole number."""
    if not text.isdecimal():
        raise UsageError(f"{text!r} is not a whole number.")
    return int(text)


def number(text: str) -> float:
    """Read a number."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if math.isnan(value):
        raise UsageError(f"{text!r} is not a number.")
    return value


def flag(text: str) -> bool:
    """Read a switch."""
    if text not in ("True", "False"):
        raise UsageError(f"This option is a switch and takes no value; it was given {text!r}.")
    return text == "True"


def counts(text: str) -> tuple[int, ...]:
    """Read whole numbers separated by commas."""
    return tuple(count(part.strip()) for part in text.strip("()[]").split(",") if part.strip())


def names(text: str) -> tuple[str, ...]:
    """Read names or patterns separated by commas."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


@contextmanager
def needs_extra(extra: str) -> Iterator[None]:
    """Turn a missing package into the command that installs it."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingDependencyError(_how_to_install(error, extra)) from error


def report_missing_package(extra: str, otherwise: Callable[..., Any]) -> Callable[..., Any]:
    """Return an exception hook that prints one line, as ``run`` does, for a missing package.

    ``python -m`` imports a module before ``run`` can catch anything. Every other exception goes to
    ``otherwise``, the hook in place.
    """

    def hook(kind: type[BaseException], error: BaseException, trace: Any) -> None:
        if isinstance(error, ModuleNotFoundError) and error.name:
            print(f"error: {_how_to_install(error, extra)}", file=sys.stderr)
        else:
            otherwise(kind, error, trace)

    return hook


def _how_to_install(error: ModuleNotFoundError, extra: str) -> str:
    return f"This needs the package {error.name!r}. Install it: pip install 'ovml-deploy[{extra}]'"


def run(component: Any, name: str, argv: Sequence[str] | None = None) -> int:
    """Run the command that ``argv`` (default: this process's) names; return its exit code."""
    _escape_what_cannot_be_printed()
    try:
        words = arguments.checked(component, name, sys.argv[1:] if argv is None else argv)
        job = fire.Fire(component, words, name=name, serialize=_silent)
        code = _finish(job) if isinstance(job, Job) else 0
        sys.stdout.flush()  # here, where a closed pipe is met
        return code
    except FireExit as error:
        return int(error.code or 0)
    except BrokenPipeError:  # the reader of a pipe (head) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (OvmlError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED


def _finish(job: Job) -> int:
    silence_decoders()
    return job._run() or 0


def _escape_what_cannot_be_printed() -> None:
    """A file name need not be UTF-8, nor a terminal able to show every label."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _silent(component: Any) -> Any:
    """Let Fire print help for a group, and nothing for a command that is yet to run."""
    return None if isinstance(component, Job) else component

"""How a command line becomes a call: Fire's parsing, with types and no surprises."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import fire.decorators
from fire.decorators import SetParseFn, SetParseFns

from ovml_deploy.errors import MissingDependencyError, UsageError

# Fire marks what it decorates with this attribute, and would list it in --help as a group.
fire.decorators.FIRE_METADATA = "_fire_metadata"


@dataclass(frozen=True)
class Job:
    """A parsed command. It runs once Fire has accepted the whole command line, not before.

    Fire would take a public member for a further word of the command line, so it has none.
    """

    _run: Callable[[], int | None]


def command(**types: Callable[[str], Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Make a method a command whose arguments stay text, except those with a type given here."""

    def decorate(method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def parsed(*args: Any, **kwargs: Any) -> Job:
            return Job(functools.partial(method, *args, **kwargs))

        return SetParseFns(**types)(SetParseFn(str)(parsed))

    return decorate


def count(text: str) -> int:
    """Read a whole number."""
    if not text.isdigit():
        raise UsageError(f"{text!r} is not a whole number.")
    return int(text)


def number(text: str) -> float:
    """Read a number."""
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"{text!r} is not a number.") from None


def flag(text: str) -> bool:
    """Read a switch."""
    if text not in ("True", "False"):
        raise UsageError(f"This option is a switch and takes no value; it was given {text!r}.")
    return text == "True"


def counts(text: str) -> tuple[int, ...]:
    """Read whole numbers separated by commas."""
    return tuple(count(part.strip()) for part in text.strip("()[]").split(",") if part.strip())


@contextmanager
def needs_extra(extra: str) -> Iterator[None]:
    """Turn a missing package into the command that installs it."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"This needs the package {error.name!r}. Install it: pip install 'ovml-deploy[{extra}]'"
        ) from error

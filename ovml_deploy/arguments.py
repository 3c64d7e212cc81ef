"""Checks of a command line's arguments, before Fire makes a call of them."""

import difflib
import inspect
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from ovml_deploy.errors import UsageError

#: The attribute of a command that names its switches.
SWITCHES = "_ovml_switches"

_HELP = frozenset({"-h", "--help"})
_COMPLETION = "--completion"
_FIRE = "--"  # behind it are Fire's own options
_SHORT = re.compile("-[a-zA-Z]")
_TRUTH = {"true": True, "false": False}


def checked(component: Any, program: str, arguments: Sequence[str]) -> list[str]:
    """Return the arguments as Fire reads them without guessing: each option as ``--name=value``.

    Raises UsageError for an unknown command, and for an option that is unknown, abbreviated, empty,
    without a value, or given twice. What follows ``--`` are plain arguments. ``-h`` or ``--help``
    anywhere asks for help. Of Fire's own options only ``-- --completion`` is left.
    """
    if [*arguments[:2]] in ([_FIRE, _COMPLETION], [_COMPLETION]):
        return [_FIRE, *arguments[arguments.index(_COMPLETION) :]]
    words, command, rest = _find_command(component, program, arguments)
    if _HELP.intersection(rest):
        return [*words, _FIRE, "--help"]
    name = " ".join((program, *words))
    if not hasattr(command, SWITCHES):
        if rest:
            raise UsageError(f"{name!r} needs a command before {rest[0]!r}. See {name} --help.")
        return words
    line = _Line(name, inspect.signature(command).parameters, getattr(command, SWITCHES))
    line.read(rest)
    # a lone "-" is a name as any other, not the separator of Fire's chained calls
    return [*words, *line.options, *line.plain, _FIRE, "--separator=\0"]


def _find_command(
    component: Any, program: str, arguments: Sequence[str]
) -> tuple[list[str], Any, list[str]]:
    """Return the words that lead to a command, the command (or a group of them), and the rest."""
    words: list[str] = []
    for position, word in enumerate(arguments):
        if hasattr(component, SWITCHES) or word in _HELP or word == _FIRE:
            return words, component, [*arguments[position:]]
        names = [name for name in dir(component) if not name.startswith("_")]
        name = word.replace("-", "_")
        if name not in names:
            shown = [name.replace("_", "-") for name in names]
            raise UsageError(
                f"{' '.join((program, *words))!r} has no command {word!r}.{_nearest(word, shown)} "
                f"The commands are: {', '.join(shown)}."
            )
        component = getattr(component, name)
        words.append(word)
    return words, component, []


@dataclass
class _Line:
    """The arguments of one command: its options as ``--name=value``, and the plain arguments."""

    command: str
    parameters: Any
    switches: frozenset[str]
    options: list[str] = field(default_factory=list)
    plain: list[str] = field(default_factory=list)
    _given: set[str] = field(default_factory=set)

    def read(self, arguments: Sequence[str]) -> None:
        """Sort the arguments. Raises UsageError."""
        end = arguments.index(_FIRE) if _FIRE in arguments else len(arguments)
        rest = [*arguments[:end]]
        while rest:
            argument = rest.pop(0)
            if _is_option(argument):
                self._read_option(argument, rest)
            else:
                self.plain.append(argument)
        for argument in arguments[end + 1 :]:
            if _is_option(argument):
                raise UsageError(f"{argument!r} stands after '--'. Write a file as './{argument}'.")
            self.plain.append(argument)
        for name, argument in zip(self._positional(), self.plain, strict=False):
            if name in self._given:
                raise UsageError(f"{_option(name)} is given, and {argument!r} as well. Omit one.")

    def _read_option(self, argument: str, rest: list[str]) -> None:
        """Take an option and its value, which may be the next of the arguments."""
        text, has_value, value = argument.partition("=")
        name, switched = self._name(text)
        if name in self._given:
            raise UsageError(f"{_option(name)} is given twice. Give it once.")
        self._given.add(name)
        if name in self.switches:
            if not has_value and rest and rest[0].lower() in _TRUTH:
                has_value, value = "=", rest.pop(0)
            on = _TRUTH.get(value.lower()) if has_value else True
            if on is None:
                raise UsageError(
                    f"{_option(name)} is a switch and takes no value; it was given {value!r}."
                )
            self.options.append(f"--{name}={on == switched}")
            return
        if not has_value:
            if not rest or _is_option(rest[0]):
                raise UsageError(
                    f"{_option(name)} needs a value. A value that begins with '-' is written "
                    f"{_option(name)}=-VALUE."
                )
            value = rest.pop(0)
        if not value.strip() and self.parameters[name].default != "":
            raise UsageError(f"{_option(name)} is empty. Give it a value, or omit it.")
        self.options.append(f"--{name}={value}")

    def _name(self, text: str) -> tuple[str, bool]:
        """Return the parameter of an option, and whether it is not negated (--no-NAME)."""
        names = [*self._named()]
        if not text.startswith("--"):
            meant = [_option(name) for name in names if name.startswith(text[1:].replace("-", "_"))]
            remedy = f" Write {' or '.join(meant)}." if meant else ""
            raise UsageError(
                f"Options are not abbreviated, and begin with two hyphens; {text!r} does not.{remedy}"
            )
        name = text[2:].replace("-", "_")
        if name in names:
            return name, True
        if name.startswith("no") and (switch := name[2:].lstrip("_")) in self.switches:
            return switch, False
        shown = [_option(name) for name in names]
        raise UsageError(
            f"{self.command!r} has no option {text!r}.{_nearest(text, shown)} "
            f"See {self.command} --help."
        )

    def _named(self) -> Iterator[str]:
        kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        return (name for name, one in self.parameters.items() if one.kind in kinds)

    def _positional(self) -> Iterator[str]:
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        return (name for name, one in self.parameters.items() if one.kind is kind)


def named(name: str, read: Callable[[str], Any]) -> Callable[[str], Any]:
    """Return ``read`` with errors that name the option."""

    def parse(text: str) -> Any:
        try:
            return read(text)
        except UsageError as error:
            raise UsageError(f"{_option(name)}: {error}") from error

    return parse


def _is_option(argument: str) -> bool:
    return argument.startswith("--") or _SHORT.match(argument) is not None


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _nearest(word: str, names: Sequence[str]) -> str:
    close = difflib.get_close_matches(word, names, 1)
    return f" Did you mean {close[0]}?" if close else ""

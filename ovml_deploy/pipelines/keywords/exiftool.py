"""Runs ExifTool, which knows where every kind of image file keeps its keywords.

Nothing that a user named reaches its command line: files have names of ours, in a folder of ours, and
values are lines of an argument file, each behind the tag that it is for.
"""

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from ovml_deploy.errors import MissingDependencyError, OvmlError

#: Seconds that it may take for one file, and to start.
_PATIENCE = 60.0
_ARGUMENTS = "arguments"
CONVERT = "Convert it to JPEG, PNG, TIFF or WebP."


class KeywordError(OvmlError):
    """A photo whose keywords cannot be read or written, or a folder that takes no copies."""


def find_exiftool() -> str:
    """Return the path of the program. Raises MissingDependencyError where there is none."""
    program = shutil.which("exiftool")
    if program is None:
        raise MissingDependencyError(
            "Keywords are written by ExifTool, which is not installed. Install it: "
            "apt install libimage-exiftool-perl (Debian, Ubuntu), dnf install perl-Image-ExifTool "
            "(Fedora), brew install exiftool (macOS)."
        )
    return program


class ExifTool:
    """Runs ``program`` in ``folder``, to whose files all names refer."""

    def __init__(self, program: str, folder: Path) -> None:
        self._program = program
        self._folder = folder

    def run(self, *commands: Sequence[str]) -> tuple[str, str]:
        """Carry out commands in one process; return what it printed and what went wrong.

        Raises KeywordError where it takes longer than a minute for each.
        """
        lines = [line for command in commands for line in (*command, "-execute")]
        if bad := [line for line in lines if {*"\r\n\0"} & {*line}]:
            raise KeywordError(f"{bad[0]!r} cannot be handed to ExifTool. Remove the line break.")
        arguments = self._folder / _ARGUMENTS
        arguments.write_bytes("".join(f"{line}\n" for line in lines).encode())
        try:
            done = subprocess.run(
                # -config: not the one in the user's home, which could change what tags mean
                [self._program, "-config", "", "-@", _ARGUMENTS],
                cwd=self._folder,
                env={**os.environ, "LC_ALL": "C"},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_PATIENCE * (1 + len(commands)),
                start_new_session=True,  # Ctrl-C is for us: it ends what it has begun
            )
        except subprocess.TimeoutExpired:
            raise KeywordError("ExifTool did not end in time.") from None
        return done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")

    def write(self, commands: Mapping[str, Sequence[str]]) -> dict[str, str]:
        """Carry out commands that write a file each, the key; return why those failed that did.

        Those that gave no file are tried again, alone: neither takes one with it, and what is said is
        about that one.
        """
        if commands:
            with suppress(KeywordError):  # it may be about any of them
                self.run(*commands.values())
        failed = {}
        for name, command in commands.items():
            if not (self._folder / name).exists():
                try:
                    said = self.run(command)[1]
                except KeywordError as error:
                    said = str(error)
                if not (self._folder / name).exists():
                    failed[name] = first_error(said)
        return failed


def first_error(said: str) -> str:
    """Return the first of what ExifTool said about an error, without the name of the file (ours)."""
    lines = [line for line in said.splitlines() if line.strip()]
    lines = [line for line in lines if line.startswith("Error")] or lines
    if not lines:
        return "ExifTool wrote nothing and said nothing"
    reason = "ExifTool: " + lines[0].removeprefix("Error: ").rpartition(" - ")[0]
    if reason.endswith("not supported"):
        reason += f". {CONVERT}"
    return reason

"""Runs programs in an empty home and reports connections, host look-ups and written files."""

import functools
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv6Address, ip_address
from pathlib import Path

_SENDING = ("connect", "bind", "sendto", "sendmsg", "sendmmsg")
_OPENING = ("open", "openat", "creat")
_MAKING = (
    "mkdir",
    "mkdirat",
    "rename",
    "renameat",
    "renameat2",
    "link",
    "linkat",
    "symlink",
    "symlinkat",
)
_STRACE = ("strace", "-D", "-f", "-q", "-y", "--seccomp-bpf", "-s", "400")
_TRACED = ",".join((*_SENDING, *_OPENING, *_MAKING))
_ENDS_WITHIN = 20.0  # seconds that the tracer has to write its last lines

#: Files whose reading means that a host is looked up, and the sockets of programs that do it.
_RESOLVERS = ("/etc/resolv.conf", "/run/systemd/resolve/")

_CALL = re.compile(r"(\w+)\((.*)\)\s+= -?\d+(?:<(.*)>)?(?: (\w+) .*)?$")
_ADDRESS = re.compile(r'(?:inet_addr\(|inet_pton\(AF_INET6, )"([^"]+)"')
_PATHS = re.compile(r'(?:\w+<([^>]*)>, )?"((?:[^"\\]|\\.)*)"')

#: What Python itself can tell, for machines without strace: native code is not seen.
_AUDIT_HOOK = """
import os, sys
_log = os.open({log!r}, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
def _tell(event, values):
    if event in ("socket.connect", "socket.bind", "socket.sendto", "socket.sendmsg"):
        line = f"address {{values[1][0]}}" if isinstance(values[1], tuple) else ""
    elif event == "socket.getaddrinfo":
        line = f"look-up {{values[0]}}" if values[0] else ""
    elif event == "open" and isinstance(values[0], (str, bytes)) and (values[2] or 0) & _WRITES:
        line = f"write {{os.path.abspath(os.fsdecode(values[0]))}}"
    elif event in ("os.mkdir", "os.rename", "os.link", "os.symlink"):
        line = f"write {{os.path.abspath(values[event != 'os.mkdir'])}}"
    else:
        return
    if line:
        os.write(_log, (line + chr(10)).encode("utf-8", "surrogateescape"))
sys.addaudithook(_tell)
"""


@functools.cache
def strace_works() -> bool:
    """Return whether strace is installed and may trace (containers can forbid it)."""
    if shutil.which("strace") is None:
        return False
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace"
        command = [*_STRACE, "-e", f"trace={_TRACED}", "-o", str(trace), "true"]
        done = subprocess.run(command, capture_output=True)
        return done.returncode == 0 and trace.exists()


@dataclass(frozen=True)
class Watch:
    """A home, a temporary and an output folder, and a script that runs a program watched in them.

    The environment holds only what is named here, so that no variable of CI or of the tests changes
    what the program does. ``by``: "strace", or "hook" for Python's audit hook.
    """

    folder: Path
    program: str = sys.executable
    by: str = "strace"
    variables: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for folder in (self.home, self.temporary, self.out):
            folder.mkdir(parents=True)
        script = ["#!/bin/sh", f'exec env -i {self._environment()} {self._prefix()} "$@"', ""]
        self.script.write_text("\n".join(script))
        self.script.chmod(0o755)

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def cache(self) -> Path:
        return self.home / ".cache" / "ovml-deploy"

    @property
    def temporary(self) -> Path:
        return self.folder / "tmp"

    @property
    def out(self) -> Path:
        """The output folder, in which the program runs."""
        return self.folder / "out"

    @property
    def script(self) -> Path:
        return self.folder / "watched"

    def run(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        command = [str(self.script), *map(str, arguments)]
        return subprocess.run(command, cwd=self.out, capture_output=True, text=True)

    def violations(self, *allowed: Path) -> list[str]:
        """Return what the program did and must not, once it has ended.

        ``allowed``: files or folders that may be written, with the cache, the output folder and the
        temporary folder. Python's ``__pycache__`` and devices may be written as well.
        """
        folders = (self.cache, self.temporary, self.out, Path("/dev"), Path("/proc"), *allowed)
        seen = self._traced() if self.by == "strace" else self._told()
        found = [line for kind, value in seen if (line := _judge(kind, value, folders))]
        files = [path for path in self.home.rglob("*") if not path.is_dir()]
        return found + [f"left {path}" for path in files if not _may_write(path, folders)]

    def _environment(self) -> str:
        own = {
            "HOME": str(self.home),
            "TMPDIR": str(self.temporary),
            "XDG_RUNTIME_DIR": str(self.temporary),
            "PATH": os.environ["PATH"],
            "LANG": "C.UTF-8",
            "OMP_NUM_THREADS": "1",
        }
        if self.by == "hook":
            (self.folder / "sitecustomize.py").write_text(_AUDIT_HOOK.format(log=str(self._trace)))
            own["PYTHONPATH"] = str(self.folder)
        pairs = {**own, **self.variables}.items()
        return shlex.join(f"{name}={value}" for name, value in pairs)

    def _prefix(self) -> str:
        options = (*_STRACE, "-e", f"trace={_TRACED}", "-o", str(self._trace))
        return shlex.join([*(options if self.by == "strace" else ()), self.program])

    @property
    def _trace(self) -> Path:
        return self.folder / "trace"

    def _told(self) -> Iterator[tuple[str, str]]:
        for line in self._trace.read_text("utf-8", errors="surrogateescape").splitlines():
            kind, _, value = line.partition(" ")
            yield kind, value

    def _traced(self) -> Iterator[tuple[str, str]]:
        for name, arguments, opened, error in _calls(_finished(self._trace)):
            if name in _SENDING:
                yield from (("address", address) for address in _ADDRESS.findall(arguments))
                if any(path in arguments for path in _RESOLVERS):
                    yield "look-up", arguments
            elif name in _OPENING:
                path = opened or _path(arguments, self.out)
                if path.startswith(_RESOLVERS):
                    yield "look-up", path
                elif name == "creat" or re.search(r"O_(WRONLY|RDWR|CREAT)", arguments):
                    yield "write", path
            elif error != "EEXIST":
                yield "write", _path(arguments, self.out)


def _finished(trace: Path) -> list[str]:
    """Return the lines of a trace once all its processes have ended."""
    until = time.monotonic() + _ENDS_WITHIN
    while True:
        lines = trace.read_text("utf-8", errors="replace").splitlines()
        started = {line.split(maxsplit=1)[0] for line in lines}
        ended = {line.split(maxsplit=1)[0] for line in lines if " +++ " in line}
        if lines and started == ended:
            return lines
        assert time.monotonic() < until, f"processes {started - ended} of {trace} have not ended"
        time.sleep(0.02)


def _calls(lines: Sequence[str]) -> Iterator[tuple[str, str, str, str]]:
    """Yield (name, arguments, path of the opened file, error) of each call."""
    begun: dict[str, str] = {}
    for line in lines:
        process, text = line.split(maxsplit=1)
        if text.endswith("<unfinished ...>"):
            begun[process] = text.removesuffix("<unfinished ...>").rstrip()
            continue
        if resumed := re.match(r"<\.\.\. \w+ resumed>(.*)", text):
            text = begun.pop(process, "") + resumed[1]
        if call := _CALL.match(text):
            name, arguments, opened, error = call.groups(default="")
            yield name, arguments, opened, error


def _path(arguments: str, start: Path) -> str:
    """Return the last path among a call's arguments, made absolute."""
    folder, name = _PATHS.findall(arguments)[-1]
    return os.path.normpath(os.path.join(folder or str(start), name))


def _judge(kind: str, value: str, folders: Sequence[Path]) -> str:
    """Return what is wrong with one thing that a program did, "" where nothing is."""
    if kind == "write":
        return "" if _may_write(Path(value), folders) else f"wrote {value}"
    verb = "looked up" if kind == "look-up" else "spoke to"
    return "" if _is_loopback(value) else f"{verb} {value}"


def _may_write(path: Path, folders: Sequence[Path]) -> bool:
    if "__pycache__" in path.parts:
        return True
    return any(path.is_relative_to(folder) or folder.is_relative_to(path) for folder in folders)


def _is_loopback(host: str) -> bool:
    try:
        address = ip_address(host)
    except ValueError:
        return False
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    return address.is_loopback

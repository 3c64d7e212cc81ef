"""What a script measured: its tables on the screen, and in a results folder with what they hold for."""

import argparse
import json
import platform
import re
import subprocess
import time
from pathlib import Path
from typing import Any

from tables import Rows, markdown, show

from ovml_deploy import __version__
from ovml_deploy.runtime.cpu import cpu_features, cpu_name
from ovml_deploy.runtime.engine import Engine
from ovml_deploy.runtime.threads import available_cpus

RESULTS = Path(__file__).parent / "results"


def environment(engine: Engine | None = None) -> dict[str, Any]:
    """Return what figures hold for: the machine, the commit, and what ran."""
    git = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    found: dict[str, Any] = {
        "cpu": cpu_name(),
        "instructions": list(cpu_features()),
        "threads": available_cpus(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "ovml_deploy": __version__,
        "commit": commit,
        "date": time.strftime("%Y-%m-%d"),
    }
    if engine is not None:
        found["engine"] = str(engine.bundle.path)
        found["backend"] = engine.backend.description
    return found


class Report:
    """Collects one script's tables."""

    def __init__(self, title: str, engine: Engine | None = None) -> None:
        """Print what the figures will hold for. ``title``: names the file, too."""
        self.environment = environment(engine)
        self._title = title
        self._parts: list[str] = []
        self._headlines: list[tuple[str, str, str]] = []
        print("\n".join(f"{name}: {value}" for name, value in self.environment.items()))

    def table(self, title: str, rows: Rows) -> None:
        """Print a table."""
        show(title, rows)
        self._parts.append(f"## {title}\n\n{markdown(rows)}\n")

    def say(self, text: str) -> None:
        """Print a remark on the table before."""
        print(text, flush=True)
        self._parts.append(f"{text}\n")

    def headline(self, what: str, figure: str, against: str = "") -> None:
        """Keep a figure for the summary; ``against``: what it is compared with, and how it fares."""
        self._headlines.append((what, figure, against))

    def write(self, folder: Path | None) -> None:
        """Write ``TITLE.md`` and ``TITLE.json`` (headlines) into a folder, if there is one."""
        if folder is None:
            return
        folder.mkdir(parents=True, exist_ok=True)
        stamp = "\n".join(f"- {name}: {_plain(value)}" for name, value in self.environment.items())
        name = re.sub(r"[^a-z0-9]+", "-", self._title.lower()).strip("-")
        text = "\n".join([f"# {self._title}\n\n{stamp}\n", *self._parts])
        (folder / f"{name}.md").write_text(text, "utf-8")
        facts = {"environment": self.environment, "headlines": self._headlines}
        (folder / f"{name}.json").write_text(json.dumps(facts, indent=1) + "\n", "utf-8")


def add_write(parser: argparse.ArgumentParser) -> None:
    """Add ``--write [FOLDER]``."""
    text = "keep the tables in a folder (default: benchmarks/results)"
    parser.add_argument("--write", type=Path, nargs="?", const=RESULTS, help=text)


def _plain(value: Any) -> str:
    text = ", ".join(value) if isinstance(value, list) else str(value)
    return text.replace(f"{Path.cwd()}/", "")

"""A scripted language model, and a way to ask it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from chat_server import ChatServer

NAMES = ("cat", "dog", "animal")


@pytest.fixture
def server() -> Iterator[ChatServer]:
    server = ChatServer()
    yield server
    server.close()


@pytest.fixture
def ask(server: ChatServer, tmp_path: Path) -> Callable[..., Any]:
    """A function that asks the server, with short waits."""
    from ovml_deploy.training.knowledge.endpoint import Settings
    from ovml_deploy.training.knowledge.llm import llm_knowledge

    def run(names: Sequence[str] = NAMES, seed: int = 0, **changes: Any) -> Any:
        settings = Settings(
            "scripted", "secret-key", server.url, timeout=5, attempts=3, first_wait=0.02
        )
        return llm_knowledge(
            names,
            replace(settings, **changes),
            sentences=2,
            cache_folder=tmp_path / "cache",
            seed=seed,
        )

    return run

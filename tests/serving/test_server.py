"""How a server starts."""

import asyncio
from collections.abc import Callable

import pytest

from ovml_deploy.errors import UsageError
from ovml_deploy.runtime.engine import Engine
from ovml_deploy.serving.server import Address, _loop_factory, _Run
from ovml_deploy.serving.settings import Settings


@pytest.mark.parametrize("loop", [None, _loop_factory()], ids=["asyncio", "default"])
def test_a_port_that_another_process_takes_meanwhile(
    engine: Engine, loop: Callable[[], asyncio.AbstractEventLoop] | None
) -> None:
    """Both may have bound it, but only one can listen, and the other must not hang."""
    first = Address(port=0).bind()
    second = Address(port=first.getsockname()[1]).bind()
    first.listen()
    with first, second, asyncio.Runner(loop_factory=loop) as runner:
        run = _Run(engine, Settings(), second, True)
        with pytest.raises(UsageError, match="cannot be listened on"):
            runner.run(run.until_stopped(None, None))

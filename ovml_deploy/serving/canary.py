"""Whether the engine works right now: an image whose features are known goes through it."""

import asyncio
import logging
from time import monotonic

import numpy as np

from ovml_deploy.errors import OvmlError
from ovml_deploy.runtime.engine import Engine
from ovml_deploy.runtime.precision import TOLERANCE
from ovml_deploy.runtime.selfcheck import read_golden, relative_error
from ovml_deploy.serving.batcher import Batcher

logger = logging.getLogger(__name__)

_FRESH = 1.0  # seconds for which an answer holds, so that probes cost little
_TIMEOUT = 10.0


class Canary:
    """Sends the bundle's first golden image through the batcher. For one event loop."""

    def __init__(self, engine: Engine, batcher: Batcher) -> None:
        golden = read_golden(engine.bundle)
        self._pixels = np.ascontiguousarray(golden["pixels"][0])
        self._features = golden["features"]
        self._tolerance = TOLERANCE[engine.backend.precision]
        self._batcher = batcher
        self._asked: asyncio.Task[str | None] | None = None
        self._answered = -_FRESH

    async def fault(self) -> str | None:
        """Return why the engine cannot be used, None where it can."""
        if not self._batcher.alive:
            return "The engine has stopped."
        if self._asked is None or (self._asked.done() and monotonic() - self._answered > _FRESH):
            self._asked = asyncio.ensure_future(self._ask())
        return await asyncio.shield(self._asked)  # others may wait for the same answer

    async def _ask(self) -> str | None:
        try:
            # first, so that an engine with much to do is not taken for one that does nothing
            future = self._batcher.submit_first(self._pixels)
            matched = await asyncio.wait_for(asyncio.wrap_future(future), _TIMEOUT)
        except TimeoutError:
            return f"The engine did not answer in {_TIMEOUT:g} s."
        except OvmlError as error:
            logger.error("the engine is not ready: %s", error)
            return "The engine failed. The server's log says why."
        finally:
            self._answered = monotonic()
        off = relative_error(matched.features, self._features[0], self._features)
        if off > self._tolerance:
            return f"The engine's answer is wrong: relative error {off:.1e}."
        return None

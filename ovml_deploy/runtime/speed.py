"""How fast each device here runs a bundle: measured in one run, in turns."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from ovml_deploy.errors import DeviceError, OvmlError
from ovml_deploy.runtime.backends import AUTO, candidates, create_backend
from ovml_deploy.runtime.bundle import Bundle
from ovml_deploy.runtime.engine import Engine
from ovml_deploy.runtime.selfcheck import read_golden
from ovml_deploy.runtime.turns import median, take_turns
from ovml_deploy.runtime.verified import RANKED, failed_gate
from ovml_deploy.runtime.verify import golden_vocabulary
from ovml_deploy.runtime.vocabulary import Vocabulary

_BATCHES = (1, RANKED)
_SECONDS = 3.0  # for all devices with one size of batch, or three turns of each


@dataclass(frozen=True)
class Speed:
    """Milliseconds an image of a device, by batch size; or why it was ``refused``."""

    device: str
    precision: str
    description: str
    milliseconds: Mapping[int, float] = field(default_factory=dict)
    refused: str | None = None


def measure_speeds(
    bundle: Bundle, failed: Mapping[tuple[str, str], str] | None = None
) -> list[Speed]:
    """Time all that ``auto`` would try, the fastest first; what cannot or may not run comes last.

    ``failed``: why a (device, precision) is not timed, besides those that are stored as failed.

    From pixels to the logits of the golden labels. All engines are loaded at once and take turns,
    so that a machine that slows down slows them all. Raises BundleError for the goldens.
    """
    golden = read_golden(bundle)
    words = golden_vocabulary(bundle, golden)
    shape = golden["pixels"].shape[1:]
    batches = {size: np.resize(golden["pixels"], (size, *shape)) for size in _BATCHES}
    engines: dict[tuple[str, str], Engine] = {}
    refused = []
    for device, some in candidates(AUTO, bundle.precision):
        try:
            if failed and (device, some) in failed:
                raise DeviceError(failed[device, some])
            engine = _opened(bundle, device, some)
            for pixels in batches.values():
                _tag(engine, pixels, words)
            engines[device, some] = engine
        except OvmlError as error:
            refused.append(Speed(device, some, f"{device} {some}", refused=str(error)))
    taken = {name: dict[int, float]() for name in engines}
    for size, pixels in batches.items() if engines else ():
        ways = {name: partial(_tag, engine, pixels, words) for name, engine in engines.items()}
        for name, turns in take_turns(ways, _SECONDS).items():
            taken[name][size] = 1e3 * median(turns) / size
    found = [
        Speed(*name, engine.backend.description, taken[name]) for name, engine in engines.items()
    ]
    return [*sorted(found, key=lambda speed: speed.milliseconds[RANKED]), *refused]


def _opened(bundle: Bundle, device: str, precision: str) -> Engine:
    backend = create_backend(device, precision, bundle.precision)
    if (reason := failed_gate(bundle, backend)) is not None:
        raise DeviceError(reason)
    return Engine.open(bundle.path, device, precision)


def _tag(engine: Engine, pixels: np.ndarray, words: Vocabulary) -> object:
    return engine.match(engine.encode(pixels), words)

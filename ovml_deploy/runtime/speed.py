"""How fast each device here runs a bundle: measured in one run, in turns."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from ovml_deploy.errors import DeviceError
from ovml_deploy.runtime.backends import AUTO, candidates, create_backend
from ovml_deploy.runtime.bundle import Bundle
from ovml_deploy.runtime.engine import Engine
from ovml_deploy.runtime.selfcheck import read_golden
from ovml_deploy.runtime.turns import median, take_turns
from ovml_deploy.runtime.verified import RANKED, failed_gate
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


def measure_speeds(bundle: Bundle, precision: str = AUTO) -> list[Speed]:
    """Time all that ``auto`` would try, the fastest first; what is not to be used comes last.

    From pixels to the logits of the golden labels. All engines are loaded at once and take turns,
    so that a machine that slows down slows them all. Raises BundleError.
    """
    engines: dict[tuple[str, str], Engine] = {}
    refused = []
    for device, some in candidates(precision, bundle.precision):
        try:
            engines[device, some] = _opened(bundle, device, some)
        except DeviceError as error:
            refused.append(Speed(device, some, f"{device} {some}", refused=str(error)))
    taken = {name: dict[int, float]() for name in engines}
    golden = read_golden(bundle)
    hashes = bundle.text_hash, bundle.prompt_hash
    labels = [f"label {index}" for index in range(len(golden["labels"]))]
    words = Vocabulary("golden", tuple(labels), golden["labels"], *hashes)
    for size in _BATCHES if engines else ():
        pixels = np.resize(golden["pixels"], (size, *golden["pixels"].shape[1:]))
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

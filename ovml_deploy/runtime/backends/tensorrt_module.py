"""TensorRT for RTX or enterprise TensorRT: one API under two names, and what an engine says of itself."""

import importlib
import importlib.util
import re
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ovml_deploy.errors import DeviceError, MissingDependencyError, UsageError
from ovml_deploy.runtime.plans import ENTERPRISE, RTX

AUTO = "auto"

#: Lines of the builder and of the engine inspector, such as "Name: matmul, LayerType: gemm, Inputs:
#: [ { Name: features, ..., Datatype: Float, ... }], Constants: [], Outputs: ...".
_LAYER = re.compile(
    r"^Name: .*?, LayerType: (\w+), Inputs: \[(.*?)\], (?:Constants|Outputs): ", re.M
)
_DATATYPE = re.compile(r"Datatype: (\w+)")
_PRODUCT = re.compile(r"gemm|conv|correlation|fusion|attention|mha|matrix", re.I)
#: TensorRT's names of types, lowest precision first.
_PRECISIONS = {
    "FP4": "fp4",
    "FP8": "fp8",
    "Int8": "int8",
    "BFloat16": "bf16",
    "Half": "fp16",
    "Float": "fp32",
}
_LAYERS_FOLLOW = "Layers:\n"
_KEPT = 8  # errors


@dataclass(frozen=True)
class Flavour:
    """One of the two packages. ``any_target``: it builds for GPUs that are not in this machine."""

    name: str
    module: str
    extra: str
    title: str
    any_target: bool


FLAVOURS = {
    flavour.name: flavour
    for flavour in (
        Flavour(RTX, "tensorrt_rtx", "tensorrt-rtx", "TensorRT for RTX", True),
        Flavour(ENTERPRISE, "tensorrt", "tensorrt", "TensorRT", False),
    )
}


def choose(name: str = AUTO) -> Flavour:
    """Return a flavour by name; "auto": the first that is installed.

    Raises UsageError for an unknown name, MissingDependencyError for what is not installed.
    """
    if name != AUTO and name not in FLAVOURS:
        raise UsageError(f"Unknown flavour {name!r}. There are: {', '.join((AUTO, *FLAVOURS))}.")
    wanted = [flavour for flavour in FLAVOURS.values() if name in (AUTO, flavour.name)]
    for flavour in wanted:
        if importlib.util.find_spec(flavour.module) is not None:
            return flavour
    raise MissingDependencyError(
        f"This needs {' or '.join(flavour.title for flavour in wanted)}, which is not installed: "
        + " or ".join(f"pip install 'ovml-deploy[{flavour.extra}]'" for flavour in wanted)
    )


def load(flavour: Flavour) -> Any:
    """Import a flavour. Raises MissingDependencyError, or DeviceError where it does not load."""
    choose(flavour.name)
    try:
        return importlib.import_module(flavour.module)
    except (ImportError, OSError) as error:  # a part of it, or of CUDA, is missing
        raise DeviceError(
            f"{flavour.title} is installed but cannot be loaded ({error}). Install it again: "
            f"pip install --force-reinstall 'ovml-deploy[{flavour.extra}]'"
        ) from error


def load_cuda(flavour: Flavour) -> Any:
    """Import the CUDA runtime's binding. Raises MissingDependencyError."""
    try:
        return importlib.import_module("cuda.bindings.runtime")
    except ImportError as error:
        raise MissingDependencyError(
            f"A plan needs the package 'cuda-bindings' ({error}). Install it: "
            f"pip install 'ovml-deploy[{flavour.extra}]'"
        ) from error


@dataclass
class Messages:
    """What TensorRT said: its errors, and the layers of the engine it built last."""

    errors: deque[str] = field(default_factory=lambda: deque(maxlen=_KEPT))
    layers: str = ""

    def note(self, severe: bool, text: str) -> None:
        """Keep a message if it is one of those."""
        if severe:
            self.errors.append(text.strip())
        elif text.startswith(_LAYERS_FOLLOW):
            self.layers = text

    def summary(self) -> str:
        """Return the errors in one line: the last is the root, as a rule."""
        return " | ".join(dict.fromkeys(self.errors)) or "TensorRT gave no reason"


def logger(trt: Any, messages: Messages) -> Any:
    """Return a TensorRT logger that prints nothing and notes ``messages``."""

    class Logger(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, text: str) -> None:
            messages.note(severity <= trt.ILogger.Severity.ERROR, text)

    return Logger()


@dataclass(frozen=True)
class Layer:
    """A layer of an engine; ``precision``: of its lowest input, None where it has no real one."""

    kind: str
    precision: str | None

    @property
    def is_product(self) -> bool:
        """Whether it multiplies matrices or convolves, perhaps with more fused to it."""
        return _PRODUCT.search(self.kind) is not None


def read_layers(information: str) -> list[Layer]:
    """Read an engine's layers from what the builder or the engine inspector says, one a line."""
    return [
        Layer(kind, next((ours for theirs, ours in _PRECISIONS.items() if theirs in types), None))
        for kind, inputs in _LAYER.findall(information)
        for types in [set(_DATATYPE.findall(inputs))]
    ]


def inspect(trt: Any, engine: Any) -> list[Layer]:
    """Return the layers of a loaded engine."""
    inspector = engine.create_engine_inspector()
    return read_layers(inspector.get_engine_information(trt.LayerInformationFormat.ONELINE))


def count_products(layers: list[Layer]) -> dict[str, int]:
    """Return how many products an engine computes in each precision, the most frequent first."""
    products = Counter(layer.precision or "other" for layer in layers if layer.is_product)
    return dict(products.most_common())


def lowest(products: Mapping[str, int]) -> str:
    """Return the lowest precision that any product computes in, "none" where there are none."""
    return next((name for name in _PRECISIONS.values() if name in products), "none")

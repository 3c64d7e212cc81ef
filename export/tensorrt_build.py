"""One graph -> one TensorRT engine, with what was read back from it."""

import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from export.tensorrt_graph import adapt, describe
from ovml_deploy.errors import ExportError
from ovml_deploy.files import write_atomically
from ovml_deploy.runtime.backends.tensorrt_module import (
    Flavour,
    Layer,
    Messages,
    count_products,
    inspect,
    load,
    logger,
    read_layers,
)
from ovml_deploy.runtime.plans import Tensor
from ovml_deploy.user_folders import cache_file, go_on_without_cache

#: Smallest, best and greatest size of a free dimension.
Sizes = tuple[int, int, int]

_SHOWN_EVERY = 0.1  # seconds
_LINE = 78


@dataclass(frozen=True)
class Built:
    """An engine, serialised (a buffer of TensorRT's), and what is known of it."""

    plan: Any
    inputs: Mapping[str, Tensor]
    outputs: Mapping[str, Tensor]
    profile: Mapping[str, Sizes]
    products: Mapping[str, int]
    layers: Mapping[str, int]


class Builder:
    """Builds engines for some targets, such as "sm89", with one flavour of TensorRT."""

    def __init__(self, flavour: Flavour, targets: Sequence[str]) -> None:
        self.flavour = flavour
        self.targets = tuple(targets)
        self._trt = load(flavour)
        self.version = str(self._trt.__version__)

    def build(self, onnx_file: Path, sizes: Mapping[str, Sizes]) -> Built:
        """Build a graph for all targets in one engine. ``sizes``: by the name of the dimension.

        Raises ExportError that says for which target TensorRT refuses it.
        """
        model = onnx.load(onnx_file, load_external_data=False)
        inputs, outputs = describe([*model.graph.input]), describe([*model.graph.output])
        free = {dim for tensor in inputs.values() for dim in tensor.shape if isinstance(dim, str)}
        if free - sizes.keys():
            raise ExportError(f"No sizes are given of {', '.join(sorted(free - sizes.keys()))}.")
        profile = {name: sizes[name] for name in sizes if name in free}
        adapt(model)
        plan, layers = self._all_targets(model, onnx_file, inputs, profile)
        kinds = Counter(layer.kind for layer in layers)
        return Built(
            plan, inputs, outputs, profile, count_products(layers), dict(sorted(kinds.items()))
        )

    def _all_targets(
        self,
        model: onnx.ModelProto,
        onnx_file: Path,
        inputs: Mapping[str, Tensor],
        profile: Mapping[str, Sizes],
    ) -> tuple[Any, list[Layer]]:
        source = model.SerializeToString()

        def attempt(targets: Sequence[str]) -> tuple[Any, list[Layer]]:
            return self._once(source, onnx_file, inputs, profile, targets)

        try:
            return attempt(self.targets)
        except _RefusedError as error:
            alone = {self.targets[0]: str(error)}
            if len(self.targets) > 1:  # one of them is to blame, as a rule
                alone = dict(_refusals(attempt, self.targets))
            reasons = alone or {"these targets in one engine": str(error)}
            able = [target for target in self.targets if alone and target not in alone]
            raise ExportError(
                f"{self.flavour.title} {self.version} cannot build {onnx_file}. "
                + " ".join(f"For {target}: {reason}." for target, reason in reasons.items())
                + (f" It can be built with --target {','.join(able)}." if able else "")
            ) from error

    def _once(
        self,
        source: bytes,
        onnx_file: Path,
        inputs: Mapping[str, Tensor],
        profile: Mapping[str, Sizes],
        targets: Sequence[str],
    ) -> tuple[Any, list[Layer]]:
        trt, messages = self._trt, Messages()
        builder = trt.Builder(log := logger(trt, messages))
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, log)
        if not parser.parse(source, str(onnx_file)):
            raise _RefusedError(messages.summary())
        config = builder.create_builder_config()
        config.clear_flag(trt.BuilderFlag.TF32)  # float32 means float32
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        self._set_targets(config, targets)
        config.add_optimization_profile(_profile(builder, inputs, profile))
        monitor = _monitor(trt, onnx_file.stem)
        config.progress_monitor = monitor
        with self._timing_cache(config), _interruptible(monitor):
            plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise _RefusedError(messages.summary())
        return plan, self._read_back(messages, plan, onnx_file)

    def _set_targets(self, config: Any, targets: Sequence[str]) -> None:
        if self.flavour.any_target:
            config.num_compute_capabilities = len(targets)
            for index, target in enumerate(targets):
                config.set_compute_capability(
                    getattr(self._trt.ComputeCapability, target.upper()), index
                )

    def known_targets(self) -> list[str]:
        """Return the targets that can be named wherever the builder runs."""
        if not self.flavour.any_target:
            return []
        names = [name for name in dir(self._trt.ComputeCapability) if name.startswith("SM")]
        return [name.lower() for name in sorted(names, key=lambda name: int(name[2:]))]

    def _read_back(self, messages: Messages, plan: Any, onnx_file: Path) -> list[Layer]:
        """The layers of the engine, as the builder printed them: loading it would want the GPU."""
        layers = read_layers(messages.layers)
        if not layers:
            log = logger(self._trt, messages)
            engine = self._trt.Runtime(log).deserialize_cuda_engine(plan)
            layers = [] if engine is None else inspect(self._trt, engine)
        if not layers:
            raise ExportError(
                f"{self.flavour.title} {self.version} does not tell of the engine it built of {onnx_file}, "
                "so its precision cannot be checked. Install the version in constraints.txt."
            )
        return layers

    @contextmanager
    def _timing_cache(self, config: Any) -> Iterator[None]:
        """Let a build use the timings of earlier ones; TensorRT for RTX times nothing."""
        if self.flavour.any_target:
            yield
            return
        file = cache_file("tensorrt", f"{self.version}-{'-'.join(self.targets)}.timings")
        config.set_timing_cache(config.create_timing_cache(_read(file)), False)
        yield
        if file is None:
            return
        try:
            with write_atomically(file) as temporary:
                temporary.write_bytes(config.get_timing_cache().serialize())
        except OSError as error:
            go_on_without_cache(error, file)  # it only saves time


def _read(file: Path | None) -> bytes:
    """Return the timings of earlier builds; nothing where there are none."""
    try:
        return b"" if file is None else file.read_bytes()
    except OSError:
        return b""


class _RefusedError(Exception):
    """TensorRT's own reason."""


def _refusals(
    attempt: Callable[[Sequence[str]], Any], targets: Sequence[str]
) -> Iterator[tuple[str, str]]:
    for target in targets:
        try:
            attempt([target])
        except _RefusedError as error:
            yield target, str(error)


def _profile(builder: Any, inputs: Mapping[str, Tensor], sizes: Mapping[str, Sizes]) -> Any:
    profile = builder.create_optimization_profile()
    for name, tensor in inputs.items():
        profile.set_shape(
            name,
            *(
                tuple(sizes[dim][which] if isinstance(dim, str) else dim for dim in tensor.shape)
                for which in range(3)
            ),
        )
    return profile


def _monitor(trt: Any, what: str) -> Any:
    """A progress monitor that shows the step on a terminal, and can stop the build."""

    class Monitor(trt.IProgressMonitor):
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.stopped = False
            self._steps: dict[str, int] = {}
            self._next = 0.0

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            self._steps[phase] = steps
            self._show(phase, 0)

        def step_complete(self, phase: str, step: int) -> bool:
            self._show(phase, step + 1)
            return not self.stopped

        def phase_finish(self, phase: str) -> None:
            self._steps.pop(phase, None)  # the builder's threads may finish one at once
            if not self._steps:
                self._print("")

        def _show(self, phase: str, done: int) -> None:
            if time.monotonic() >= self._next:
                self._next = time.monotonic() + _SHOWN_EVERY
                self._print(f"{what}: {phase}, {done:,} of {self._steps.get(phase, done):,}")

        def _print(self, line: str) -> None:
            with suppress(OSError):  # of a terminal that is gone: it would end the process
                if sys.stderr.isatty():
                    print(f"{line[:_LINE]:{_LINE}}", end="\r", file=sys.stderr, flush=True)

    return Monitor()


@contextmanager
def _interruptible(monitor: Any) -> Iterator[None]:
    """Let Ctrl-C stop the builder at its next step: no exception can pass through it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> None:
        monitor.stopped = True

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if monitor.stopped:
        raise KeyboardInterrupt

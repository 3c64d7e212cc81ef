"""Looks at this machine, at what is installed, and at how a bundle runs on every device here."""

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ovml_deploy.errors import BundleError, OvmlError
from ovml_deploy.files import may_be_written
from ovml_deploy.runtime.backends import AUTO, DEVICES, PLAN, precisions_of, why_missing
from ovml_deploy.runtime.bundle import Bundle
from ovml_deploy.runtime.cpu import cpu_features, cpu_name
from ovml_deploy.runtime.engine import Engine
from ovml_deploy.runtime.gpus import Driver, find_driver, no_gpu
from ovml_deploy.runtime.plans import Plan, find_plans
from ovml_deploy.runtime.threads import allowed_cpus, available_cpus, cpu_quota
from ovml_deploy.user_folders import NoFolderError, cache_folder

NEEDED = ("numpy", "pillow", "tokenizers", "safetensors", "ftfy", "fire", "rich", "platformdirs")
ENGINES = (
    *("onnxruntime", "onnxruntime-gpu", "openvino"),
    *("tensorrt-rtx-cu13", "tensorrt-cu13", "cuda-bindings"),
)
PYTORCH = ("torch", "open_clip_torch", "onnx", "onnxscript", "transformers", "timm", "nncf")

_ON_GPU = ("cuda", "tensorrt")
_SLOW_TO_START = {"tensorrt": "it builds engines for minutes at its first start"}


@dataclass(frozen=True)
class Machine:
    """What this machine has, and how much of it this process may use.

    ``allowed``: CPUs of the affinity mask; ``quota``: of the cgroup, in CPUs; ``memory``: bytes;
    ``no_gpu``: why no GPU can be used; ``cache``: the cache folder, None without a home folder;
    ``ovml_device``: what the environment chooses.
    """

    cpu: str
    features: list[str]
    cpus: int
    allowed: int
    quota: float | None
    threads: int
    memory: int
    driver: Driver | None
    no_gpu: str | None
    cache: str | None
    cache_writable: bool
    ovml_device: str | None


@dataclass(frozen=True)
class Trial:
    """A bundle on one device (or plan) in one precision.

    ``errors``: relative to PyTorch, by output; ``placement``: nodes by what runs them, by graph;
    ``seconds``: to load it and run the golden inputs. ``refused``: why it does not run, then the
    rest is empty; ``broken``: whether files are to blame for that.
    """

    device: str
    precision: str
    description: str = ""
    seconds: float = 0.0
    errors: Mapping[str, float] | None = None
    placement: Mapping[str, Mapping[str, int]] | None = None
    refused: str | None = None
    broken: bool = False


@dataclass(frozen=True)
class Choice:
    """What runs where no device is named. ``fault``: why nothing does."""

    description: str = ""
    passed_over: tuple[str, ...] = ()
    fault: str | None = None


@dataclass(frozen=True)
class Report:
    """All that was found.

    ``versions``: None for a package that is not installed; ``precision``: of the bundle;
    ``untried``: why devices were not tried; ``plans``: what is in each plan beside the bundle.
    """

    versions: Mapping[str, str | None]
    machine: Machine
    bundle: str
    precision: str | None
    untried: Mapping[str, str]
    trials: tuple[Trial, ...]
    plans: Mapping[str, str]
    auto: Choice


def examine(engine: str | Path) -> Report:
    """Return what is installed and how a bundle runs on each device of this machine."""
    machine = _machine()
    untried = {device: _why_untried(device, machine.no_gpu) for device in DEVICES}
    trials: list[Trial] = []
    plans: dict[str, str] = {}
    precision = None
    try:
        bundle = Bundle.open(engine)
        precision = bundle.precision
        for device in [device for device in DEVICES if untried[device] is None]:
            trials += [_try(bundle, device, some) for some in precisions_of(device, precision)]
        found, unreadable = find_plans(bundle.path)
        trials += [_try_plan(bundle, plan) for plan in found]
        trials += [Trial(str(p), "", refused=why, broken=True) for p, why in unreadable.items()]
        plans = {str(plan.path): plan.summary() for plan in found}
        plans |= {str(path): "cannot be read" for path in unreadable}
        auto = _choose(engine)
    except OvmlError as error:
        auto = Choice(fault=str(error))
    return Report(
        versions={name: _version(name) for name in (*NEEDED, *ENGINES, *PYTORCH)},
        machine=machine,
        bundle=str(engine),
        precision=precision,
        untried={device: why for device, why in untried.items() if why is not None},
        trials=tuple(trials),
        plans=plans,
        auto=auto,
    )


def _why_untried(device: str, no_gpu: str | None) -> str | None:
    reason = why_missing(device)
    if reason is None:
        return _SLOW_TO_START.get(device)
    if device in _ON_GPU and no_gpu is not None and no_gpu not in reason:
        return f"{no_gpu}, and {reason}"  # so that nobody installs it for nothing
    return reason


def _machine() -> Machine:
    try:
        cache: Path | None = cache_folder()
    except NoFolderError:
        cache = None
    return Machine(
        cpu=cpu_name(),
        features=cpu_features(),
        cpus=os.cpu_count() or 1,
        allowed=allowed_cpus(),
        quota=cpu_quota(),
        threads=available_cpus(),
        memory=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        driver=find_driver(),
        no_gpu=no_gpu(),
        cache=None if cache is None else str(cache),
        cache_writable=cache is not None and may_be_written(cache / "a file"),
        ovml_device=os.environ.get("OVML_DEVICE") or None,
    )


def _try_plan(bundle: Bundle, plan: Plan) -> Trial:
    try:
        plan.check_bundle(bundle)  # which needs no GPU
    except BundleError as error:
        return Trial(str(plan.path), plan.precision, refused=str(error), broken=True)
    return _try(bundle, str(plan.path), plan.precision)


def _try(bundle: Bundle, device: str, precision: str) -> Trial:
    start = time.perf_counter()
    try:
        engine = Engine.open(bundle.path, device, AUTO if device.endswith(PLAN) else precision)
        errors = {found.output: found.relative_error for found in engine.check()}
        seconds = time.perf_counter() - start
        placement = engine.placement()
    except OvmlError as error:
        broken = isinstance(error, BundleError)
        return Trial(device, precision, refused=str(error), broken=broken)
    except Exception as error:  # whatever a broken installation raises is what we are here to tell
        return Trial(device, precision, refused=f"{type(error).__name__}: {error}")
    return Trial(device, precision, engine.backend.description, seconds, errors, placement)


def _choose(engine: str | Path) -> Choice:
    chosen = Engine.open(engine)
    return Choice(chosen.backend.description, tuple(chosen.refused))


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None

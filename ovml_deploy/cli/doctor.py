"""``ovml-deploy doctor``."""

import json as json_format
import platform
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from ovml_deploy import __version__, assets, output
from ovml_deploy.commandline import command, flag

if TYPE_CHECKING:
    from ovml_deploy.runtime.doctor import Machine, Report, Trial

_Row = tuple[str, str, str]
_COLUMNS = ("", "", "")


@command(json=flag)
def doctor_command(engine: str = str(assets.MINI), json: bool = False) -> int:
    """Show what is installed, which devices there are, what runs on them, and what is wrong.

    Args:
        engine: the bundle that is tried on every device; default: the embedded model
        json: print JSON instead of tables
    """
    from ovml_deploy.runtime.doctor import examine
    from ovml_deploy.runtime.verdict import judge

    report = examine(engine)
    verdict = judge(report)
    if json:
        about = {"ovml-deploy": __version__, "python": platform.python_version()}
        whole = {**about, **asdict(report), "verdict": [asdict(advice) for advice in verdict]}
        print(json_format.dumps(whole, indent=1))
    else:
        output.print_rows("versions", _COLUMNS, _versions(report.versions))
        output.print_rows("\nmachine", _COLUMNS, _machine(report.machine))
        output.print_rows(f"\n{report.bundle} on every device", _COLUMNS, _devices(report))
        rows = [("WRONG" if advice.wrong else "", advice.text) for advice in verdict]
        output.print_rows("\nverdict", ("", ""), rows)
    return 1 if any(advice.wrong for advice in verdict) else 0


def _versions(versions: Mapping[str, str | None]) -> Iterator[_Row]:
    from ovml_deploy.runtime.doctor import ENGINES, NEEDED, PYTORCH

    yield "ovml-deploy", f"{__version__} on Python {platform.python_version()}", ""
    for title, names in (
        ("needed", NEEDED),
        ("engines", ENGINES),
        ("to train and export", PYTORCH),
    ):
        yield title, ", ".join(f"{name} {versions[name]}" for name in names if versions[name]), ""
        if missing := [name for name in names if versions[name] is None]:
            yield "", f"not installed: {', '.join(missing)}", "WRONG" if names is NEEDED else ""


def _machine(machine: "Machine") -> Iterator[_Row]:
    yield "CPU", machine.cpu, ""
    yield "features", ", ".join(machine.features) or "none that matters here", ""
    quota = "no cgroup quota" if machine.quota is None else f"cgroup quota {machine.quota:g}"
    cpus = f"{machine.cpus}, {machine.allowed} allowed by affinity, {quota}"
    yield "CPUs", f"{cpus}: {machine.threads} threads", ""
    yield "memory", f"{machine.memory / 2**30:.1f} GiB", ""
    driver = machine.driver
    if driver is not None:
        yield "NVIDIA driver", f"CUDA up to {_dotted(driver.cuda)}", "WRONG" * driver.failed
    for gpu in driver.gpus if driver else ():
        capability = f"compute capability {_dotted(gpu.compute_capability)}"
        yield "GPU", f"{gpu.name}, {capability}, {gpu.memory / 2**30:.1f} GiB", ""
    if machine.no_gpu is not None:
        yield "GPU", f"none: {machine.no_gpu}", ""
    unwritable = "" if machine.cache_writable or machine.cache is None else " (not writable)"
    state = "" if machine.cache_writable else "WRONG"
    yield "cache", f"{machine.cache or 'none'}{unwritable}", state
    if machine.ovml_device is not None:
        yield "OVML_DEVICE", machine.ovml_device, ""


def _devices(report: "Report") -> Iterator[_Row]:
    for device, reason in report.untried.items():
        yield device, f"not tried: {reason}", ""
    for trial in report.trials:
        yield from _trial(report, trial)
    choice = report.auto
    yield "auto", choice.description or str(choice.fault), "WRONG" if choice.fault else ""
    shown = {t.refused: f"{t.device} {t.precision}, as told above" for t in report.trials}
    for reason in choice.passed_over:
        yield "  passed over", shown.get(reason, reason), ""


def _trial(report: "Report", trial: "Trial") -> Iterator[_Row]:
    from ovml_deploy.runtime.verdict import is_broken

    plan = report.plans.get(trial.device)
    name = trial.device if plan is None else Path(trial.device).name
    title = f"{name} {trial.precision}"
    if plan is not None:
        yield title, plan, ""
        title = ""
    if trial.refused is not None:
        yield title, f"refused: {trial.refused}", "WRONG" if is_broken(report, trial) else ""
        return
    errors = ", ".join(f"{name} {error:.1e}" for name, error in (trial.errors or {}).items())
    yield title, trial.description, "ok"
    yield "  against PyTorch", f"relative error of {errors}; loaded in {trial.seconds:.1f} s", ""
    placed = (f"{graph}: {_counts(nodes)}" for graph, nodes in (trial.placement or {}).items())
    yield "  nodes", "; ".join(placed).replace("_", " "), ""


def _counts(nodes: Mapping[str, int]) -> str:
    ordered = sorted(nodes.items(), key=lambda item: -item[1])
    return ", ".join(f"{count} {where}" for where, count in ordered)


def _dotted(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))

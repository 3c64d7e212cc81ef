"""What a person should know or do after ``doctor`` has looked."""

from collections.abc import Iterator
from dataclasses import dataclass

from ovml_deploy.runtime.backends import DEVICES
from ovml_deploy.runtime.doctor import NEEDED, Report, Trial
from ovml_deploy.runtime.precision import why_not_on_cpu

_PACKAGES = {"cpu": ("onnxruntime", "onnxruntime-gpu"), "openvino": ("openvino",)}
_BF16 = ("AMX-BF16", "AVX512-BF16", "BF16")


@dataclass(frozen=True)
class Advice:
    """A sentence; ``wrong``: whether something does not work as it should."""

    text: str
    wrong: bool = False


def judge(report: Report) -> list[Advice]:
    """Return what to know or do, what is wrong first; what runs is last."""
    found = [*_about_packages(report), *_about_devices(report), *_about_gpus(report)]
    found += [*_about_plans(report), *_about_cpus(report)]
    wrong = [advice for advice in found if advice.wrong]
    found = [*wrong, *(advice for advice in found if not advice.wrong)]
    if report.auto.fault is None:
        runs = f"{report.bundle} runs on {report.auto.description}."
        found.append(Advice(runs if wrong else f"All is well: {runs}"))
    return found


def is_broken(report: Report, trial: Trial) -> bool:
    """Return whether a refusal is a fault: a device runs in none of its precisions.

    A CPU may refuse one of them, and a plan may be for another machine.
    """
    if trial.refused is None or trial.device in report.plans:
        return False
    if trial.device == "cpu" and why_not_on_cpu(trial.precision) is not None:
        return False
    others = [some for some in report.trials if some.device == trial.device]
    return all(some.refused is not None for some in others)


def _about_packages(report: Report) -> Iterator[Advice]:
    for name in NEEDED:
        if report.versions[name] is None:
            yield Advice(f"{name} is not installed: pip install ovml-deploy", wrong=True)
    if report.versions["onnxruntime"] and report.versions["onnxruntime-gpu"]:
        yield Advice(
            "onnxruntime and onnxruntime-gpu are both installed, and overwrite each other's files: pip "
            "uninstall onnxruntime onnxruntime-gpu, then pip install 'ovml-deploy[cpu]' or "
            "'ovml-deploy[cuda]'.",
            wrong=True,
        )
    if not report.machine.cache_writable:
        cause = f"{report.machine.cache} cannot be written"
        if report.machine.cache is None:
            cause = "The user has no home folder, and so no cache folder"
        yield Advice(
            f"{cause}. Labels are encoded again at "
            "every start, and what 'verify' finds is not stored. Set OVML_CACHE to a folder that can "
            "be written.",
            wrong=True,
        )


def _about_devices(report: Report) -> Iterator[Advice]:
    if report.auto.fault is not None:
        yield Advice(report.auto.fault, wrong=True)
    for device, packages in _PACKAGES.items():  # they need no GPU, so they should work if installed
        if device in report.untried and any(report.versions[name] for name in packages):
            yield Advice(f"Device {device} does not work: {report.untried[device]}", wrong=True)
    for device in DEVICES:
        faults = [t for t in report.trials if t.device == device and is_broken(report, t)]
        if faults and faults[-1].refused != report.auto.fault:
            yield Advice(f"Device {device} does not work: {faults[-1].refused}", wrong=True)


def _about_gpus(report: Report) -> Iterator[Advice]:
    driver = report.machine.driver
    if driver is None:
        return
    if driver.failed:
        yield Advice(f"{report.machine.no_gpu}: install the driver again, or restart.", wrong=True)
    runs = {trial.device for trial in report.trials if trial.refused is None}
    if driver.gpus and "cuda" in report.untried and not runs & {"cuda", *report.plans}:
        name, why = driver.gpus[0].name, report.untried["cuda"]
        yield Advice(f"An NVIDIA GPU ({name}) is here, and nothing uses it: {why}.")


def _about_plans(report: Report) -> Iterator[Advice]:
    """Plans for other machines are as they should be."""
    refused = [trial for trial in report.trials if trial.device in report.plans and trial.refused]
    for trial in refused:
        if trial.broken:
            yield Advice(str(trial.refused))
    if report.machine.no_gpu is None and refused and len(refused) == len(report.plans):
        yield Advice(f"No plan beside the bundle runs here: {refused[0].refused}")


def _about_cpus(report: Report) -> Iterator[Advice]:
    machine = report.machine
    if machine.threads < machine.cpus:
        by_quota = machine.quota is not None and machine.threads < machine.allowed
        cause = f"cgroup quota {machine.quota:g}" if by_quota else "affinity mask"
        yield Advice(
            f"Only {machine.threads} of {machine.cpus} CPUs may be used ({cause}), so engines run "
            f"{machine.threads} threads."
        )
    fast = [name for name in machine.features if name in _BF16]
    if fast and report.precision == "fp32" and report.versions["openvino"] is None:
        yield Advice(
            f"This CPU multiplies bfloat16 natively ({fast[0]}), and OpenVINO, which uses that, is not "
            "installed: pip install 'ovml-deploy[openvino]'. It is usually faster: compare them with "
            "'ovml-deploy verify --speed'."
        )

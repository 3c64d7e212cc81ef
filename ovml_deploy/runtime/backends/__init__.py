"""Backends: what runs a bundle's graphs on a device.

To add one, write a module with a class that fulfils :class:`Backend` and a function that says why
it is missing, and enter both in ``_MISSING`` and ``create_backend``.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ovml_deploy.errors import DeviceError, UsageError
from ovml_deploy.runtime.backends import openvino, ort
from ovml_deploy.runtime.backends.base import Array, Backend, Graph
from ovml_deploy.runtime.plans import SUFFIX as PLAN
from ovml_deploy.runtime.precision import why_not_on_cpu

__all__ = [
    "AUTO",
    "DEVICES",
    "PLAN",
    "Array",
    "Backend",
    "Graph",
    "available_devices",
    "candidates",
    "create_backend",
    "precisions_of",
    "why_missing",
]

AUTO = "auto"

_MISSING: dict[str, Callable[[], str | None]] = {
    "cuda": lambda: ort.missing("cuda"),
    "tensorrt": lambda: ort.missing("tensorrt"),
    "openvino": openvino.missing,
    "cpu": lambda: ort.missing("cpu"),
}
DEVICES = tuple(_MISSING)


def why_missing(device: str) -> str | None:
    """Return why a device of ``DEVICES`` cannot be used and what to do, None where it can."""
    return _MISSING[device]()


def available_devices() -> list[str]:
    """Return the names of the devices this installation can use on this machine."""
    return [device for device in DEVICES if why_missing(device) is None]


def precisions_of(device: str, graph: str = "fp32") -> list[str]:
    """Return the precisions a device can run an encoder of precision ``graph`` in, best first.

    OpenVINO may lower it by itself; ONNX Runtime computes as the graph says, if it can.
    """
    if device == "openvino" and graph == "fp32":
        return [*openvino.native_precisions(), "fp32"]
    return [] if device == "cpu" and why_not_on_cpu(graph) else [graph]


def create_backend(
    device: str, precision: str = AUTO, graph: str = "fp32", cuda_graphs: Sequence[int] = ()
) -> Backend:
    """Return the backend of a device or ``.plan`` file; it never falls back to another.

    ``precision``: of the encoder, whose graph is in precision ``graph``; "auto" is the device's
    fastest. ``cuda_graphs``: batch sizes to record for the device "cuda". Raises DeviceError for a
    device or precision that is unknown or absent, UsageError for CUDA graphs elsewhere.
    """
    if cuda_graphs and (device != "cuda" or min(cuda_graphs) < 1):
        raise UsageError(
            f"CUDA graphs for batches of {list(cuda_graphs)} on device {device!r}: they need "
            "device 'cuda', and sizes of at least 1."
        )
    if device.endswith(PLAN):
        from ovml_deploy.runtime.backends.tensorrt_plan import TensorRTPlan

        plan = TensorRTPlan(Path(device))
        if precision not in (AUTO, plan.precision):
            raise DeviceError(
                f"The plan {device!r} computes in {plan.precision}, not in {precision!r}. Build one from a "
                f"bundle that was exported with --precision {precision}."
            )
        return plan
    if device not in DEVICES:
        raise DeviceError(
            f"Unknown device {device!r}. There are: {', '.join((AUTO, *DEVICES))}, and .plan files."
        )
    if (reason := why_missing(device)) is not None:
        raise DeviceError(f"The device {device!r} cannot be used: {reason}.")
    able = precisions_of(device, graph)
    if not able:
        raise DeviceError(f"This bundle is in {graph}: {why_not_on_cpu(graph)}.")
    if precision not in (AUTO, *able):
        raise DeviceError(
            f"The device {device!r} does not run this bundle ({graph}) in {precision!r} here, only in "
            f"{' or '.join(able)}. Export the bundle with --precision, or choose another --device."
        )
    chosen = able[0] if precision == AUTO else precision
    if device == "openvino":
        return openvino.OpenVINO(chosen, graph)
    return ort.OnnxRuntime(device, chosen, cuda_graphs)


def candidates(precision: str = AUTO, graph: str = "fp32") -> Iterator[tuple[str, str]]:
    """Yield (device, precision) in the order in which ``auto`` tries them, unless they were timed.

    A GPU first, then OpenVINO, then the plain CPU: as a rule the fastest first.
    TensorRT builds for minutes at its first start, so it is only used when named.
    """
    for device in ("cuda", "openvino", "cpu"):
        if why_missing(device) is None:
            for some in precisions_of(device, graph):
                if precision in (AUTO, some):
                    yield device, some

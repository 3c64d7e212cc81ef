"""Backends: what runs a bundle's graphs on a device.

To add one, write a module with a class that fulfils :class:`Backend` and enter it in
``_BACKENDS``. ``auto`` takes the first that is available, in that order.
"""

from collections.abc import Callable

from ovml_deploy.errors import DeviceError
from ovml_deploy.runtime.backends.base import Backend, Graph
from ovml_deploy.runtime.backends.onnxruntime_cpu import OnnxRuntimeCPU

__all__ = ["AUTO", "Backend", "Graph", "available_devices", "create_backend"]

AUTO = "auto"

_BACKENDS: dict[str, Callable[[], Backend]] = {"cpu": OnnxRuntimeCPU}


def available_devices() -> list[str]:
    """Return the names of the devices this installation can use, best first."""
    return list(_BACKENDS)


def create_backend(device: str = AUTO) -> Backend:
    """Return the backend of a device; "auto" chooses, a named one never falls back.

    Raises DeviceError for an unknown device.
    """
    devices = available_devices()
    if device == AUTO:
        device = devices[0]
    if device not in devices:
        raise DeviceError(
            f"Unknown device {device!r}. This installation has: {', '.join([AUTO, *devices])}."
        )
    return _BACKENDS[device]()

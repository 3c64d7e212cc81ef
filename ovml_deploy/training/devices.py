"""Where training runs."""

from contextlib import AbstractContextManager

import torch
from torch import nn

from ovml_deploy.errors import DeviceError


def choose_device(name: str) -> torch.device:
    """Return the device called ``name``; "auto" is CUDA where there is one, or else the CPU.

    Raises DeviceError for an unknown or absent device: a named one is never replaced.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise DeviceError(
            f"The device {name!r} cannot be used: {reason}. Use --device auto or --device cpu."
        ) from error
    return device


def device_of(module: nn.Module) -> torch.device:
    """Return the device of a module's parameters."""
    return next(module.parameters()).device


def fork_random(device: torch.device) -> AbstractContextManager[None]:
    """Keep what happens inside from the random state of the caller, on the CPU and ``device``."""
    return torch.random.fork_rng([device] if device.type == "cuda" else [])

"""The NVIDIA GPUs of this machine, asked of the driver itself, so that no package is needed."""

import ctypes
from dataclasses import dataclass

_COMPUTE_CAPABILITY = (75, 76)  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR
_NAME_LENGTH = 128
_NO_DEVICE = 100  # CUDA_ERROR_NO_DEVICE


@dataclass(frozen=True)
class Gpu:
    """One GPU; ``compute_capability`` is like (8, 9)."""

    name: str
    compute_capability: tuple[int, int]
    memory: int  #: bytes


@dataclass(frozen=True)
class Driver:
    """The driver's newest CUDA version, such as (13, 0), and its GPUs.

    ``error``: CUDA's number of what kept the driver from starting, 0 where it started.
    """

    cuda: tuple[int, int]
    gpus: tuple[Gpu, ...]
    error: int = 0

    @property
    def failed(self) -> bool:
        """Whether it does not start; to find no GPU is no failure."""
        return self.error not in (0, _NO_DEVICE)


def find_driver() -> Driver | None:
    """Return the NVIDIA driver and its GPUs; None where there is no driver."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    version, count = ctypes.c_int(), ctypes.c_int()
    cuda.cuDriverGetVersion(ctypes.byref(version))
    error = cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(count))
    gpus = tuple(_describe(cuda, index) for index in range(count.value))
    return Driver((version.value // 1000, version.value % 1000 // 10), gpus, error)


def no_gpu() -> str | None:
    """Return why no GPU can be used, None where one can."""
    driver = find_driver()
    if driver is None:
        return "no NVIDIA driver answers on this machine"
    if driver.failed:
        return f"the NVIDIA driver does not start (CUDA error {driver.error})"
    return None if driver.gpus else "the NVIDIA driver finds no GPU"


def _describe(cuda: ctypes.CDLL, index: int) -> Gpu:
    device, memory = ctypes.c_int(), ctypes.c_size_t()
    name = ctypes.create_string_buffer(_NAME_LENGTH)
    cuda.cuDeviceGet(ctypes.byref(device), index)
    cuda.cuDeviceGetName(name, _NAME_LENGTH, device)
    cuda.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
    capability = [ctypes.c_int(), ctypes.c_int()]
    for value, attribute in zip(capability, _COMPUTE_CAPABILITY, strict=True):
        cuda.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
    return Gpu(name.value.decode(), (capability[0].value, capability[1].value), memory.value)

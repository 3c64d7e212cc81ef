"""What is asked of NVIDIA's driver. Without a GPU, a small library answers in the driver's stead."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ovml_deploy.runtime.gpus import find_driver

ROOT = Path(__file__).resolve().parents[2]

DRIVER = r"""
#include <stdio.h>
#include <stddef.h>
int cuInit(unsigned flags) { return INIT; }
int cuDriverGetVersion(int *version) { *version = 12040; return 0; }
int cuDeviceGetCount(int *count) { *count = COUNT; return 0; }
int cuDeviceGet(int *device, int index) { *device = 100 + index; return 0; }
int cuDeviceGetName(char *name, int length, int device) {
    snprintf(name, length, "NVIDIA Card %d", device);
    return 0;
}
int cuDeviceTotalMem_v2(size_t *bytes, int device) { *bytes = 24ull << 30; return 0; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    *value = attribute == 75 ? 8 : attribute == 76 ? 9 : -1;
    return 0;
}
"""
ASK = """
import json
from dataclasses import asdict
from ovml_deploy.runtime.gpus import find_driver, no_gpu
driver = find_driver()
print(json.dumps([driver and asdict(driver), no_gpu()]))
"""


@pytest.fixture
def ask(tmp_path: Path):
    """A function that asks a driver with so many GPUs, and a result of its start."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler to make a driver with")

    def ask(count: int, init: int = 0) -> list:
        source = tmp_path / "driver.c"
        source.write_text(DRIVER)
        target = tmp_path / "libcuda.so.1"
        given = [f"-DCOUNT={count}", f"-DINIT={init}"]
        subprocess.run([compiler, "-shared", "-fPIC", *given, source, "-o", target], check=True)
        env = {**os.environ, "LD_LIBRARY_PATH": str(tmp_path)}
        done = subprocess.run([sys.executable, "-c", ASK], cwd=ROOT, env=env, capture_output=True)
        return json.loads(done.stdout)

    return ask


def test_gpus_are_described(ask) -> None:
    driver, reason = ask(2)
    assert driver["cuda"] == [12, 4]
    assert driver["gpus"] == [
        {"name": f"NVIDIA Card {device}", "compute_capability": [8, 9], "memory": 24 * 2**30}
        for device in (100, 101)
    ]
    assert reason is None


@pytest.mark.parametrize(
    ("init", "reason"),
    [
        (100, "the NVIDIA driver finds no GPU"),
        (803, "the NVIDIA driver does not start (CUDA error 803)"),
    ],
)
def test_a_driver_without_gpus(ask, init: int, reason: str) -> None:
    driver, told = ask(0, init)
    assert (driver["gpus"], driver["error"], told) == ([], init, reason)


def test_this_machines_own_driver() -> None:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        pytest.skip("there is no nvidia-smi to compare with")
    done = subprocess.run(
        [tool, "--query-gpu=name", "--format=csv,noheader"], capture_output=True, text=True
    )
    driver = find_driver()
    assert driver is not None
    assert [gpu.name for gpu in driver.gpus] == done.stdout.splitlines()

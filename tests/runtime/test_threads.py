import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ovml_deploy import assets
from ovml_deploy.runtime.threads import available_cpus, cpu_quota

ROOT = Path(__file__).resolve().parents[2]
ONE_CPU = min(os.sched_getaffinity(0))


def available(root: Path, files: dict[str, str], membership: str = "0::/\n") -> int:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (root / "membership").write_text(membership)
    return available_cpus(root, root / "membership")


@pytest.fixture(autouse=True)
def eight_cpus(monkeypatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 8),
        ({"cpu.max": "max 100000\n"}, 8),
        ({"cpu.max": "200000 100000\n"}, 2),
        ({"cpu.max": "150000 100000\n"}, 2),
        ({"cpu.max": "5000 100000\n"}, 1),
        ({"cpu.max": "3200000 100000\n"}, 8),
        ({"cpu.max": "100000 0\n"}, 8),
        ({"cpu.max": "nonsense"}, 8),
        ({"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 8),
        ({"cpu/cpu.cfs_quota_us": "300000\n"}, 8),
    ],
)
def test_quotas(tmp_path: Path, files: dict[str, str], expected: int) -> None:
    assert available(tmp_path, files) == expected


@pytest.mark.parametrize(
    ("outer", "inner", "expected"),
    [("max 100000", "300000 100000", 3), ("200000 100000", "300000 100000", 2)],
)
def test_the_narrowest_group_on_the_way_counts(tmp_path, outer: str, inner: str, expected) -> None:
    """As for a systemd service with CPUQuota=, whose own group is not the root."""
    files = {"system.slice/cpu.max": outer, "system.slice/tagger.service/cpu.max": inner}
    membership = "0::/system.slice/tagger.service\n"
    assert available(tmp_path, files, membership) == expected


def test_a_group_of_version_1_is_no_path_of_version_2(tmp_path: Path) -> None:
    files = {"docker/cpu.max": "100000 100000"}
    assert available(tmp_path, files, "4:cpu,cpuacct:/docker\n") == 8


def test_no_cgroup_at_all(tmp_path: Path) -> None:
    assert available_cpus(tmp_path / "absent", tmp_path / "absent") == 8


def test_a_system_without_affinity(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 5)
    assert available(tmp_path, {}) == 5


def test_a_limited_group_of_version_1_counts(tmp_path: Path) -> None:
    files = {
        "cpu/cpu.cfs_quota_us": "-1\n",
        "cpu/cpu.cfs_period_us": "100000\n",
        "cpu/jobs/cpu.cfs_quota_us": "250000\n",
        "cpu/jobs/cpu.cfs_period_us": "100000\n",
    }
    assert available(tmp_path, files, "4:cpu,cpuacct:/jobs\n3:cpuset:/\n\n") == 3
    assert cpu_quota(tmp_path, tmp_path / "membership") == 2.5
    assert cpu_quota(tmp_path / "absent", tmp_path / "absent") is None


REPORT = """
import json, sys
from pathlib import Path
import numpy as np
from ovml_deploy.runtime.backends import create_backend
from ovml_deploy.runtime.bundle import ENCODER, Bundle
from ovml_deploy.runtime.threads import available_cpus

bundle = Bundle.open(sys.argv[1])
pixels = np.zeros((8, *bundle.preprocessing.size, 3), dtype=np.uint8)
tasks = Path("/proc/self/task")

def run(device):
    backend = create_backend(device, "fp32")
    before = len([*tasks.iterdir()])
    encoder = backend.load(bundle, ENCODER)
    encoder({"pixels": pixels})
    return backend.description, encoder, len([*tasks.iterdir()]) - before

cpu, session, started = run("cpu")
openvino, compiled, _ = run("openvino")
print(json.dumps({
    "available": available_cpus(),
    "cpu": cpu,
    "cpu started": started,
    "cpu takes": session._session.get_session_options().intra_op_num_threads,
    "openvino": openvino,
    "openvino takes": compiled._compiled.get_property("INFERENCE_NUM_THREADS"),
}))
"""


def run_limited(first: str) -> None:
    """Load both engines in a process that ``first`` limits to one CPU, and see them take one."""
    command = ["sh", "-c", f'{first} && exec "$@"', "sh", sys.executable, "-c", REPORT]
    done = subprocess.run([*command, assets.MINI], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert "CPU, 1 thread," in found.pop("cpu")
    assert "CPU, 1 thread," in found.pop("openvino")
    assert found == {"available": 1, "cpu started": 0, "cpu takes": 1, "openvino takes": 1}


needs_more = pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="there is only one CPU")


@needs_more
def test_engines_follow_the_affinity() -> None:
    if shutil.which("taskset") is None:
        pytest.skip("there is no taskset")
    run_limited(f"taskset -cp {ONE_CPU} $$ >/dev/null")


@pytest.fixture(params=["v2", "v1"])
def one_cpu_group(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A real cgroup with a quota of one CPU, where this machine lets us make one."""
    version = request.param
    root = Path("/sys/fs/cgroup") / ("" if version == "v2" else "cpu")
    name = {"v2": "cpu.max", "v1": "cpu.cfs_quota_us"}[version]
    group = root / f"ovml-test-{os.getpid()}"
    if not (root / "cgroup.procs").exists():
        pytest.skip(f"{root} is no cgroup {version}")
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no cgroup {version} can be made here: {error}")
    try:
        if not (group / name).exists():
            pytest.skip(f"a new cgroup {version} has no {name} here")
        (group / name).write_text("100000")
        yield group
    finally:
        group.rmdir()


@needs_more
def test_engines_follow_a_real_quota(one_cpu_group: Path) -> None:
    run_limited(f"echo $$ > {one_cpu_group}/cgroup.procs")

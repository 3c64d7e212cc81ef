import os
from pathlib import Path

import pytest

from ovml_deploy.runtime.threads import available_cpus


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

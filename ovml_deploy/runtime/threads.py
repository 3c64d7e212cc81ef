"""How many threads this process may really use."""

import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

_CGROUP = Path("/sys/fs/cgroup")
_MEMBERSHIP = Path("/proc/self/cgroup")


def available_cpus(cgroup: Path = _CGROUP, membership: Path = _MEMBERSHIP) -> int:
    """Return the CPUs of the affinity mask, cut to the cgroup's quota, at least 1."""
    cpus = allowed_cpus()
    quota = cpu_quota(cgroup, membership) or cpus
    return max(1, min(cpus, math.ceil(quota)))


def allowed_cpus() -> int:
    """Return how many CPUs the affinity mask allows: all, on systems that have none."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_quota(cgroup: Path = _CGROUP, membership: Path = _MEMBERSHIP) -> float | None:
    """Return the CPU time that the cgroup (v2 or v1) allows, in CPUs; None where it sets no limit."""
    quotas = (_quota(group) for group in _groups(cgroup, membership))
    return min((quota for quota in quotas if quota), default=None)


def _groups(cgroup: Path, membership: Path) -> Iterator[Path]:
    """The root, which in a container is its own group, then each group down to ours."""
    yield cgroup
    yield cgroup / "cpu"  # where version 1 has it
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        controllers, _, path = line.partition(":")[2].partition(":")
        if controllers and "cpu" not in controllers.split(","):
            continue
        group = cgroup / "cpu" if controllers else cgroup
        for part in PurePosixPath(path).parts[1:]:
            group = group / part
            yield group


def _quota(group: Path) -> float | None:
    try:
        limit, period = (group / "cpu.max").read_text().split()
        return None if limit == "max" else int(limit) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        pass
    try:
        limit_us = int((group / "cpu.cfs_quota_us").read_text())
        period_us = int((group / "cpu.cfs_period_us").read_text())
        return limit_us / period_us if limit_us > 0 and period_us > 0 else None
    except (OSError, ValueError):
        return None


def threads(count: int) -> str:
    """Return a number of threads in words."""
    return f"{count} thread{'s' * (count != 1)}"

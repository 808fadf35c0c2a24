"""How many threads to use: what the affinity mask and the cgroup quota allow."""

from __future__ import annotations

import os

from tinybert_rt.errors import InvalidArgumentError

MAX_THREADS = 256


def available_cpus() -> int:
    """CPUs that this process may use: its affinity mask and its cgroup's quota, at least 1."""
    try:
        cpus = len(os.sched_getaffinity(0))
    except (AttributeError, OSError):
        cpus = os.cpu_count() or 1
    quota = _cgroup_quota()
    return max(1, min(cpus, quota)) if quota is not None else max(1, cpus)


def _cgroup_quota() -> int | None:
    """The CPUs of the cgroup's quota rounded up, or None where there is none."""
    try:
        with open("/sys/fs/cgroup/cpu.max", encoding="ascii") as file:
            limit, period = file.read().split()[:2]
    except (OSError, ValueError):
        try:
            with open("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", encoding="ascii") as file:
                limit = file.read().strip()
            with open("/sys/fs/cgroup/cpu/cpu.cfs_period_us", encoding="ascii") as file:
                period = file.read().strip()
        except OSError:
            return None
    try:
        if limit == "max" or int(limit) <= 0 or int(period) <= 0:
            return None
        return -(-int(limit) // int(period))
    except ValueError:
        return None


def check_threads(threads: int | None) -> int:
    """The number of workers: `threads`, or what `available_cpus` says. Raises InvalidArgumentError."""
    if threads is None:
        return min(available_cpus(), MAX_THREADS)
    if isinstance(threads, bool) or not isinstance(threads, int):
        raise InvalidArgumentError(f"threads must be an integer or None, not {type(threads).__name__}")
    if not 1 <= threads <= MAX_THREADS:
        raise InvalidArgumentError(f"threads must be between 1 and {MAX_THREADS}, not {threads}")
    return threads

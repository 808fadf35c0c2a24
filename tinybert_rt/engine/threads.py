"""Worker threads: how many to use, and Python threads that each sit inside one native call."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

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


class WorkerThreads:
    """`count` daemon threads beside the calling one; `run(job)` calls job(0) here and job(1)…job(count) in them, together."""

    def __init__(self, count: int) -> None:
        self._job: Callable[[int], object] | None = None
        self._start = [threading.Semaphore(0) for _ in range(count)]
        self._lock = threading.Lock()
        self._running = 0
        self._finished = threading.Event()
        for index in range(count):
            threading.Thread(target=self._work, args=(index,), name=f"tinybert_rt-{index + 1}", daemon=True).start()

    def run(self, job: Callable[[int], object]) -> None:
        """Call job(worker) once for every worker; returns when all have. One caller at a time.

        An interrupt from the keyboard is raised when all workers have returned: they use the caller's memory.
        """
        self._job = job
        self._running = len(self._start)
        self._finished.clear()
        for start in self._start:
            start.release()
        interrupt: KeyboardInterrupt | None = None
        try:
            job(0)
        except KeyboardInterrupt as error:
            interrupt = error
        while not self._finished.is_set():
            try:
                self._finished.wait()
            except KeyboardInterrupt as error:
                interrupt = error
        self._job = None
        if interrupt is not None:
            raise interrupt

    def close(self) -> None:
        """End the threads."""
        self._job = None
        for start in self._start:
            start.release()

    def _work(self, index: int) -> None:
        while True:
            self._start[index].acquire()
            job = self._job
            if job is None:
                return
            try:
                job(index + 1)
            finally:
                with self._lock:
                    self._running -= 1
                    if self._running == 0:
                        self._finished.set()

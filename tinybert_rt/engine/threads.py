"""Worker threads: how many to use, and Python threads that each sit inside one native call."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import suppress

from tinybert_rt.errors import InvalidArgumentError, ThreadStartError

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
    """`count` daemon threads; `run(job)` calls job(0) … job(count − 1) in them, together.

    The caller only wakes worker 0, which wakes the others, and waits. Signal handlers raise exceptions in the main thread at
    any place, so everything that the caller does may be repeated: a worker that wakes without a job goes back to sleep.
    """

    def __init__(self, count: int) -> None:
        self._job: Callable[[int], object] | None = None
        self._closed = False
        self._running = 0
        self._count_lock = threading.Lock()
        self._start = [threading.Lock() for _ in range(count)]
        self._finished = threading.Lock()
        for lock in (*self._start, self._finished):
            lock.acquire()
        try:
            for index in range(count):
                threading.Thread(target=self._work, args=(index,), name=f"tinybert_rt-{index}", daemon=True).start()
        except RuntimeError:
            self.close()
            raise ThreadStartError(f"the system cannot start {count} worker threads: load the model with fewer threads") from None

    def run(self, job: Callable[[int], object]) -> None:
        """Call job(worker) once for every worker; returns when all have. One caller at a time.

        An exception that interrupts the wait is raised when all workers have returned: they use the caller's memory.
        """
        interrupt: BaseException | None = None
        woken = False
        self._running = len(self._start)
        self._job = job
        while self._running:
            try:
                if not woken:
                    _wake(self._start[0])
                    woken = True
                self._finished.acquire()
            except BaseException as error:
                interrupt = error
        if interrupt is not None:
            raise interrupt

    def close(self) -> None:
        """End the threads."""
        self._closed = True
        for start in self._start:
            _wake(start)

    def _work(self, index: int) -> None:
        while True:
            self._start[index].acquire()
            if self._closed:
                return
            job = self._job
            if job is None:
                continue
            if index == 0:
                for start in self._start[1:]:
                    start.release()
            job(index)
            del job  # it must not keep the session alive
            with self._count_lock:
                last = self._running == 1
                if last:
                    self._job = None
                self._running -= 1
            if last:
                _wake(self._finished)


def _wake(lock: threading.Lock) -> None:
    """Release a lock that somebody waits for; it may be released already."""
    with suppress(RuntimeError):
        lock.release()

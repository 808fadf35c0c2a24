"""The int8 peak of one core: multiply-accumulates per second of a level's own dot products when nothing else is to be done.

    python -m bench.peak               # every instruction-set level of this machine
    python -m bench.peak --isa avx2

A loop of the level's `dot4` over its int8 tile (see `peak_exports`), operands in the first-level cache. Time divided by this is what
the other benchmarks call the int8 limit.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import cffi
import numpy as np

from tinybert_rt.engine.jit import load_kernels
from tinybert_rt.errors import TinyBertError
from tinybert_rt.isa.levels import available_levels, choose_level

RUN_S, RUNS, FIRST_STEPS = 0.02, 9, 1000
_MODULE = "bench.peak_exports"
_AREA_BYTES = 4096


def main(arguments: list[str] | None = None) -> int:
    """Print one line per level; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.peak", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--isa", help="one instruction-set level (default: all of this machine)")
    options = parser.parse_args(arguments)
    try:
        for level in [options.isa] if options.isa else [level.name for level in available_levels()]:
            print(f"{level:<12} {measure_peak(level):8.1f} GMAC/s")
    except TinyBertError as error:
        print(f"bench.peak: {error}", file=sys.stderr)
        return 2
    return 0


def measure_peak(isa: str | None = None, threads: int = 1, runs: int = RUNS) -> float:
    """GMAC/s of one core at a level (default: the one that runs by default), while so many threads do the same.

    The median of `runs` runs of about `RUN_S` seconds; of a run's threads the mean counts.
    """
    loops = [_loop(choose_level(isa).name, thread) for thread in range(threads)]
    steps = _steps(loops[0])
    with ThreadPoolExecutor(threads, initializer=_stay, initargs=(iter(_cpus(threads)),)) as pool:
        seconds = [statistics.fmean(pool.map(lambda loop: loop.run(steps), loops)) for _ in range(runs)]
    return steps * loops[0].macs_per_step / statistics.median(seconds) * 1e-9


def _cpus(threads: int) -> list[int]:
    """This process's CPUs if as many threads take them all; with fewer, the system is to find them cores of their own."""
    allowed = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    return allowed if len(allowed) == threads else []


def _stay(cpus: Iterator[int]) -> None:
    """Keep this thread on the next of some CPUs: the system may let two threads share one for longer than a run lasts."""
    cpu = next(cpus, None)
    if cpu is not None:
        os.sched_setaffinity(0, {cpu})


class _Loop:
    """The compiled loop and the memory that it works on."""

    def __init__(self, level: str) -> None:
        ffi = cffi.FFI()
        self._kernels: Any = load_kernels(choose_level(level), _MODULE)
        self._dot_steps = ffi.cast("void (*)(int64_t, int64_t, int64_t, int64_t)", self._kernels.address("dot_steps"))
        self.macs_per_step = int(ffi.cast("int64_t (*)(void)", self._kernels.address("macs_per_step"))())
        # Bytes below 64 in magnitude obey the pair rule of `isa.lowering`.
        self._memory = np.random.default_rng(0).integers(0, 64, 3 * _AREA_BYTES + 64, dtype=np.uint8)
        self._start = -(-self._memory.ctypes.data // 64) * 64

    def run(self, steps: int) -> float:
        """The seconds of so many steps."""
        a, b, out = (self._start + index * _AREA_BYTES for index in range(3))
        begin = time.perf_counter()
        self._dot_steps(steps, a, b, out)
        return time.perf_counter() - begin


@cache
def _loop(level: str, thread: int) -> _Loop:
    return _Loop(level)


@cache
def _steps(loop: _Loop) -> int:
    """As many steps as take about `RUN_S` seconds."""
    steps = FIRST_STEPS
    while (elapsed := loop.run(steps)) < RUN_S:
        steps = max(2 * steps, int(steps * RUN_S / elapsed))
    return steps


if __name__ == "__main__":
    sys.exit(main())

"""What the benchmarks share: interleaved timing, robust statistics, facts about the machine, tables.

How time is taken. All systems of a cell are measured in one run, in rounds: each round visits every system once, in an order that is
shuffled per round, so a slow minute of the machine falls on all of them. A visit makes a few untimed calls, which bring back the
caches and threads that the previous system pushed out, and then times a burst of calls one by one. Results are medians with quartiles.
"""

from __future__ import annotations

import datetime
import gc
import importlib.metadata
import json
import math
import os
import platform
import random
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

VISIT_S, SETTLE_S, WARM_UP_S = 0.02, 0.004, 0.5
MAX_CALLS, MAX_SETTLE_CALLS = 100, 20
SLOW_CALL_S = 0.1  # a call this long brings back its own caches
MIN_ROUNDS = 3
X86_FLAGS = ("avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512bw", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16")
ARM_FLAGS = ("asimddp", "i8mm", "bf16", "sve2")


class RunError(Exception):
    """A system could not be converted, loaded or run; the message is one line."""


@dataclass(frozen=True)
class Stats:
    """Robust summary of repeated measurements, in the unit of the samples."""

    median: float
    q1: float
    q3: float
    minimum: float
    count: int

    @property
    def iqr(self) -> float:
        """The width of the middle half."""
        return self.q3 - self.q1

    def as_dict(self, scale: float = 1.0, digits: int = 6) -> dict[str, float | int]:
        """The numbers times `scale`, for JSON."""
        names = ("median", "q1", "q3", "iqr", "minimum")
        return {name: round(getattr(self, name) * scale, digits) for name in names} | {"count": self.count}


def summarize(samples: Sequence[float]) -> Stats:
    """Median and quartiles (inclusive method) of at least one sample."""
    if len(samples) == 1:
        return Stats(samples[0], samples[0], samples[0], samples[0], 1)
    q1, median, q3 = statistics.quantiles(samples, n=4, method="inclusive")
    return Stats(median, q1, q3, min(samples), len(samples))


def geometric_mean(values: Iterable[float]) -> float | None:
    """Geometric mean of positive numbers, `None` for none."""
    logarithms = [math.log(value) for value in values]
    return math.exp(statistics.fmean(logarithms)) if logarithms else None


def warm_up(call: Callable[[], Any]) -> float:
    """Call for about `WARM_UP_S` seconds, at least once; return the seconds of the fastest call."""
    fastest, end = math.inf, time.perf_counter() + WARM_UP_S
    while True:
        start = time.perf_counter()
        call()
        now = time.perf_counter()
        fastest = min(fastest, now - start)
        if now >= end:
            return fastest


def timed_burst(call: Callable[[], Any], expected_s: float) -> list[float]:
    """One visit: untimed settling calls, then a burst of calls timed one by one (seconds), sized by the expected time of a call."""
    settle_calls = 0 if expected_s >= SLOW_CALL_S else min(MAX_SETTLE_CALLS, math.ceil(SETTLE_S / expected_s))
    calls = max(1, min(MAX_CALLS, int(VISIT_S / expected_s)))
    samples = []
    collecting = gc.isenabled()
    gc.disable()
    try:
        for _ in range(settle_calls):
            call()
        for _ in range(calls):
            start = time.perf_counter_ns()
            call()
            samples.append((time.perf_counter_ns() - start) * 1e-9)
    finally:
        if collecting:
            gc.enable()
    return samples


def read_anew(path: Path) -> None:
    """Let the system forget a model's files, as far as no process has them mapped, so that they are read into other pages of memory.

    Pages of the system's file cache stay where they once came to lie, for days: with one file of 108 MB, short texts took 1.3 times as
    long as with a fresh copy of it. Systems that copy their weights get other pages in every process; so does a mapped file after this.
    """
    if not hasattr(os, "posix_fadvise"):
        return
    for file in [path, path.with_suffix(".bin"), *path.rglob("*")]:
        if file.is_file():
            with open(file, "rb") as opened:
                os.fsync(opened.fileno())  # pages that are not written yet would stay
                os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def interleave(visits: Mapping[str, Callable[[], list[float]]], *, budget_s: float, max_rounds: int) -> dict[str, list[list[float]]]:
    """Visit every system once per round until `max_rounds` or until another round would leave the time budget.

    At least `MIN_ROUNDS` rounds (or `max_rounds`, if that is fewer) are made, whatever they cost.
    A visit that raises `RunError` takes its system out: it is missing from the result, and the error is the visitor's to report.

    Returns the samples of each system, in its visit's unit, one list per round.
    """
    rounds: dict[str, list[list[float]]] = {name: [] for name in visits}
    order, shuffler = list(visits), random.Random(0)
    begin = time.perf_counter()
    for done in range(max_rounds):
        elapsed = time.perf_counter() - begin
        if done >= MIN_ROUNDS and elapsed + elapsed / done > budget_s:
            break
        shuffler.shuffle(order)
        for name in list(order):
            try:
                rounds[name].append(visits[name]())
            except RunError:
                order.remove(name)
                del rounds[name]
    return rounds


def flatten(rounds: Sequence[Sequence[float]]) -> list[float]:
    """All samples of all rounds."""
    return [sample for samples in rounds for sample in samples]


def paired_ratio(numerator: Sequence[Sequence[float]], denominator: Sequence[Sequence[float]]) -> Stats:
    """Ratio of two systems' medians round by round: what the machine did to one round it did to both."""
    pairs = zip(numerator, denominator, strict=False)
    return summarize([statistics.median(above) / statistics.median(below) for above, below in pairs])


def machine_facts() -> dict[str, Any]:
    """The machine as the measured process sees it; facts that this system does not tell are left out."""
    facts: dict[str, Any] = {
        "cpu": platform.processor() or platform.machine(),
        "architecture": platform.machine(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
    }
    if hasattr(os, "sched_getaffinity"):
        facts["cpus_allowed"] = len(os.sched_getaffinity(0))
    if hasattr(os, "getloadavg"):
        facts["load_average_1min"] = round(os.getloadavg()[0], 2)
    cpuinfo = _read("/proc/cpuinfo")
    for line in cpuinfo.splitlines():
        key, _, value = (part.strip() for part in line.partition(":"))
        if key == "model name":
            facts["cpu"] = value
        elif key in ("flags", "Features"):
            present = set(value.split())
            facts["cpu_flags"] = [flag for flag in X86_FLAGS + ARM_FLAGS if flag in present]
        elif key == "cpu family" or key == "model":
            facts[key.replace(" ", "_").replace("model", "cpu_model")] = value
        elif not key and "cpu_flags" in facts:
            break
    quota = _read("/sys/fs/cgroup/cpu.max").split()
    if len(quota) == 2 and quota[0] != "max":
        facts["cgroup_cpus"] = int(quota[0]) / int(quota[1])
    for line in _read("/proc/meminfo").splitlines():
        if line.startswith("MemTotal:"):
            facts["memory_gb"] = round(int(line.split()[1]) / 2**20, 1)
    return facts


def package_versions(names: Iterable[str]) -> dict[str, str]:
    """Versions of those of the named packages that are installed."""
    versions = {}
    for name in names:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def header(packages: Iterable[str], **settings: Any) -> dict[str, Any]:
    """The part that every benchmark's JSON begins with."""
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "machine": machine_facts(),
        "versions": package_versions(packages),
        "settings": settings,
    }


def describe_header(head: Mapping[str, Any]) -> str:
    """`header` in three readable lines."""
    machine = head["machine"]
    cpus = machine.get("cpus_allowed", machine["cpus"])
    return "\n".join(
        [
            f"{machine['cpu']} ({machine['architecture']}, {cpus} CPUs; {' '.join(machine.get('cpu_flags', []))})",
            f"{machine['system']}, Python {machine['python']}; " + ", ".join(f"{k} {v}" for k, v in head["versions"].items()),
            f"{head['date']}; " + ", ".join(f"{key} {value}" for key, value in head["settings"].items()),
        ]
    )


def render_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table with padded columns: the first left-aligned, the others right-aligned."""
    widths = [max(3, *(len(row[index]) for row in [columns, *rows])) for index in range(len(columns))]

    def line(cells: Sequence[str]) -> str:
        padded = [cell.rjust(width) if index else cell.ljust(width) for index, (cell, width) in enumerate(zip(cells, widths, strict=True))]
        return "| " + " | ".join(padded) + " |"

    rule = ["-" * width if not index else "-" * (width - 1) + ":" for index, width in enumerate(widths)]
    return "\n".join([line(columns), line(rule), *(line(row) for row in rows)])


def three_digits(value: float | None) -> str:
    """A positive number with three significant digits, an en dash for none."""
    if value is None:
        return "–"
    decimals = max(0, 2 - math.floor(math.log10(value))) if value > 0 else 2
    return f"{value:.{min(decimals, 4)}f}"


def write_text(path: Path | None, text: str) -> None:
    """Write a file and its folders, if a path was given."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def write_json(path: Path | None, content: Any) -> None:
    """Write readable JSON, if a path was given."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError:
        return ""

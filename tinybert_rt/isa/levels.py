"""Instruction-set levels: which CPU features each needs, and the tile sizes that fit its registers.

A level is a name for what LLVM may emit. Everything above `isa/` asks the active level for its tiles and lowerings and
never names an instruction set itself.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from typing import NamedTuple

from tinybert_rt.errors import UnknownIsaError, UnsupportedIsaError


class Alternative(NamedTuple):
    """One way to build a level: what the CPU must offer (as Linux names it, without underscores), and LLVM's feature string."""

    needs: frozenset[str]
    llvm_features: str


class IsaLevel(NamedTuple):
    """One instruction-set level.

    Attributes:
        name: what `TINYBERT_RT_ISA` and `load(isa=…)` call it.
        architecture: `x86_64` or `aarch64`.
        llvm_cpu: the LLVM processor name that sets the baseline.
        alternatives: ways to build it; the first that the CPU offers is taken.
        dot: name of the lowering of the u8×s8 dot product, see `isa.lowering`.
        fused_multiply_add: the level has a fused multiply-add instruction (else it is emulated exactly).
        tile_int8: rows (1 to 6) and 16-lane columns (1, 2 or 4) of the int8 GEMM tile.
        tile_float: rows and 16-lane columns of the float GEMM tile.
        vector_bits: widest register that LLVM should use.
        lanes_int8: the int8 dot product takes one 32-bit lane of a register for all lanes of its operand a, so that the tile
            should load several values of a row at once rather than spread each one over a register.
        lanes_float: the same of the float32 multiply-add.
    """

    name: str
    architecture: str
    llvm_cpu: str
    alternatives: tuple[Alternative, ...]
    dot: str
    fused_multiply_add: bool
    tile_int8: tuple[int, int]
    tile_float: tuple[int, int]
    vector_bits: int
    lanes_int8: bool = False
    lanes_float: bool = False


_AVX2 = frozenset({"avx2", "fma", "bmi1", "bmi2", "f16c", "movbe"})
_AVX512 = frozenset({"avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512cd"})

# Slowest first; the last one that the CPU offers is the default.
LEVELS: tuple[IsaLevel, ...] = (
    IsaLevel("portable", "x86_64", "x86-64", (Alternative(frozenset(), ""),), "sse2", False, (2, 1), (2, 1), 128),
    IsaLevel("avx2", "x86_64", "x86-64-v3", (Alternative(_AVX2, ""),), "avx2", True, (5, 1), (6, 1), 256),
    IsaLevel(
        "avxvnni",
        "x86_64",
        "x86-64-v3",
        # The same 256-bit instruction has an EVEX form, so the level also runs on a CPU with AVX-512 VNNI.
        (
            Alternative(_AVX2 | {"avxvnni"}, "+avxvnni"),
            Alternative(_AVX2 | _AVX512 | {"avx512vnni"}, "+avx512f,+avx512bw,+avx512vl,+avx512vnni"),
        ),
        "vpdpbusd256",
        True,
        (6, 1),
        (6, 1),
        256,
    ),
    IsaLevel(
        "avx512vnni",
        "x86_64",
        "x86-64-v4",
        (Alternative(_AVX2 | _AVX512 | {"avx512vnni"}, "+avx512vnni"),),
        "vpdpbusd512",
        True,
        (6, 4),
        (6, 4),
        512,
    ),
    IsaLevel(
        "neon",
        "aarch64",
        "generic",
        (Alternative(frozenset(), "+neon"),),
        "sadalp",
        True,
        (3, 1),
        (5, 1),
        128,
        lanes_int8=False,
        lanes_float=True,
    ),
    IsaLevel(
        "dotprod",
        "aarch64",
        "generic",
        (Alternative(frozenset({"asimddp"}), "+neon,+dotprod"),),
        "sdot",
        True,
        (4, 1),
        (5, 1),
        128,
        lanes_int8=True,
        lanes_float=True,
    ),
    IsaLevel(
        "i8mm",
        "aarch64",
        "generic",
        (Alternative(frozenset({"asimddp", "i8mm"}), "+neon,+dotprod,+i8mm"),),
        "usdot",
        True,
        (5, 1),
        (5, 1),
        128,
        lanes_int8=True,
        lanes_float=True,
    ),
)

ISA_VARIABLE = "TINYBERT_RT_ISA"

_BY_NAME = {level.name: level for level in LEVELS}


def cpu_features() -> frozenset[str]:
    """CPU features of this machine, by their Linux names without underscores in `avx512_vnni`-like ones.

    Empty where they cannot be read: the portable level then runs, slower but right.
    """
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
            for line in file:
                if line.startswith(("flags", "Features")):
                    names = line.split(":", 1)[1].split()
                    # "avx512_vnni" and "avx_vnni" are "avx512vnni" and "avxvnni" to LLVM.
                    return frozenset(name.replace("_", "") for name in names)
    except OSError:
        pass
    return _llvm_features()


def _llvm_features() -> frozenset[str]:
    try:
        from llvmlite import binding
    except ImportError:
        return frozenset()
    linux_names = {"bmi": "bmi1", "dotprod": "asimddp"}
    return frozenset(linux_names.get(name, name) for name, on in binding.get_host_cpu_features().items() if on)


def llvm_features(level: IsaLevel) -> str:
    """LLVM's feature string for a level on this machine (on another machine: that of its first alternative)."""
    features = cpu_features()
    for way in level.alternatives:
        if way.needs <= features:
            return way.llvm_features
    return level.alternatives[0].llvm_features


def machine_architecture() -> str:
    """`x86_64`, `aarch64`, or what the platform calls itself."""
    machine = platform.machine().lower()
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(machine, machine)


def available_levels() -> list[IsaLevel]:
    """The levels that this machine can run, slowest first."""
    features = cpu_features()
    architecture = machine_architecture()
    return [level for level in LEVELS if level.architecture == architecture and any(way.needs <= features for way in level.alternatives)]


def level_by_name(name: str) -> IsaLevel:
    """The level called `name`. Raises UnknownIsaError."""
    try:
        return _BY_NAME[name]
    except KeyError:
        raise UnknownIsaError(f"unknown instruction-set level {name!r}; known: {', '.join(_BY_NAME)}") from None


def choose_level(name: str | None = None, levels: Sequence[IsaLevel] | None = None) -> IsaLevel:
    """The level to run: `name`, else `TINYBERT_RT_ISA`, else the best of `levels`; None: of those that this machine can run.

    Raises UnknownIsaError for a name that no level has, UnsupportedIsaError for one that this machine cannot run.
    """
    levels = available_levels() if levels is None else list(levels)
    if not levels:
        raise UnsupportedIsaError(f"no kernels for the architecture {machine_architecture()!r}; known: x86_64, aarch64")
    ceiling = os.environ.get(ISA_VARIABLE) or None
    if ceiling is not None:
        levels = levels[: levels.index(_require(ceiling, levels, f"{ISA_VARIABLE}={ceiling}: this machine")) + 1]
    if name is None:
        return levels[-1]
    return _require(name, levels, f"isa: {ISA_VARIABLE}={ceiling}" if ceiling else "isa: this machine")


def _require(name: str, levels: list[IsaLevel], who: str) -> IsaLevel:
    if name not in _BY_NAME:
        known = ", ".join(level.name for level in LEVELS if level.architecture == machine_architecture())
        raise UnknownIsaError(f"{who} has no instruction-set level {name!r}; known: {known}")
    level = _BY_NAME[name]
    if level not in levels:
        raise UnsupportedIsaError(f"{who} does not allow {name!r}; available: {', '.join(each.name for each in levels)}")
    return level

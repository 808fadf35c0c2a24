"""The C compiler: the system's for this machine, zig's (the package `ziglang`) for others."""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tinybert_rt.aot.targets import Target, this_machine
from tinybert_rt.errors import CompileError

C_FLAGS = ("-std=c11", "-O2", "-fPIC", "-fvisibility=hidden")


@dataclass(frozen=True)
class Compiler:
    """Commands that compile for one target."""

    cc: tuple[str, ...]
    ar: tuple[str, ...]


def find_compiler(target: Target) -> Compiler:
    """The compiler for a target: $CC or cc for this machine, else zig. Raises CompileError."""
    if target == this_machine():
        own = shlex.split(os.environ.get("CC", "")) or [name for name in ("cc", "gcc", "clang") if shutil.which(name)][:1]
        if own and shutil.which(own[0]) and shutil.which("ar"):
            return Compiler(tuple(own), ("ar",))
    if not target.zig:
        raise CompileError(f"no cross compiler brings the headers of {target.name}: only its kernels can be made (--objects-only)")
    if importlib.util.find_spec("ziglang") is None:
        raise CompileError(f"no C compiler for {target.name}: pip install ziglang")
    zig = (sys.executable, "-m", "ziglang")
    return Compiler((*zig, "cc", "-target", target.zig), (*zig, "ar"))


def run(command: Sequence[str | Path]) -> None:
    """Run a command. Raises CompileError with what it printed."""
    result = subprocess.run([str(each) for each in command], capture_output=True, text=True, errors="replace", check=False)
    if result.returncode != 0:
        words = (result.stderr or result.stdout).strip() or f"exit status {result.returncode}"
        raise CompileError(f"{Path(str(command[0])).name} failed: {words}")

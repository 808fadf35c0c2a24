"""The ABI's functions as cffi function pointers, whatever compiled them. Calls release the GIL."""

from __future__ import annotations

import os
from _thread import allocate_lock  # importing threading takes most of a millisecond
from functools import cache
from typing import Any

from tinybert_rt.engine import abi
from tinybert_rt.engine.declarations import ffi
from tinybert_rt.engine.native import LIBRARY_VARIABLE, library_path, native_functions, native_levels
from tinybert_rt.errors import InvalidArgumentError, LibraryError
from tinybert_rt.isa.levels import IsaLevel, choose_level

ENGINES = ("auto", "native", "jit")

_lock = allocate_lock()


def _new_lock() -> None:
    """In a forked child: the lock may have been held by a thread that does not exist there."""
    global _lock
    _lock = allocate_lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_new_lock)


class Library:
    """All ABI functions for one instruction-set level, as attributes."""

    model_open: Any
    session_plan: Any
    session_close: Any
    serve: Any
    encode: Any
    tokenize: Any
    scan: Any

    def __init__(self, engine: str, level: IsaLevel, functions: dict[str, Any], owner: Any = None) -> None:
        self.engine = engine
        self.level = level
        self._owner = owner
        for name, function in functions.items():
            setattr(self, name, function)


def load_library(engine: str = "auto", isa: str | None = None) -> Library:
    """The compiled functions for an instruction-set level (default: the best that this machine offers).

    Args:
        engine: "native" for the compiled library, "jit" for kernels that are compiled on this machine, "auto" for the library
            where there is one.

    Raises UnknownIsaError, UnsupportedIsaError, CompileError, LibraryError, InvalidArgumentError.
    """
    if engine not in ENGINES:
        raise InvalidArgumentError(f"engine must be one of {', '.join(map(repr, ENGINES))}, not {engine!r}")
    if isa is not None and not isinstance(isa, str):
        raise InvalidArgumentError(f"isa must be the name of an instruction-set level, not {isa!r}")
    path = None if engine == "jit" else library_path()
    if path is None and engine == "native":
        raise LibraryError(
            f"this installation has no compiled library: {LIBRARY_VARIABLE} can name one, and engine='jit' compiles on this machine"
        )
    with _lock:
        return _jit(choose_level(isa)) if path is None else _native(path, choose_level(isa, native_levels(path)))


@cache
def _native(path: str, level: IsaLevel) -> Library:
    table = native_functions(path, level)
    return Library("native", level, {each.name: getattr(table, each.name) for each in abi.FUNCTIONS})


@cache
def _jit(level: IsaLevel) -> Library:
    from tinybert_rt.engine.jit import load_kernels

    kernels = load_kernels(level)
    functions = {each.name: ffi.cast(each.c_pointer_type(), kernels.address(each.symbol())) for each in abi.FUNCTIONS}
    return Library("jit", level, functions, kernels)

"""The ABI's functions as cffi function pointers, whatever compiled them. Calls release the GIL."""

from __future__ import annotations

import os
import threading
from functools import cache
from typing import Any

import cffi

from tinybert_rt.engine import abi
from tinybert_rt.errors import InvalidArgumentError
from tinybert_rt.isa.levels import IsaLevel, choose_level

ffi = cffi.FFI()
ffi.cdef(abi.c_structs() + abi.c_table())

_lock = threading.Lock()


def _new_lock() -> None:
    """In a forked child: the lock may have been held by a thread that does not exist there."""
    global _lock
    _lock = threading.Lock()


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

    def __init__(self, engine: str, level: IsaLevel, kernels: Any) -> None:
        self.engine = engine
        self.level = level
        self._kernels = kernels
        for function in abi.FUNCTIONS:
            setattr(self, function.name, ffi.cast(function.c_pointer_type(), kernels.address(function.symbol())))


def load_library(engine: str = "auto", isa: str | None = None) -> Library:
    """The compiled functions for an instruction-set level (default: the best that this machine offers).

    Args:
        engine: "auto" or "jit".

    Raises UnknownIsaError, UnsupportedIsaError, CompileError, InvalidArgumentError.
    """
    if engine not in ("auto", "jit"):
        raise InvalidArgumentError(f"engine must be 'auto' or 'jit', not {engine!r}")
    level = choose_level(isa)
    with _lock:
        return _load(level)


@cache
def _load(level: IsaLevel) -> Library:
    from tinybert_rt.engine.jit import load_kernels

    return Library("jit", level, load_kernels(level))

"""The only place where Numba's compiler flags are written.

Kernels are never run by Numba's in-process JIT. They are typed and lowered by Numba, linked into one module and
compiled to one object per instruction-set level by `tinybert_rt.engine.emit`; the decorators here only mark them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
from numba.core import compiler

# error_model="numpy": a division by zero gives inf, never a Python exception.
# fastmath stays off: a compiler that may reorder float operations would give other bytes on other machines.
# Kernels are called by kernels only, so Numba's wrappers for Python and for C callbacks are left out.
_FLAGS: dict[str, Any] = {
    "nopython": True,
    "error_model": "numpy",
    "boundscheck": False,
    "fastmath": False,
    "no_cpython_wrapper": True,
    "no_cfunc_wrapper": True,
}


def entry_flags() -> compiler.Flags:
    """The flags above, for `engine.emit`, which compiles the entry kernels by hand."""
    flags = compiler.Flags()
    for name in ("error_model", "no_cpython_wrapper", "no_cfunc_wrapper"):
        setattr(flags, name, _FLAGS[name])
    flags.nrt = False
    return flags


def kernel(function: Callable[..., Any]) -> Any:
    """Mark a function as a kernel: compiled on its own, called by other kernels."""
    # Said here because a kernel would else inherit it from the first caller that it is compiled for.
    return numba.jit(forceinline=False, **_FLAGS)(function)


OUTLINED: set[str] = set()
"""Names of kernels that LLVM must not inline."""


def outlined(function: Callable[..., Any]) -> Any:
    """Mark a kernel that is long enough to be compiled once, whoever calls it: copies of it would only cost compile time."""
    OUTLINED.add(function.__name__)
    return kernel(function)


def inline(function: Callable[..., Any]) -> Any:
    """Mark a small kernel that is always inlined into its callers (vectors then stay in registers)."""
    return numba.jit(forceinline=True, **_FLAGS)(function)

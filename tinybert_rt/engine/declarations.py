"""cffi's view of the ABI, and of the C library's functions that workers and the loader use.

An installed package has the declarations compiled (`write_compiled`), which saves parsing them at every start.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from tinybert_rt.engine import abi

if TYPE_CHECKING:
    from pathlib import Path

COMPILED = "tinybert_rt.lib._declarations"

_LIBRARY = "const void *tbrt_private_kernels(const char *level, const char *abi); const char *tbrt_isa(size_t index);"
_SYSTEM = (
    "int sched_yield(void); int sem_init(void *, int, unsigned); int sem_wait(void *); int sem_post(void *);"
    "int mprotect(void *, size_t, int);"
)


def _parsed() -> Any:
    import cffi

    parsed = cffi.FFI()
    parsed.cdef(abi.c_structs() + abi.c_table() + _LIBRARY + _SYSTEM)
    return parsed


def write_compiled(path: Path) -> None:
    """Write the module `COMPILED` to a file."""
    declarations = _parsed()
    declarations.set_source(COMPILED, None)
    declarations.emit_python_code(str(path))
    with path.open("a", encoding="utf-8") as file:
        file.write(f"digest = {abi.digest()!r}\n")


def _load() -> tuple[Any, str]:
    """The declarations and their digest. Those of an installed package were compiled from its own sources, in the same wheel."""
    try:
        compiled = importlib.import_module(COMPILED)
    except ImportError:
        return _parsed(), abi.digest()
    return compiled.ffi, compiled.digest


ffi, digest = _load()

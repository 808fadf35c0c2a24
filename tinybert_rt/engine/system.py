"""The C library's functions that workers and the loader use, by cffi."""

from __future__ import annotations

from typing import Any

from tinybert_rt.engine.declarations import ffi


def _load() -> Any:
    """The functions, or None where they are not found."""
    try:
        library = ffi.dlopen(None)
        if all(hasattr(library, name) for name in ("sched_yield", "sem_init", "sem_wait", "sem_post", "mprotect")):
            return library
    except OSError:
        pass
    return None


system = _load()

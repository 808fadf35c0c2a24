"""The compiled C library, where the package brings one, loaded by cffi in ABI mode."""

from __future__ import annotations

import os
import sys
from typing import Any

from tinybert_rt.engine import abi
from tinybert_rt.engine.declarations import ffi
from tinybert_rt.errors import LibraryError
from tinybert_rt.isa.levels import IsaLevel

LIBRARY_VARIABLE = "TINYBERT_RT_LIBRARY"
_NAMES = {"win32": "tinybert_rt.dll", "darwin": "libtinybert_rt.dylib"}


def library_path() -> str | None:
    """The library's file: what TINYBERT_RT_LIBRARY names (empty: none), else the package's own, or None."""
    chosen = os.environ.get(LIBRARY_VARIABLE)
    if chosen is not None:
        return chosen or None
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    path = os.path.join(package, "lib", _NAMES.get(sys.platform, "libtinybert_rt.so"))
    return path if os.path.isfile(path) else None


def native_functions(path: str, level: IsaLevel) -> Any:
    """The library's functions for a level, a `kernel_functions *`.

    Raises LibraryError: the file cannot be loaded, is no such library, or was built for another version of the package.
    """
    try:
        library = ffi.dlopen(path)
    except OSError as error:
        raise LibraryError(f"the compiled library cannot be loaded: {error}") from None
    try:
        pointer = library.tbrt_private_kernels(level.name.encode(), abi.digest().encode())
    except AttributeError:
        raise LibraryError(f"{path} is no library of this package") from None
    if pointer == ffi.NULL:
        raise LibraryError(f"{path} was built for another version of this package, or without {level.name!r}: build it again")
    _loaded.append(library)
    return ffi.cast("kernel_functions *", pointer)


_loaded: list[Any] = []
"""Libraries stay loaded: their functions are called until the process ends."""

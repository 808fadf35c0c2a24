"""The compiled C library, where the package brings one, loaded by cffi in ABI mode."""

from __future__ import annotations

import os
import sys
from functools import cache
from typing import Any

from tinybert_rt.engine.declarations import digest, ffi
from tinybert_rt.errors import LibraryError
from tinybert_rt.isa.levels import LEVELS, IsaLevel

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
    pointer = _open(path).tbrt_private_kernels(level.name.encode(), digest.encode())
    if pointer == ffi.NULL:
        raise LibraryError(f"{path} was built for another version of this package: build it again")
    return ffi.cast("kernel_functions *", pointer)


def native_levels(path: str) -> list[IsaLevel]:
    """The levels that the library has and this machine can run, slowest first. Raises LibraryError as `native_functions` does."""
    library = _open(path)
    names: list[str] = []
    while (name := library.tbrt_isa(len(names))) != ffi.NULL:
        names.append(ffi.string(name).decode())
    return [level for level in LEVELS if level.name in names]


@cache
def _open(path: str) -> Any:
    """The library, which stays loaded: its functions are called until the process ends."""
    try:
        library = ffi.dlopen(path)
    except OSError as error:
        raise LibraryError(f"the compiled library cannot be loaded: {error}") from None
    try:
        library.tbrt_private_kernels, library.tbrt_isa  # noqa: B018
    except (AttributeError, getattr(ffi, "error", AttributeError)):  # parsed and compiled declarations differ here
        raise LibraryError(f"{path} is no library of this package") from None
    return library

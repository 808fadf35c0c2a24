"""Shared fixtures: compiled kernels are kept in build/kernels, so that tests and runs share them."""

from __future__ import annotations

import fcntl
import os
from functools import cache
from pathlib import Path
from typing import Any

import cffi
import pytest

ROOT = Path(__file__).resolve().parent.parent
os.environ["TINYBERT_RT_CACHE"] = str(ROOT / "build" / "kernels")
os.environ.pop("TINYBERT_RT_ISA", None)

from tinybert_rt.engine import abi, jit  # noqa: E402
from tinybert_rt.isa.levels import available_levels, level_by_name  # noqa: E402

LEVELS = [level.name for level in available_levels()]


def pytest_configure(config: pytest.Config) -> None:
    """With several workers: the kernels that most tests use are compiled before these start, once."""
    if getattr(config.option, "numprocesses", None) and not hasattr(config, "workerinput"):
        for level in LEVELS:
            jit.load_kernels(level_by_name(level))


_ffi = cffi.FFI()
_ffi.cdef(abi.c_structs())


class Functions:
    """The exports of a module for one level, callable with ints, floats and cffi struct pointers."""

    def __init__(self, level: str, module: str) -> None:
        self._kernels = jit.load_kernels(level_by_name(level), module)

    def __call__(self, name: str, *arguments: Any) -> int:
        """Call an export: ints and pointers as int64, Python floats as float32."""
        kinds = ["float" if isinstance(value, float) else "int64_t" for value in arguments]
        pointer = _ffi.cast(f"int64_t (*)({', '.join(kinds)})", self._kernels.address(name))
        values = [int(_ffi.cast("intptr_t", value)) if isinstance(value, _ffi.CData) else value for value in arguments]
        return int(pointer(*values))

    @staticmethod
    def struct(name: str, **fields: Any) -> Any:
        """A C struct of the ABI with some fields set."""
        return _ffi.new(f"{name} *", fields)


@cache
def compiled(level: str, module: str) -> Functions:
    """The exports of a test module, compiled once per session and level."""
    return Functions(level, module)


@pytest.fixture(params=LEVELS)
def kernels(request: pytest.FixtureRequest) -> Functions:
    """The kernels of tests/kernel_exports.py, on every level of this machine in turn."""
    return compiled(request.param, "kernel_exports")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real data and vocabularies beside the checkout; tests that need it are skipped without it."""
    path = ROOT.parent / "shared"
    if not path.is_dir():
        pytest.skip("the folder ../shared with real data is not here")
    return path


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The C library for this machine, as `tools.build_lib` lays it out."""
    from tinybert_rt.aot.library import build_library
    from tinybert_rt.aot.targets import this_machine

    target = this_machine()
    assert target is not None
    base = tmp_path_factory.getbasetemp()
    out = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "library"  # one for all workers
    out.mkdir(exist_ok=True)
    with (out / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (out / "done").exists():
            build_library(target, out)
            (out / "done").touch()
    return out

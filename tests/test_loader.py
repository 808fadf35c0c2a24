"""Object files loaded without LLVM: the same results as with it, and clear errors for damaged ones."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from conftest import LEVELS, ROOT, _ffi
from models import small_model_file

from tinybert_rt.engine import jit
from tinybert_rt.engine.loader import LoadedObject, loadable
from tinybert_rt.errors import CompileError
from tinybert_rt.isa.levels import level_by_name


def object_of(level: str) -> bytes:
    """The tests' kernels for a level."""
    return jit.object_files(level_by_name(level), ["kernel_exports"])[0]


@pytest.mark.parametrize("level", LEVELS)
def test_a_kernel_gives_what_it_gives_when_llvm_loads_it(level: str) -> None:
    data = object_of(level)
    if not loadable(data):
        pytest.skip("not an x86-64 object: LLVM loads it")
    x = np.linspace(-9, 9, 4096).astype(np.float32)
    results = []
    loaded, engine = LoadedObject(data), jit._load_by_llvm([data])
    for address in (loaded.address("map_activation"), engine.get_function_address("map_activation")):
        y = np.empty_like(x)
        _ffi.cast("void (*)(int64_t, int64_t, int64_t, int64_t)", address)(0, x.size, x.ctypes.data, y.ctypes.data)
        results.append(y.tobytes())
    assert results[0] == results[1]


def test_using_a_model_imports_neither_llvm_nor_numba() -> None:
    code = (
        "import sys, tinybert_rt as tb\n"
        f"tb.load({str(small_model_file())!r}, threads=2).encode(['a cat'])\n"
        "print([name for name in ('llvmlite', 'numba') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"


def test_damaged_objects_are_a_clear_error() -> None:
    data = object_of(LEVELS[-1])
    if not loadable(data):
        pytest.skip("not an x86-64 object: LLVM loads it")
    assert not loadable(b"\x7fELF")
    for size in (64, 200, len(data) // 2, len(data) - 100):
        with pytest.raises(CompileError, match="cannot be loaded"):
            LoadedObject(data[:size])
    sections = int.from_bytes(data[40:48], "little")
    with pytest.raises(CompileError, match="cannot be loaded"):
        LoadedObject(data[:40] + (sections + 64).to_bytes(8, "little") + data[48:])

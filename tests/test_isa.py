"""Instruction-set levels: which are offered, what they emit, and how the cache of compiled kernels behaves."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import LEVELS, ROOT
from models import small_model_file

from tinybert_rt.engine import jit
from tinybert_rt.errors import CompileError
from tinybert_rt.isa import levels as isa
from tinybert_rt.isa.levels import available_levels, level_by_name

# Level → what its int8 tile must be made of.
DOT_INSTRUCTION = {
    "avx512vnni": r"vpdpbusd.*%zmm",
    "avxvnni": r"vpdpbusd.*%ymm",
    "avx2": r"vpmaddubsw.*%ymm",
    "portable": r"pmaddwd.*%xmm",
    "neon": r"\tsadalp\t",
    "dotprod": r"\tsdot\t",
    "i8mm": r"\t(us|su)dot\t",
}


@pytest.mark.parametrize("level", LEVELS)
def test_the_dot_product_is_the_levels_own_instruction(level: str) -> None:
    """Seen in the assembly, in a process of its own: an intrinsic that the target lacks would abort it."""
    command = [sys.executable, "-m", "tinybert_rt.engine.emit", level, "kernel_exports", "--assembly"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    text = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert re.search(DOT_INSTRUCTION[level], text)
    if level != "avx512vnni":
        assert "%zmm" not in text


def test_levels_follow_the_cpus_features(monkeypatch: pytest.MonkeyPatch) -> None:
    def names(features: str) -> list[str]:
        monkeypatch.setattr(isa, "cpu_features", lambda: frozenset(features.split()))
        monkeypatch.setattr(isa, "machine_architecture", lambda: "x86_64")
        return [level.name for level in available_levels()]

    haswell = "avx2 fma bmi1 bmi2 f16c movbe"
    assert names("") == ["portable"]
    assert names(haswell) == ["portable", "avx2"]
    assert names(haswell + " avxvnni") == ["portable", "avx2", "avxvnni"]
    assert names(haswell + " avx512f avx512bw avx512vl avx512dq avx512cd") == ["portable", "avx2"]
    assert names(haswell + " avx512f avx512bw avx512vl avx512dq avx512cd avx512vnni")[-1] == "avx512vnni"


def test_objects_refer_to_no_foreign_symbol(tmp_path: Path) -> None:
    """The library's objects may call nothing: no Python, no Numba, no C library."""
    nm = "/usr/bin/nm"
    if not os.path.exists(nm):
        pytest.skip("nm (binutils) is not installed")
    for level in LEVELS:
        for data in jit.object_files(level_by_name(level), jit.ABI_UNITS):
            (tmp_path / "unit.o").write_bytes(data)
            command = [nm, "--undefined-only", tmp_path / "unit.o"]
            assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == "", level


# ---------------------------------------------------------------- the cache


def encode_in_a_process(cache: str) -> str:
    return in_a_process(
        f"import tinybert_rt as tb; print(tb.load({str(small_model_file())!r}, threads=1).encode(['a cat']).tobytes().hex())", cache
    )


def in_a_process(code: str, cache: str, warned: str = "") -> str:
    """What Python code prints, with a directory for compiled kernels."""
    environment = {**os.environ, "TINYBERT_RT_CACHE": cache, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert warned in result.stderr if warned else result.stderr == "", "nothing may be printed in a pipe"
    return result.stdout


def test_a_cold_cache_used_by_two_processes_at_once_and_then_warm(tmp_path: Path) -> None:
    cache = str(tmp_path / "cache")
    small_model_file()
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(encode_in_a_process, [cache, cache])
    assert first == second
    objects = list(Path(cache).iterdir())
    assert [path.suffix for path in objects] == [".o"] * len(jit.ABI_UNITS), "no temporary file may be left"
    written = [path.stat().st_mtime_ns for path in objects]
    assert encode_in_a_process(cache) == first
    assert [path.stat().st_mtime_ns for path in objects] == written


def test_the_compiler_imports_nothing_from_the_current_directory(tmp_path: Path) -> None:
    (tmp_path / "llvmlite.py").write_text("raise SystemExit('the wrong llvmlite')")
    compiled = tmp_path / "objects.py"
    compiled.write_text(
        "import sys; sys.path.remove('')\n"
        "from tinybert_rt.engine.jit import ABI_UNITS, compile_objects\n"
        "from tinybert_rt.isa.levels import available_levels\n"
        "print(len(compile_objects(available_levels()[-1], ABI_UNITS[:1])))\n"
    )
    code = "import sys; sys.path.insert(0, '') if '' not in sys.path else None; exec(open('objects.py').read())"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (result.stdout, result.stderr) == ("1\n", "")


def test_without_a_cache(tmp_path: Path) -> None:
    assert encode_in_a_process("") == encode_in_a_process(os.environ["TINYBERT_RT_CACHE"])


def test_a_cache_that_cannot_be_written_and_a_damaged_one(tmp_path: Path) -> None:
    """With a small unit of kernels, since each is compiled again."""
    level, unit = available_levels()[-1], "isa_exports"
    call = f"print(load_kernels(level_by_name({level.name!r}), {unit!r}).address('dot_products') != 0)"
    code = f"from tinybert_rt.engine.jit import load_kernels; from tinybert_rt.isa.levels import level_by_name; {call}"
    file = tmp_path / "a file, not a directory"
    file.write_text("")
    assert in_a_process(code, str(file / "below"), warned="compiled kernels cannot be kept") == "True\n"

    cache = tmp_path / "cache"
    assert in_a_process(code, str(cache)) == "True\n"
    (kept,) = cache.iterdir()
    assert kept.name == f"{level.name}-{jit.cache_key(level, unit)}.o"
    whole = kept.read_bytes()
    data = bytearray(whole)
    data[len(data) // 2] ^= 1
    kept.write_bytes(data)
    assert in_a_process(code, str(cache)) == "True\n"
    assert kept.read_bytes() == whole, "the damaged object is replaced"


def test_a_failing_compiler_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CompileError, match="no_such_module"):
        jit.compile_objects(available_levels()[-1], ["no_such_module"])
    monkeypatch.setattr(sys, "executable", "")
    with pytest.raises(CompileError, match=r"sys\.executable"):
        jit.compile_objects(available_levels()[-1], jit.ABI_UNITS)

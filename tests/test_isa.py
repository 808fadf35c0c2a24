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
        for data in jit.compile_objects(level_by_name(level), jit.ABI_UNITS):
            (tmp_path / "unit.o").write_bytes(data)
            command = [nm, "--undefined-only", tmp_path / "unit.o"]
            assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == "", level


# ---------------------------------------------------------------- the cache


def encode_in_a_process(cache: str, warned: str = "") -> str:
    code = f"import tinybert_rt as tb; print(tb.load({str(small_model_file())!r}, threads=1).encode(['a cat']).tobytes().hex())"
    environment = {**os.environ, "TINYBERT_RT_CACHE": cache, "PYTHONPATH": str(ROOT)}
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


def test_without_a_cache_and_with_a_damaged_one(tmp_path: Path) -> None:
    expected = encode_in_a_process(os.environ["TINYBERT_RT_CACHE"])
    assert encode_in_a_process("") == expected
    file = tmp_path / "a file, not a directory"
    file.write_text("")
    assert encode_in_a_process(str(file / "below"), warned="compiled kernels cannot be kept") == expected

    level = available_levels()[-1]
    name = f"{level.name}-{jit.cache_key(level, jit.ABI_UNITS[0])}.o"
    data = bytearray((Path(os.environ["TINYBERT_RT_CACHE"]) / name).read_bytes())
    data[len(data) // 2] ^= 1
    damaged = tmp_path / "cache" / name
    damaged.parent.mkdir()
    damaged.write_bytes(data)
    assert encode_in_a_process(str(damaged.parent)) == expected
    assert damaged.read_bytes() != bytes(data), "the damaged object is replaced"


def test_a_failing_compiler_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CompileError, match="no_such_module"):
        jit.compile_objects(available_levels()[-1], ["no_such_module"])
    monkeypatch.setattr(sys, "executable", "")
    with pytest.raises(CompileError, match=r"sys\.executable"):
        jit.compile_objects(available_levels()[-1], jit.ABI_UNITS)

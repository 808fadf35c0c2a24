"""The AArch64 levels from any machine: what they emit, and that it computes the right thing in an emulator."""

from __future__ import annotations

import importlib.util
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from test_isa import DOT_INSTRUCTION
from test_kernels import pair_rule

from tinybert_rt.isa import levels as isa
from tinybert_rt.isa.levels import LEVELS, available_levels
from tinybert_rt.kernels.tile import ADD_RESIDUAL, AS_IT_IS, THROUGH_GELU, THROUGH_GELU_TANH

AARCH64 = [level.name for level in LEVELS if level.architecture == "aarch64"]
FUNCTIONS = ["dot_products", "int8_matrix", "linear_matrix", "float_matrix"]  # as tests/isa_driver.c numbers them
# Level → a processor of QEMU that has no more than it needs.
PROCESSOR = {"neon": "cortex-a53", "dotprod": "cortex-a76", "i8mm": "max"}
# Levels that are exact without the pair rule.
ANY_BYTES = {"dotprod", "i8mm"}


def emit(level: str, *options: str) -> bytes:
    command = [sys.executable, "-m", "tinybert_rt.engine.emit", level, "isa_exports", "--triple", "aarch64-unknown-linux-gnu", *options]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    return subprocess.run(command, env=environment, capture_output=True, check=True).stdout


def compiler() -> list[str]:
    """The command of a C compiler for AArch64 Linux; the test is skipped where there is none."""
    for name in ("aarch64-linux-gnu-gcc", "aarch64-linux-gnu-clang"):
        if shutil.which(name):
            return [name]
    if shutil.which("zig"):
        return ["zig", "cc", "-target", "aarch64-linux-musl"]
    if importlib.util.find_spec("ziglang"):
        return [sys.executable, "-m", "ziglang", "cc", "-target", "aarch64-linux-musl"]
    pytest.skip("no C compiler for AArch64 (aarch64-linux-gnu-gcc or zig)")


def emulator() -> str:
    """QEMU's emulator of AArch64 programs; the test is skipped where there is none."""
    for name in ("qemu-aarch64", "qemu-aarch64-static"):
        if path := shutil.which(name):
            return path
    pytest.skip("qemu-aarch64 (QEMU's user mode) is not installed")


class Emulated:
    """The exports of tests/isa_exports.py for a level, run by QEMU on a processor that has no more than the level needs."""

    def __init__(self, level: str, folder: Path) -> None:
        self._emulator = [emulator(), "-cpu", PROCESSOR[level]]
        self._program = folder / "driver"
        command = compiler()
        (folder / "unit.o").write_bytes(emit(level))
        options = ["-O1", "-ffreestanding", "-nostdlib", "-static", "-o", self._program]
        caches = {name: str(folder / "cache") for name in ("ZIG_LOCAL_CACHE_DIR", "ZIG_GLOBAL_CACHE_DIR")}
        subprocess.run([*command, *options, ROOT / "tests" / "isa_driver.c", folder / "unit.o"], env={**os.environ, **caches}, check=True)

    def __call__(self, name: str, arguments: Sequence[int | np.ndarray]) -> None:
        """Call an export with integers and arrays; arrays get the contents that it leaves in them."""
        words, memory, pointers = [], bytearray(128), 0
        for i, value in enumerate(arguments):
            if isinstance(value, np.ndarray):
                pointers |= 1 << i
                words.append(len(memory))
                memory += value.tobytes()
                memory += bytes(-len(memory) % 64)
            else:
                words.append(value)
        memory[: 8 * len(words)] = np.array(words, np.int64).tobytes()
        call = np.array([FUNCTIONS.index(name), len(memory), pointers], np.int64).tobytes() + bytes(memory)
        result = subprocess.run([*self._emulator, self._program], input=call, capture_output=True, check=True).stdout
        assert len(result) == len(memory)
        for word, value in zip(words, arguments, strict=True):
            if isinstance(value, np.ndarray):
                value[...] = np.frombuffer(result, value.dtype, value.size, word).reshape(value.shape)


@pytest.fixture(scope="module", params=AARCH64)
def level(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def emulated(level: str, tmp_path_factory: pytest.TempPathFactory) -> Emulated:
    return Emulated(level, tmp_path_factory.mktemp(level))


@pytest.mark.parametrize("name", AARCH64)
def test_tiles_are_made_of_the_levels_dot_product_and_stay_in_registers(name: str) -> None:
    text = emit(name, "--assembly").decode()
    blocks = [block for block in re.split(r"^\.LBB\w+:", text, flags=re.MULTILINE) if re.search(r"\tprfu?m\t", block)]
    assert len(blocks) >= 2, "only the loops of a linear layer's tile prefetch"
    for block in blocks:
        assert re.search(DOT_INSTRUCTION[name], block)
        assert not re.search(r"\b(str|stp|ldr|ldp|stur|ldur)\tq.*\[sp", block), "a vector is spilled"
    others = {"sdot", "udot", "usdot", "sudot"} - {"i8mm": {"usdot", "sudot"}, "dotprod": {"sdot"}}.get(name, set())
    assert not re.search(rf"\t({'|'.join(others)})\t", text)


def test_levels_follow_the_cpus_features(monkeypatch: pytest.MonkeyPatch) -> None:
    def names(features: str) -> list[str]:
        monkeypatch.setattr(isa, "cpu_features", lambda: frozenset(features.split()))
        monkeypatch.setattr(isa, "machine_architecture", lambda: "aarch64")
        return [level.name for level in available_levels()]

    assert names("fp asimd") == ["neon"]
    assert names("fp asimd asimddp") == ["neon", "dotprod"]
    assert names("fp asimd asimddp i8mm") == ["neon", "dotprod", "i8mm"]
    assert names("fp asimd i8mm") == ["neon"]


def check_dot_products(emulated: Emulated, acc: np.ndarray, a: np.ndarray, b: np.ndarray) -> None:
    """Against 64-bit sums, brought back to 32 bits as they wrap around."""
    out = np.empty_like(acc)
    emulated("dot_products", [len(acc), acc, a, b, out])
    products = (a.astype(np.int64) * b).reshape(len(acc), 16, 4).sum(2)
    assert (out == (acc + products).astype(np.uint64).astype(np.uint32).view(np.int32)).all()


def test_dot_products_are_exact_under_the_pair_rule(emulated: Emulated) -> None:
    rng = np.random.default_rng(1)
    acc = rng.integers(-(2**31), 2**31, (4096, 16), np.int32)
    a = rng.integers(0, 256, (4096, 64), np.uint8)
    b = pair_rule(rng.integers(-128, 128, (4096, 64)))
    a[:64] = rng.choice([0, 1, 127, 128, 255], (64, 64))
    b[:64] = rng.choice([[-128, 0], [0, -128], [64, 64], [-64, -64], [127, 1], [-128, 127], [127, -128]], (64, 32)).reshape(64, 64)
    acc[:32], a[:16] = [2**31 - 1, -(2**31)] * 8, 255
    check_dot_products(emulated, acc, a, b)


def test_all_products_of_two_bytes(emulated: Emulated) -> None:
    """Each alone in its sum, at each of the four places in turn."""
    a = np.repeat(np.arange(256, dtype=np.uint8), 256)
    b = np.tile(np.arange(-128, 128).astype(np.int8), 256)
    place = np.arange(1 << 16) * 4 + (np.arange(1 << 16) // 7) % 4
    spread = np.zeros(1 << 18, np.int8)
    spread[place] = b
    check_dot_products(emulated, np.zeros((4096, 16), np.int32), np.repeat(a, 4).reshape(4096, 64), spread.reshape(4096, 64))


def test_dot_products_of_any_bytes(emulated: Emulated, level: str) -> None:
    if level not in ANY_BYTES:
        pytest.skip(f"{level} adds pairs of products in 16 bits")
    rng = np.random.default_rng(2)
    acc = rng.integers(-(2**31), 2**31, (4096, 16), np.int32)
    a = rng.integers(0, 256, (4096, 64), np.uint8)
    b = rng.integers(-128, 128, (4096, 64), np.int8)
    a[:64], b[:32], b[32:64] = 255, -128, 127
    check_dot_products(emulated, acc, a, b)


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 7])
def test_int8_tiles_are_exact(emulated: Emulated, rows: int) -> None:
    for groups in (3, 8, 13):
        rng = np.random.default_rng(rows * 100 + groups)
        a = rng.integers(0, 256, (rows, groups * 4), np.uint8)
        b = pair_rule(rng.integers(-128, 128, (3, groups, 16, 4)))
        a[0], b[0, :, 0], b[0, :, 1] = 255, [64, 64, 127, 1], [-128, 0, -64, -64]
        out = np.empty((rows, 48), np.int32)
        emulated("int8_matrix", [a, groups * 4, b, groups * 64, groups, rows, out, 192, 3])
        weights = b.transpose(0, 2, 1, 3).reshape(48, groups * 4)
        assert (out == a.astype(np.int64) @ weights.astype(np.int64).T).all()


@pytest.mark.parametrize("finish", [AS_IT_IS, ADD_RESIDUAL, THROUGH_GELU, THROUGH_GELU_TANH])
@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 7])
def test_tiles_of_a_linear_layer(emulated: Emulated, rows: int, finish: int) -> None:
    rng = np.random.default_rng(rows)
    groups = 13
    a = rng.integers(0, 256, (rows, groups * 4), np.uint8)
    b = pair_rule(rng.integers(-128, 128, (1, groups, 16, 4)))
    weights = b.transpose(0, 2, 1, 3).reshape(16, groups * 4)
    scales, weight_scale = (0.01 + 0.01 * rng.random(count, np.float32) for count in (rows, 16))
    zeros, column_sum = rng.integers(0, 256, rows).astype(np.float32), weights.sum(1, dtype=np.int32)
    bias, residual, out = (
        rng.normal(size=16).astype(np.float32),
        rng.normal(size=(rows, 16)).astype(np.float32),
        np.empty((rows, 16), np.float32),
    )
    tables = [scales, zeros, weight_scale, column_sum, bias, out, 64, residual, np.zeros(1, np.int64)]
    emulated("linear_matrix", [rows, a, groups * 4, b, groups * 64, groups, finish, *tables])
    exact = (a.astype(np.int64) @ weights.T - zeros[:, None] * column_sum.astype(np.float64)) * scales[:, None] * weight_scale + bias
    if finish == ADD_RESIDUAL:
        exact = exact + residual
    if finish == THROUGH_GELU:
        exact = exact * 0.5 * np.vectorize(math.erfc)(-exact / math.sqrt(2))
    if finish == THROUGH_GELU_TANH:
        exact = exact * 0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * (exact + 0.044715 * exact**3)))
    error = {THROUGH_GELU: 2.2e-4, THROUGH_GELU_TANH: 2.2e-4}.get(finish, 1e-6)
    assert np.abs(out - exact).max() <= 4e-7 * np.abs(exact).max() + error


@pytest.mark.parametrize("rows", [1, 2, 4, 5, 6])
def test_float_tiles_are_exact_where_nothing_is_rounded(emulated: Emulated, rows: int) -> None:
    for depth in (3, 8, 13):
        rng = np.random.default_rng(rows * 100 + depth)
        a = rng.integers(-999, 1000, (rows, depth)).astype(np.float32)
        b = rng.integers(-999, 1000, (2, depth, 16)).astype(np.float32)
        out = np.empty((rows, 32), np.float32)
        emulated("float_matrix", [a, depth * 4, b, depth * 64, 64, depth, 2, rows, out, 128])
        assert (out == np.einsum("rk,bkl->rbl", a, b.astype(np.float64)).reshape(rows, 32)).all()

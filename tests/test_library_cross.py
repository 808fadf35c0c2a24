"""The C library for other platforms, linked by zig and run by an emulator at each level: the bytes of this machine.

AArch64 Linux by QEMU, on a processor that has no more than the level needs; Windows by Wine.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pytest
from conftest import LEVELS, ROOT
from test_isa_aarch64 import AARCH64, PROCESSOR, emulator
from test_library import BUNDLED, EXAMPLES

import tinybert_rt as tb
from bench.demo import sentences
from tinybert_rt.aot.library import build_library
from tinybert_rt.aot.targets import target_by_name

LINUX, WINDOWS = "aarch64-linux-musl", "x86_64-windows-gnu"
TEXTS = [text for name in ("LICENSE", "README.md") for text in sentences(ROOT / name)][:50]

pytestmark = pytest.mark.skipif(importlib.util.find_spec("ziglang") is None, reason="ziglang, the cross compiler, is not installed")


@cache
def embed(target: str, folder: Path) -> Path:
    """The embed example, linked with the static library."""
    out = folder / target
    build_library(target_by_name(target), out)
    source = next(path for path in EXAMPLES if path.stem == "embed")
    zig = [sys.executable, "-m", "ziglang", "cc", "-target", target, "-static", "-O2", "-DTBRT_STATIC", f"-I{out}/include"]
    subprocess.run([*zig, source, out / "lib/libtinybert_rt.a", "-o", out / "embed.exe"], check=True)
    return out / "embed.exe"


def wine() -> str:
    """Wine for 64-bit programs; the test is skipped where there is none."""
    path = shutil.which("wine64") or shutil.which("wine")
    if path is None:
        pytest.skip("wine is not installed")
    return path


def check_vectors(command: Sequence[str | Path], level: str, **variables: str) -> None:
    """The command, given the 50 texts, prints the vectors that this machine computes."""
    assert len(TEXTS) == 50
    environment = {**os.environ, "TINYBERT_RT_ISA": level, **variables}
    result = subprocess.run(command, input="\n".join(TEXTS), capture_output=True, text=True, check=True, env=environment)
    expected = [" ".join(f"{value:.9g}" for value in vector) for vector in tb.load().encode(TEXTS, truncation="truncate")]
    assert result.stdout.splitlines() == expected


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cross")


@pytest.mark.parametrize("level", AARCH64)
def test_vectors_on_aarch64(level: str, folder: Path) -> None:
    command = [emulator(), "-cpu", PROCESSOR[level]]
    check_vectors([*command, embed(LINUX, folder), BUNDLED], level)


@pytest.mark.parametrize("level", [level for level in LEVELS if level not in AARCH64])
def test_vectors_on_windows(level: str, folder: Path) -> None:
    command = [wine()]
    model = "Z:" + str(BUNDLED).replace("/", "\\")
    check_vectors([*command, embed(WINDOWS, folder), model], level, WINEPREFIX=str(folder / "wine"), WINEDEBUG="-all")

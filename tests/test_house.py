"""The rules of the house: imports point one way, compiler flags live in one file, importing is light, files stay small."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "tinybert_rt"

# A module may import modules of its own rank or of a lower one.
COMPILERS = {"njit", "jit", "cfunc", "vectorize", "guvectorize", "Flags"}
FLAGS = {"error_model", "boundscheck", "fastmath", "nrt", "no_cpython_wrapper", "no_cfunc_wrapper", "forceinline"}

RANKS = {
    "errors": 0,
    "config": 0,
    "output": 0,
    "isa": 1,
    "kernels": 2,
    "text": 3,
    "format": 3,
    "encoder": 4,
    "engine": 5,
    "aot": 6,
    "vectors": 6,
    "inside": 6,
    "inside_page": 6,
    "ranking": 6,
    "reading": 6,
    "filling": 6,
    "model": 6,
    "opened": 6,
    "tasks": 6,
    "search": 6,
    "cli": 7,
    "integrations": 7,
    "__main__": 8,
}


def sources() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if "_tools" not in path.parts)


def imported_modules(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def rank_of(module: str) -> int:
    parts = module.split(".")
    return RANKS[parts[1]] if len(parts) > 1 else 0


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path: Path) -> None:
    if path == PACKAGE / "__init__.py":
        return
    module = ".".join(("tinybert_rt", *path.relative_to(PACKAGE).with_suffix("").parts))
    for imported in imported_modules(path):
        if imported.startswith("tinybert_rt"):
            assert rank_of(imported) <= rank_of(module), f"{module} imports {imported}"
        assert not imported.startswith(("tools", "distill", "bench", "torch", "transformers")), f"{module} imports {imported}"


def test_compiler_flags_live_in_one_file() -> None:
    for path in sources():
        if path == PACKAGE / "kernels" / "jit.py":
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("numba"):
                assert not {alias.name for alias in node.names} & COMPILERS, f"{path}:{node.lineno}"
            elif isinstance(node, ast.Attribute):
                assert node.attr not in COMPILERS | FLAGS, f"{path}:{node.lineno}"
            elif isinstance(node, ast.keyword):
                assert node.arg not in FLAGS, f"{path}:{node.lineno}"


def test_instruction_sets_are_named_in_isa_only() -> None:
    names = ("avx", "neon", "vnni", "vpdpbusd", "pmadd", "llvm.x86", "llvm.aarch64", "zmm", "ymm")
    for path in sources():
        if path.relative_to(PACKAGE).parts[0] in ("isa", "aot"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Name):
                assert not any(name in node.id.lower() for name in names), f"{path}:{node.lineno}"
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and len(node.value) < 40:
                assert not any(name in node.value.lower() for name in names), f"{path}:{node.lineno}"


@pytest.mark.parametrize("statement", ["import tinybert_rt", "import tinybert_rt; tinybert_rt.load", "import tinybert_rt.cli"])
def test_importing_loads_no_heavy_package(statement: str) -> None:
    code = f"{statement}\nimport sys; print([m for m in ('numba', 'llvmlite', 'torch', 'transformers', 'onnx') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_files_stay_small() -> None:
    for folder in ("tinybert_rt", "tools", "distill", "bench", "tests"):
        for path in (ROOT / folder).rglob("*.py"):
            lines = len(path.read_text(encoding="utf-8").splitlines())
            assert lines <= 450, f"{path} has {lines} lines: does it do one thing?"

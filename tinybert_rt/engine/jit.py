"""Compiled kernels for this machine: emitted in a child process, cached on disk, loaded without Numba.

The object file is the same that the ahead-of-time library is made of. Compiling happens in a process of its own (Numba's
CPU target is patched there, see `engine.emit`), so neither the time nor the memory of Numba is spent here, and the
program's own use of Numba is left alone.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import Any

from tinybert_rt.engine.abi import PREFIX, UNITS
from tinybert_rt.engine.cpus import available_cpus
from tinybert_rt.engine.loader import LoadedObject, loadable
from tinybert_rt.errors import CompileError
from tinybert_rt.isa.levels import IsaLevel, llvm_features

ABI_UNITS = tuple(f"tinybert_rt.engine.exports:{unit}" for unit in UNITS)
CACHE_VARIABLE = "TINYBERT_RT_CACHE"
_MAGIC = b"TBRTOBJ1"
_NO_COMPILER = (
    "this installation has no compiled library (it needs a C compiler when it is installed), and Numba, which would compile the kernels"
    " now, is not installed: pip install numba"
)
_PACKAGE = Path(__file__).resolve().parent.parent
# What machine code is made of: folders and files of the package.
_SOURCES = ("errors.py", "config.py", "isa", "kernels", "text", "format", "encoder", "engine/abi.py", "engine/emit.py", "engine/exports.py")


class CompiledKernels:
    """Object files in memory, ready to call. Keep it alive as long as its addresses are used."""

    def __init__(self, objects: Sequence[bytes]) -> None:
        self._objects: list[LoadedObject] = []
        self._engine: Any = None
        if all(loadable(data) for data in objects):
            self._objects = [LoadedObject(data) for data in objects]
        else:
            self._engine = _load_by_llvm(objects)

    def address(self, name: str) -> int:
        """The address of the exported function `name`."""
        if self._engine is not None:
            return int(self._engine.get_function_address(name))
        for each in self._objects:
            found = each.address(name)
            if found is not None:
                return found
        raise CompileError(f"the compiled kernels have no function {name!r}")


def _load_by_llvm(objects: Sequence[bytes]) -> Any:
    """An engine of LLVM's that holds the objects, for architectures that `engine.loader` does not know."""
    try:
        import llvmlite.binding as llvm
    except ImportError:
        raise CompileError(_NO_COMPILER) from None
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_default_triple().create_target_machine()
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
    for data in objects:
        engine.add_object_file(llvm.ObjectFileRef.from_data(data))
    engine.finalize_object()
    return engine


def load_kernels(level: IsaLevel, *units: str) -> CompiledKernels:
    """The kernels of some units for a level: from the cache, else compiled (and cached where a directory is writable).

    Args:
        level: the instruction-set level.
        units: "module" or "module:unit", see `engine.emit`; without any, those of the ABI.

    Raises CompileError when a compiler process fails.
    """
    return CompiledKernels(object_files(level, units or ABI_UNITS))


def object_files(level: IsaLevel, units: Sequence[str], triple: str = "", prefix: str = PREFIX) -> list[bytes]:
    """The object file of each unit: from the cache, else compiled.

    Args:
        level: the instruction-set level.
        units: "module" or "module:unit", see `engine.emit`.
        triple: LLVM's name of another platform to emit for; empty is this machine.
        prefix: what the names of exported functions begin with.

    Raises CompileError when a compiler process fails.
    """
    options = [*([f"--prefix={prefix}"] if prefix != PREFIX else []), *([f"--triple={triple}"] if triple else [])]
    names = {unit: f"{level.name}-{cache_key(level, unit, options)}.o" for unit in units}
    directory = _cache_directory()
    objects = {unit: None if directory is None else _read(directory / name) for unit, name in names.items()}
    missing = [unit for unit, data in objects.items() if data is None]
    if missing:
        for unit, data in zip(missing, compile_objects(level, missing, options), strict=True):
            objects[unit] = data
            if directory is not None:
                _store(directory, names[unit], data)
    return [data for data in objects.values() if data is not None]


def _cache_directory() -> Path | None:
    """Where compiled kernels are kept: what TINYBERT_RT_CACHE names (empty: nowhere), else the user's cache."""
    chosen = os.environ.get(CACHE_VARIABLE)
    if chosen is not None:
        return Path(chosen) if chosen else None
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(base) / "tinybert_rt"


def cache_key(level: IsaLevel, unit: str, options: Sequence[str] = ()) -> str:
    """The name of a cached object: it changes with whatever the machine code depends on: sources, compiler versions, level."""
    digest = hashlib.sha256()
    versions = [sys.version_info[:2], _version("numba"), _version("llvmlite"), sys.platform]
    digest.update(repr((versions, level.name, llvm_features(level), unit, *options)).encode())
    files = []
    for source in _SOURCES:
        path = _PACKAGE / source
        files += sorted(path.rglob("*.py")) if path.is_dir() else [path]
    module = unit.partition(":")[0]
    if not module.startswith("tinybert_rt."):
        spec = importlib.util.find_spec(module)
        if spec is not None and spec.origin:
            files.append(Path(spec.origin))
    for path in files:
        digest.update(path.name.encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:24]


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "missing"


def _read(path: Path) -> bytes | None:
    """A cached object, or None where there is none or it is damaged."""
    try:
        data = path.read_bytes()
    except OSError:
        return None
    head = len(_MAGIC) + 32
    if data[: len(_MAGIC)] != _MAGIC or hashlib.sha256(data[head:]).digest() != data[len(_MAGIC) : head]:
        return None
    return data[head:]


def _store(directory: Path, name: str, data: bytes) -> None:
    """Keep an object; replaced atomically, so other processes see all or nothing. A warning where that is not possible."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{name}.", dir=directory)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(_MAGIC + hashlib.sha256(data).digest() + data)
            os.replace(temporary, directory / name)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as error:
        warnings.warn(
            f"compiled kernels cannot be kept, so every process compiles them again: {directory}: {error.strerror or error}; "
            f"{CACHE_VARIABLE} names another directory, or none if it is empty",
            RuntimeWarning,
            stacklevel=2,
        )


def compile_objects(level: IsaLevel, units: Sequence[str], options: Sequence[str] = ()) -> list[bytes]:
    """Compile units, each in a child process, side by side; returns their object files. Raises CompileError."""
    if not sys.executable:
        raise CompileError("cannot compile kernels: sys.executable is empty, so no Python process can be started")
    notice = sys.stderr is not None and sys.stderr.isatty()
    if notice:
        print(f"tinybert_rt: compiling kernels for {level.name}, once …", end="", file=sys.stderr, flush=True)
    started = time.perf_counter()
    try:
        with ThreadPoolExecutor(available_cpus()) as pool:
            return list(pool.map(lambda unit: _compile_object(level, unit, options), units))
    finally:
        if notice:
            print(f" {time.perf_counter() - started:.1f} s", file=sys.stderr)


def _compile_object(level: IsaLevel, unit: str, options: Sequence[str]) -> bytes:
    # Isolated, and with this process's own path: a file of the user's current directory must not be imported there.
    code = (
        f"import sys; path, *arguments = sys.argv[1:]; sys.path[:] = path.split({os.pathsep!r}); "
        "from tinybert_rt.engine.emit import main; sys.exit(main(arguments))"
    )
    path = os.pathsep.join([str(_PACKAGE.parent), *(each for each in sys.path if os.path.isabs(each))])
    command = [sys.executable, "-I", "-W", "ignore", "-c", code, path, level.name, unit, *options]
    result = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if result.returncode != 0 or not result.stdout:
        lines = result.stderr.decode(errors="replace").strip().splitlines() or [f"exit status {result.returncode}"]
        if "No module named 'numba" in lines[-1] or "No module named 'llvmlite" in lines[-1]:
            raise CompileError(_NO_COMPILER)
        raise CompileError(f"compiling the kernels for {level.name} failed: {lines[-1]}")
    return result.stdout

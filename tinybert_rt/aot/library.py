"""Kernels and shim into `libtinybert_rt`: shared and static, with the header and what pkg-config and CMake read."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from tinybert_rt import __version__
from tinybert_rt.aot.compiler import C_FLAGS, Compiler, find_compiler, run
from tinybert_rt.aot.header import C_SOURCES, symbol_prefix, write_generated
from tinybert_rt.aot.targets import Target
from tinybert_rt.engine.jit import ABI_UNITS, object_files

SHARED_FLAGS = ("-DTBRT_BUILD_SHARED",)
STATIC_FLAGS = ("-DTBRT_STATIC",)
SHIM = tuple(
    f"{name}.c"
    for name in (
        "library",
        "model",
        "session",
        "encode",
        "masked",
        "reading",
        "inside",
        "tokenize",
        "cpu",
        "messages",
        "system_posix",
        "system_windows",
    )
)


def _link_flags(target: Target, lib: Path) -> list[str]:
    """What makes a shared library of objects."""
    if target.system == "windows":
        return ["-shared", "-s", f"-Wl,--out-implib,{lib / 'tinybert_rt.lib'}"]
    if target.system == "macos":
        return ["-dynamiclib", "-Wl,-install_name,@rpath/libtinybert_rt.dylib"]
    options = ("-soname,libtinybert_rt.so", "--no-undefined", "-z,noexecstack", "--gc-sections")
    return ["-shared", "-pthread", "-s", *(f"-Wl,{option}" for option in options)]


def kernel_objects(target: Target, directory: Path, say: Callable[[str], object]) -> list[Path]:
    """Emit the kernels of all levels of a target; the paths of the object files."""
    paths = []
    for level in target.levels:
        say(f"kernels for {target.name}, {level.name}")
        for unit, data in zip(ABI_UNITS, object_files(level, ABI_UNITS, target.llvm, symbol_prefix(level)), strict=True):
            path = directory / f"{level.name}_{unit.partition(':')[2]}.o"
            path.write_bytes(data)
            paths.append(path)
    return paths


def shim_objects(target: Target, compiler: Compiler, generated: Path, directory: Path, flags: Sequence[str] = SHARED_FLAGS) -> list[Path]:
    """Compile the C files; the paths of the object files, in `directory`."""
    directory.mkdir(exist_ok=True)
    paths = []
    for source in (*(C_SOURCES / name for name in SHIM), generated / "levels.c"):
        path = directory / f"{source.stem}.o"
        run([*compiler.cc, *C_FLAGS, *flags, f"-I{generated}", f"-I{C_SOURCES}", "-c", source, "-o", path])
        paths.append(path)
    return paths


def build_library(target: Target, out: Path, *, objects_only: bool = False, say: Callable[[str], object] = lambda _: None) -> list[Path]:
    """Build the library of a target into a directory: lib/, include/, lib/pkgconfig, lib/cmake.

    Args:
        target: the platform.
        out: the directory; made if needed.
        objects_only: emit the kernels into lib/, and put the C files that go with them into src/, for platforms whose headers no cross
            compiler brings.
        say: called with what is being done.

    Returns the files made. Raises CompileError.
    """
    compiler = None if objects_only else find_compiler(target)
    lib = out / "lib"
    lib.mkdir(parents=True, exist_ok=True)
    if compiler is None:
        return [*kernel_objects(target, lib, say), *_write_sources(target, out)]
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        write_generated(target, work)
        kernels = kernel_objects(target, work, say)
        say(f"compiling and linking {target.shared_name}")
        shared, static = lib / target.shared_name, lib / "libtinybert_rt.a"
        run([*compiler.cc, *_link_flags(target, lib), *shim_objects(target, compiler, work, work / "shared"), *kernels, "-o", shared])
        static.unlink(missing_ok=True)
        run([*compiler.ar, "rcs", static, *shim_objects(target, compiler, work, work / "static", STATIC_FLAGS), *kernels])
        header = _write_header(work, out)
    made = [shared, static, header, *_write_configuration(target, out)]
    return [*made, lib / "tinybert_rt.lib"] if target.system == "windows" else made


def _write_header(generated: Path, out: Path) -> Path:
    header = out / "include" / "tinybert_rt.h"
    header.parent.mkdir(exist_ok=True)
    header.write_bytes((generated / "tinybert_rt.h").read_bytes())
    return header


def _write_sources(target: Target, out: Path) -> list[Path]:
    """The C files of a target, generated ones included, and the public header."""
    sources = out / "src"
    sources.mkdir(exist_ok=True)
    write_generated(target, sources)
    for name in (*SHIM, *(path.name for path in C_SOURCES.glob("*.h"))):
        (sources / name).write_bytes((C_SOURCES / name).read_bytes())
    return [*sorted(sources.iterdir()), _write_header(sources, out)]


def _write_configuration(target: Target, out: Path) -> list[Path]:
    made = []
    threads = "-pthread" if target.system == "linux" else ""
    for template, path in (
        ("tinybert_rt.pc.in", out / "lib" / "pkgconfig" / "tinybert_rt.pc"),
        ("tinybert_rt-config.cmake.in", out / "lib" / "cmake" / "tinybert_rt" / "tinybert_rt-config.cmake"),
        ("tinybert_rt-config-version.cmake.in", out / "lib" / "cmake" / "tinybert_rt" / "tinybert_rt-config-version.cmake"),
    ):
        text = (C_SOURCES / template).read_text(encoding="utf-8")
        for name, value in {"VERSION": __version__, "SHARED": target.shared_name, "THREADS": threads}.items():
            text = text.replace(f"@{name}@", value)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        made.append(path)
    return made

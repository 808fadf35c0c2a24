"""The product as it is installed: the C library with a program on it, and the wheel in an environment with NumPy and cffi only.

Everything is made once per state of the sources, in the folder of the benchmarks, and kept there.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from bench.artefacts import REPOSITORY
from bench.common import RunError

PROGRAM = Path(__file__).with_name("embedded.c")
SOURCES = ("*.py", "*.c", "*.h", "*.in")


def library(work: Path) -> Path:
    """The folder of the C library of this machine, with lib/ and include/. Raises RunError."""
    return _made(work / f"library-{_digest()}", _build_library)


def c_program(work: Path) -> Path:
    """`embedded.c`, linked with the static library. Raises RunError."""
    folder = library(work)
    digest = hashlib.sha256(PROGRAM.read_bytes()).hexdigest()[:8]
    return _made(folder / f"embedded-{digest}", lambda path: _compile(folder, path))


def environment(work: Path) -> Path:
    """The interpreter of an environment that has the wheel, NumPy and cffi. Raises RunError."""
    return _made(work / f"environment-{_digest()}", _build_environment) / "bin" / "python"


class Program:
    """A running `embedded.c`, which waits to be closed."""

    def __init__(self, program: Path, model: Path, threads: int, texts: Sequence[str]) -> None:
        command = [str(program), str(model), str(threads), *texts]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def line(self) -> dict[str, Any]:
        """The next line that it says. Raises RunError."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RunError(f"{PROGRAM.name} ended with exit code {self._process.wait()}")
        return dict(json.loads(line))

    def proc(self, name: str) -> str:
        """A file of /proc about it."""
        return Path(f"/proc/{self._process.pid}/{name}").read_text(encoding="utf-8")

    def close(self) -> None:
        """Let it end."""
        self._process.communicate()


@contextmanager
def programs(program: Path, model: Path, threads: int, texts: Sequence[str], count: int) -> Iterator[list[Program]]:
    """Several of them at a time."""
    with ExitStack() as stack:
        running = []
        for _ in range(count):
            running.append(Program(program, model, threads, texts))
            stack.callback(running[-1].close)
        yield running


def _made(path: Path, build: Callable[[Path], None]) -> Path:
    """`path`, built if it is not there; what fails halfway is removed."""
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        build(path)
    except BaseException:
        shutil.rmtree(path, ignore_errors=True)
        raise
    return path


def _digest() -> str:
    digest = hashlib.sha256((REPOSITORY / "hatch_build.py").read_bytes())
    for pattern in SOURCES:
        for source in sorted((REPOSITORY / "tinybert_rt").rglob(pattern)):
            digest.update(source.read_bytes())
    return digest.hexdigest()[:8]


def _build_library(path: Path) -> None:
    _run([sys.executable, "-m", "tools.build_lib", "--out", str(path)])


def _compile(folder: Path, path: Path) -> None:
    flags = ["-std=c11", "-O2", f"-I{folder}/include"]
    compiler = shlex.split(os.environ.get("CC", "cc"))
    _run([*compiler, *flags, str(PROGRAM), f"{folder}/lib/libtinybert_rt.a", "-pthread", "-o", str(path)])


def _build_environment(path: Path) -> None:
    wheels = path.with_name(f"{path.name}-wheel")
    shutil.rmtree(wheels, ignore_errors=True)
    quiet = ["--quiet", "--disable-pip-version-check"]
    _run([sys.executable, "-m", "pip", "wheel", *quiet, "--no-deps", "--no-build-isolation", "--wheel-dir", str(wheels), "."])
    _run([sys.executable, "-m", "venv", str(path)])
    _run([str(path / "bin" / "python"), "-m", "pip", "install", *quiet, *map(str, wheels.glob("*.whl"))])
    shutil.rmtree(wheels)


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    if done.returncode:
        raise RunError((done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1])

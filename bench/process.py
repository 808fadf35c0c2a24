"""Every system in a process of its own: conversions, and the workers that are timed.

A worker keeps one loaded model and answers requests over a pipe. Apart, the systems cannot share or fight over thread pools, OpenMP
settings or CPU state, and one that aborts (a native library can) is one failed column. With more than one thread an idle worker is
also stopped (SIGSTOP): some runtimes let their threads spin for many milliseconds after a call, which would be charged to the system
that is measured next.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from types import MappingProxyType
from typing import Any

from bench.common import RunError

ANSWER_TIMEOUT_S = 1800.0
EXIT_TIMEOUT_S = 10.0
_SPAWN = multiprocessing.get_context("spawn")
_PR_SET_PDEATHSIG = 1


class Worker:
    """A `factory(*args)` object in a process of its own; `call` runs one of its methods there.

    `log` receives everything the process prints. `stop_when_idle` holds the process between calls.
    """

    def __init__(
        self,
        factory: Callable[..., Any],
        *args: Any,
        log: Path,
        environment: Mapping[str, str] = MappingProxyType({}),
        stop_when_idle: bool = False,
    ):
        self._connection, theirs = _SPAWN.Pipe()
        self._log = log
        self._stop_when_idle = stop_when_idle and hasattr(signal, "SIGSTOP")
        self._process = _SPAWN.Process(target=_serve, args=(theirs, str(log), dict(environment), factory, args), daemon=True)
        self._process.start()
        theirs.close()
        try:
            self._answer()
        except BaseException:
            self.close()
            raise

    def call(self, method: str, *args: Any) -> Any:
        """Run `method(*args)` of the worker's object and return its result; raise `RunError` if it raises or dies."""
        self._signal("SIGCONT")
        try:
            self._connection.send((method, args))
        except OSError:
            raise self._death() from None
        return self._answer()

    def close(self) -> None:
        """End the process: it leaves when the pipe closes, and is killed if it does not."""
        self._signal("SIGCONT")
        self._connection.close()
        self._process.join(EXIT_TIMEOUT_S)
        self._process.kill()
        self._process.join()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _answer(self) -> Any:
        if not self._connection.poll(ANSWER_TIMEOUT_S):
            raise RunError(f"no answer for {ANSWER_TIMEOUT_S:.0f} s (see {self._log})")
        try:
            succeeded, value = self._connection.recv()
        except (EOFError, OSError):
            raise self._death() from None
        self._signal("SIGSTOP")
        if not succeeded:
            raise RunError(value)
        return value

    def _death(self) -> RunError:
        self._process.join(5)
        code = self._process.exitcode
        cause = signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"
        return RunError(f"the process died ({cause}; see {self._log})")

    def _signal(self, name: str) -> None:
        if self._stop_when_idle and self._process.pid is not None and self._process.is_alive():
            os.kill(self._process.pid, getattr(signal, name))


def isolated(function: Callable[..., Any], *args: Any, log: Path) -> Any:
    """Run `function(*args)` in a process of its own, so that what it imports and allocates is gone afterwards."""
    with Worker(_Function, function, log=log) as worker:
        return worker.call("run", *args)


class _Function:
    """A worker's object around one function."""

    def __init__(self, function: Callable[..., Any]):
        self.run = function


def _serve(connection: Connection, log: str, environment: dict[str, str], factory: Callable[..., Any], args: tuple[Any, ...]) -> None:
    _die_with_parent()
    os.environ.update(environment)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    try:
        served = factory(*args)
        connection.send((True, None))
    except Exception as error:
        connection.send((False, _one_line(error)))
        return
    while True:
        try:
            method, arguments = connection.recv()
        except EOFError:
            return
        try:
            answer = (True, getattr(served, method)(*arguments))
        except Exception as error:
            answer = (False, _one_line(error))
        connection.send(answer)


def _die_with_parent() -> None:
    """Linux: a stopped worker must not outlive a parent that was killed."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _one_line(error: Exception) -> str:
    import traceback

    traceback.print_exc()
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {first}"[:300]

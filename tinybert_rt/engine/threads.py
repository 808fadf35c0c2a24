"""Worker threads: how they wait, and the Python threads that each sit inside one native call."""

from __future__ import annotations

import _thread
from typing import Any

from tinybert_rt.engine.declarations import ffi
from tinybert_rt.engine.library import Library
from tinybert_rt.engine.system import system
from tinybert_rt.errors import ThreadStartError


class Helpers:
    """A session's workers beside the caller: daemon threads that each sit inside one native call, `serve`.

    Python runs the handlers of signals in the main thread only, so whatever interrupts the caller leaves them whole.
    """

    def __init__(self, library: Library, session: Any, memory: object) -> None:
        self._library = library
        self._session = session
        self._memory = memory

    def start(self) -> None:
        """Start the threads. Raises ThreadStartError; `close` ends those that have started."""
        workers = int(self._session.workers)
        # A thread keeps the session's memory alive, but not the Session object, whose end ends the threads.
        arguments = (self._library, self._session, self._memory)
        try:
            for worker in range(1, workers):
                # Not threading.Thread: an exception of a signal's handler in the middle of its start would break it.
                _thread.start_new_thread(_serve, (*arguments, worker))
        except RuntimeError as error:
            raise ThreadStartError(f"cannot start {workers - 1} worker threads ({error}): load the model with fewer threads") from None

    def close(self) -> None:
        """Let the threads end."""
        self._library.session_close(self._session)


def _serve(library: Library, session: Any, memory: object, worker: int) -> None:
    library.serve(session, worker)


def prepare_waiting(session: Any) -> None:
    """Give a planned session the system's ways to wait: `sched_yield`, and POSIX semaphores where they can be made."""
    if system is None:
        return
    session.yield_thread = int(ffi.cast("intptr_t", system.sched_yield))
    workers = ffi.cast("kernel_worker *", session.locals)
    for worker in range(int(session.workers)):
        if system.sem_init(ffi.cast("void *", workers[worker].semaphore), 0, 0) != 0:
            return
    session.sleep_thread = int(ffi.cast("intptr_t", system.sem_wait))
    session.wake_thread = int(ffi.cast("intptr_t", system.sem_post))

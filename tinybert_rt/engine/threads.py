"""Worker threads: how they wait, and the Python threads that each sit inside one native call."""

from __future__ import annotations

import threading
from typing import Any

from tinybert_rt.engine.library import Library, ffi
from tinybert_rt.errors import ThreadStartError


class Helpers:
    """A session's workers beside the caller: daemon threads that each sit inside one native call, `tbrt_serve`.

    They see no Python exception and no signal, so whatever interrupts the caller leaves them whole.
    """

    def __init__(self, library: Library, session: Any, memory: object) -> None:
        self._library = library
        self._session = session
        workers = int(session.workers)
        # A thread keeps the session's memory alive, but not the Session object, whose end ends the threads.
        arguments = (library, session, memory)
        try:
            for worker in range(1, workers):
                thread = threading.Thread(target=_serve, args=(*arguments, worker), name=f"tinybert_rt-{worker}", daemon=True)
                thread.start()
        except RuntimeError:
            self.close()
            raise ThreadStartError(f"the system cannot start {workers - 1} worker threads: load the model with fewer threads") from None
        except BaseException:  # of a signal's handler
            self.close()
            raise

    def close(self) -> None:
        """Let the threads end."""
        self._library.session_close(self._session)


def _serve(library: Library, session: Any, memory: object, worker: int) -> None:
    library.serve(session, worker)


def prepare_waiting(session: Any) -> None:
    """Give a planned session the system's ways to wait: `sched_yield`, and POSIX semaphores where they can be made."""
    if _system is None:
        return
    session.yield_thread = int(ffi.cast("intptr_t", _system.sched_yield))
    workers = ffi.cast("tbrt_worker *", session.locals)
    for worker in range(int(session.workers)):
        if _system.sem_init(ffi.cast("void *", workers[worker].semaphore), 0, 0) != 0:
            return
    session.sleep_thread = int(ffi.cast("intptr_t", _system.sem_wait))
    session.wake_thread = int(ffi.cast("intptr_t", _system.sem_post))


def _load_system() -> Any:
    """The C library's functions, or None where they are not found."""
    finder = ffi.__class__()
    finder.cdef("int sched_yield(void); int sem_init(void *, int, unsigned); int sem_wait(void *); int sem_post(void *);")
    try:
        system = finder.dlopen(None)
        if all(hasattr(system, name) for name in ("sched_yield", "sem_init", "sem_wait", "sem_post")):
            return system
    except OSError:
        pass
    return None


_system = _load_system()

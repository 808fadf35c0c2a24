"""Sessions: an arena, its plan and its workers. A model keeps idle ones for the next call."""

from __future__ import annotations

import os
import threading
import weakref
from typing import Any

import numpy as np

from tinybert_rt.engine.library import Library, ffi
from tinybert_rt.engine.threads import Helpers, prepare_waiting


def address(array: np.ndarray) -> int:
    """The address of an array's first element."""
    return int(array.__array_interface__["data"][0])  # quicker than array.ctypes


class Session:
    """Everything that one call of `encode` needs at a time; used by one caller at a time."""

    def __init__(self, library: Library, model: Any, workers: int) -> None:
        self.library = library
        self.struct = ffi.new("tbrt_session *")
        self.request = ffi.new("tbrt_request *")
        size = int(library.session_plan(self.struct, model, 0, workers))
        # Untouched pages of the arena cost no memory: np.empty leaves them to the system.
        self._arena = np.empty(size + 64, np.uint8)
        start = -(-address(self._arena) // 64) * 64
        library.session_plan(self.struct, model, start, workers)
        self._process = os.getpid()
        self._alone = workers == 1
        if not self._alone:
            prepare_waiting(self.struct)
            helpers = Helpers(library, self.struct, self._arena)
            weakref.finalize(self, _close, helpers, self._process)

    @property
    def usable(self) -> bool:
        """False in a child process that inherited the session without its threads."""
        return self._alone or self._process == os.getpid()

    def run(self) -> int:
        """Encode one group of the request; returns the status."""
        return int(self.library.encode(self.struct, self.request))


def _close(helpers: Helpers, process: int) -> None:
    """End a session's threads; a child of a fork has none of them."""
    if process == os.getpid():
        helpers.close()


class SessionPool:
    """Idle sessions of one model. Several threads may take sessions; memory stays with the most that ran at once."""

    def __init__(self, library: Library, model: Any, workers: int) -> None:
        self._library = library
        self._model = model
        self._workers = workers
        self._idle: list[Session] = []
        self._lock = threading.Lock()
        self._process = os.getpid()

    def take(self) -> Session:
        """An idle session, or a new one."""
        if self._process != os.getpid():
            # After a fork the lock may be held by a thread that does not exist here, and the threads are gone.
            self._lock = threading.Lock()
            self._idle = [session for session in self._idle if session.usable]
            self._process = os.getpid()
        with self._lock:
            if self._idle:
                return self._idle.pop()
        return Session(self._library, self._model, self._workers)

    def give_back(self, session: Session) -> None:
        """Keep a session for the next call."""
        with self._lock:
            self._idle.append(session)

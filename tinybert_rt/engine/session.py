"""Sessions: an arena, its plan and its workers. A model keeps idle ones for the next call."""

from __future__ import annotations

import os
import weakref
from typing import Any

import numpy as np

from tinybert_rt.engine.declarations import ffi
from tinybert_rt.engine.few import Few
from tinybert_rt.engine.library import Library
from tinybert_rt.engine.threads import Helpers, prepare_waiting


def address(array: np.ndarray) -> int:
    """The address of an array's first element."""
    return int(array.__array_interface__["data"][0])  # quicker than array.ctypes


class Session:
    """Everything that one call of `encode` needs at a time; used by one caller at a time."""

    def __init__(self, library: Library, model: Any, workers: int) -> None:
        self.library = library
        self.struct = ffi.new("kernel_session *")
        self.request = ffi.new("kernel_request *")
        size = int(library.session_plan(self.struct, model, 0, workers))
        # Untouched pages of the arena cost no memory: np.empty leaves them to the system.
        self._arena = np.empty(size + 64, np.uint8)
        start = -(-address(self._arena) // 64) * 64
        library.session_plan(self.struct, model, start, workers)
        self.few = Few(model)
        self._born = _forks
        self._alone = workers == 1
        if not self._alone:
            prepare_waiting(self.struct)
            helpers = Helpers(library, self.struct, self._arena)
            # Not at exit: the threads are daemons, and a session without them would wait for ever in a later exit handler.
            weakref.finalize(self, _close, helpers, _forks).atexit = False
            helpers.start()

    @property
    def usable(self) -> bool:
        """False in a child process that inherited the session without its threads."""
        return self._alone or self._born == _forks

    def run(self, request: Any = None) -> int:
        """Encode one group of the session's own request, or of one of `self.few`; returns the status."""
        return self.library.encode(self.struct, self.request if request is None else request)  # type: ignore[no-any-return]


_forks = 0
"""How often this process is the child of a fork of one that had sessions."""


def _forked() -> None:
    global _forks
    _forks += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


def _close(helpers: Helpers, born: int) -> None:
    """End a session's threads; a child of a fork has none of them."""
    if born == _forks:
        helpers.close()


class _Taken:
    """A session of a pool, in a with statement. (A generator would take longer than a short text in a small model.)"""

    __slots__ = ("_pool", "_session")

    def __init__(self, pool: SessionPool) -> None:
        self._pool = pool

    def __enter__(self) -> Session:
        self._session = self._pool.take()
        return self._session

    def __exit__(self, *_: object) -> None:
        self._pool.give_back(self._session)


class SessionPool:
    """Idle sessions of one model. Several threads may take sessions; memory stays with the most that ran at once."""

    def __init__(self, library: Library, model: Any, workers: int) -> None:
        self._library = library
        self._model = model
        self._workers = workers
        self._idle: list[Session] = []

    def take(self) -> Session:
        """An idle session, or a new one."""
        # list.pop and list.append are atomic: no lock that a fork could leave behind locked.
        while self._idle:
            try:
                session = self._idle.pop()
            except IndexError:
                break
            if session.usable:
                return session
        return Session(self._library, self._model, self._workers)

    def taken(self) -> _Taken:
        """An idle session, or a new one, for a with statement."""
        return _Taken(self)

    def give_back(self, session: Session) -> None:
        """Keep a session for the next call."""
        self._idle.append(session)

"""How workers meet: jobs that wake the helpers, and a barrier that spins and yields the processor in turn.

The caller's own thread is worker 0. The others, the helpers, sit inside `serve` (see `encoder.batch`) from the session's start to
its end. They wait for a job by spinning for a moment, so that calls in quick succession find them awake, and then sleep.
"""

from __future__ import annotations

from tinybert_rt.encoder.structs import WAIT, Session, Worker
from tinybert_rt.kernels.jit import inline, kernel
from tinybert_rt.kernels.memory import (
    atomic_add,
    atomic_exchange,
    atomic_load,
    atomic_store,
    call_callback,
    clock,
    load_i64,
    spin_hint,
    store_i64,
)

_SPINS_PER_YIELD = 128
"""Two workers may find themselves on one processor, and stay there while others are busy: then each spin delays the one waited for."""

_SPINS_FOR_A_JOB = 4000
_COUNT_OFFSET = Session.fields["barrier_count"].offset
_GENERATION_OFFSET = Session.fields["barrier_generation"].offset
_JOB_OFFSET = Session.fields["job"].offset
_CLOSING_OFFSET = Session.fields["closing"].offset
_ASLEEP_OFFSET = Worker.fields["asleep"].offset


@inline
def mark(local, stage):  # type: ignore[no-untyped-def]
    """Count the time since this worker's last mark as that of a stage, where a trace is wanted."""
    if local.trace != 0:
        _add_time(local.trace, stage)


@kernel
def _add_time(trace, stage):  # type: ignore[no-untyped-def]
    now = clock()
    if stage >= 0:
        at = trace + 8 * (1 + stage)
        store_i64(at, load_i64(at) + now - load_i64(trace))
    store_i64(trace, now)


@inline
def meet(session, local, workers, stage):  # type: ignore[no-untyped-def]
    """A barrier behind a stage."""
    mark(local, stage)
    if workers > 1:
        barrier(session, workers)
        mark(local, WAIT)


@kernel
def barrier(session, workers):  # type: ignore[no-untyped-def]
    """Return when all `workers` have called it. What they wrote before is visible after."""
    count = session.address + _COUNT_OFFSET
    generation = session.address + _GENERATION_OFFSET
    entered = atomic_load(generation)
    if atomic_add(count, 1) == workers - 1:
        atomic_store(count, 0)
        atomic_store(generation, entered + 1)
        return
    spins = 0
    while atomic_load(generation) == entered:
        spins += 1
        _pause(session, spins)


@inline
def _pause(session, spins):  # type: ignore[no-untyped-def]
    if spins & (_SPINS_PER_YIELD - 1) != 0 or session.yield_thread == 0:
        spin_hint()
    else:
        call_callback(session.yield_thread, 0)


@kernel
def give_job(session):  # type: ignore[no-untyped-def]
    """Start all helpers of a session on `session.request`, or on ending if `session.closing` is set."""
    atomic_add(session.address + _JOB_OFFSET, 1)
    if session.wake_thread == 0:
        return
    for worker in range(1, session.workers):
        local = session.locals[worker]
        if atomic_exchange(local.address + _ASLEEP_OFFSET, 0) != 0:
            call_callback(session.wake_thread, local.semaphore)


@kernel
def wait_for_job(session, local, done):  # type: ignore[no-untyped-def]
    """Return when there is another job than number `done`, with its number."""
    job = session.address + _JOB_OFFSET
    spins = 0
    while atomic_load(job) == done:
        if spins < _SPINS_FOR_A_JOB or session.sleep_thread == 0:
            spins += 1
            _pause(session, spins)
            continue
        asleep = local.address + _ASLEEP_OFFSET
        atomic_store(asleep, 1)
        # A job given before the flag was seen would not wake this worker; if the giver has taken the flag back, it does.
        if atomic_load(job) != done and atomic_exchange(asleep, 0) != 0:
            break
        while call_callback(session.sleep_thread, local.semaphore) != 0:
            pass  # a signal's handler ran in this thread
    return atomic_load(job)


@kernel
def close_session(session):  # type: ignore[no-untyped-def]
    """Let all helpers return from `serve`, once no job runs."""
    atomic_store(session.address + _CLOSING_OFFSET, 1)
    give_job(session)
    return 0


@inline
def share(items, worker, workers):  # type: ignore[no-untyped-def]
    """First and last+1 of the items that fall to a worker: contiguous, sizes differ by one at most."""
    return items * worker // workers, items * (worker + 1) // workers

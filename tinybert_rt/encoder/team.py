"""How workers meet: a barrier that spins briefly and then yields the processor."""

from __future__ import annotations

from tinybert_rt.encoder.structs import Session
from tinybert_rt.kernels.jit import inline, kernel
from tinybert_rt.kernels.memory import atomic_add, atomic_load, atomic_store, call_callback, spin_hint

_SPINS = 2000
_COUNT_OFFSET = Session.fields["barrier_count"].offset
_GENERATION_OFFSET = Session.fields["barrier_generation"].offset


@kernel
def barrier(session, workers):  # type: ignore[no-untyped-def]
    """Return when all `workers` have called it. What they wrote before is visible after."""
    if workers == 1:
        return
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
        if spins < _SPINS or session.yield_thread == 0:
            spin_hint()
        else:
            call_callback(session.yield_thread)


@inline
def share(items, worker, workers):  # type: ignore[no-untyped-def]
    """First and last+1 of the items that fall to a worker: contiguous, sizes differ by one at most."""
    return items * worker // workers, items * (worker + 1) // workers

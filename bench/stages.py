"""Where the time of our encoder goes, stage by stage, and how near its matrix products come to the int8 peak.

    python -m bench.stages --models tiny,base --tokens 16,128 --threads 1,2 --picture stages.png --json stages.json

One text of so many tokens at a time. Calls are timed without the trace, then made with it: each worker counts the clock's ticks between
the marks of `encoder.structs.STAGES`. A stage's time is its share of the ticks, averaged over the workers, of the median time of a call.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import tinybert_rt
from bench import artefacts, options
from bench.checkpoint import make_ids, open_checkpoint
from bench.common import (
    RunError,
    describe_header,
    header,
    read_anew,
    render_table,
    summarize,
    three_digits,
    timed_burst,
    warm_up,
    write_json,
    write_text,
)
from bench.compare import percent, threads_in_words, title
from bench.peak import measure_peak
from bench.peers import MODELS
from bench.process import isolated
from bench.runners import Ours
from bench.shape import Cell, Shape, stage_macs
from tinybert_rt.encoder.structs import STAGES
from tinybert_rt.engine.declarations import ffi
from tinybert_rt.engine.session import address
from tinybert_rt.isa.levels import choose_level

LAST_MARK_S = 0.05  # a helper makes its last mark after the call has returned


def main(arguments: list[str] | None = None) -> int:
    """Measure as the command line says; return the exit status."""
    chosen = parse(arguments)
    chosen.work = chosen.work.resolve()
    level = choose_level(chosen.isa).name
    settings = {"threads": ",".join(map(str, chosen.threads)), "isa": level, "seconds": chosen.seconds}
    result = header(("tinybert-rt", "numpy", "numba"), **settings) | {"stages": list(STAGES), "cells": []}
    peak = 0.0
    for model in chosen.models:
        shape, checkpoint, work = open_checkpoint(model, chosen.work)
        try:
            path = isolated(artefacts.ours_int8, checkpoint, work, log=work / "log.txt")["tbrt"]
        except RunError as error:
            print(f"bench.stages: {shape.name}: {error}", file=sys.stderr)
            return 1
        for threads in chosen.threads:
            read_anew(path)
            runner = Ours(path, threads, level)
            for tokens in (tokens for tokens in chosen.tokens if tokens <= shape.max_positions):
                print(f"{shape.name} {tokens}, {threads_in_words(threads)}", file=sys.stderr, flush=True)
                peak = max(peak, measure_peak(level))
                result["cells"].append(_measure(shape, Cell(1, tokens), runner, chosen.seconds))
    result["peak_gmacs"] = round(peak, 2)
    for cell in result["cells"]:
        cell["of_int8_peak"] = round(cell["gmacs_per_s"] / (peak * cell["threads"]), 4)
    text = "\n\n".join([describe_header(result), _share_table(result["cells"]), _product_table(result["cells"])])
    print(text)
    write_text(chosen.markdown, text + "\n")
    write_json(chosen.json, result)
    if chosen.picture:
        from bench.pictures import draw_stages

        draw_stages(result, chosen.picture)
    return 0


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line's options."""
    parser = argparse.ArgumentParser(prog="python -m bench.stages", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", type=options.models, default=list(MODELS), help="shapes or checkpoint directories (default: all five)")
    parser.add_argument("--tokens", type=options.positives, default=[16, 128, 512], help="lengths of the text (default: 16,128,512)")
    parser.add_argument("--threads", type=options.positives, default=[1, 2], help="numbers of threads (default: 1,2)")
    parser.add_argument("--seconds", type=float, default=1.0, help="of calls per cell, without and with the trace each (default: 1)")
    parser.add_argument("--isa", help="instruction-set level (default: the best of this machine)")
    parser.add_argument("--json", type=Path, help="write everything measured here")
    parser.add_argument("--markdown", type=Path, help="write the printed tables here")
    parser.add_argument("--picture", type=Path, help="draw the shares here, as PNG (needs matplotlib)")
    parser.add_argument("--work", type=Path, default=Path("build/bench"), help="cache of what is converted (default: build/bench)")
    return parser.parse_args(arguments)


class Trace:
    """Counts the ticks of each stage while it is entered: `ticks` is int64 [workers][stages] afterwards.

    Only one caller may use the model meanwhile, so that it gets the session that is traced.
    """

    def __init__(self, model: tinybert_rt.Model) -> None:
        self._model = model
        self._marks = np.zeros((model.threads, 1 + len(STAGES)), np.int64)

    @property
    def ticks(self) -> np.ndarray:
        return self._marks[:, 1:]

    def __enter__(self) -> Trace:
        self._set([address(row) for row in self._marks])
        return self

    def __exit__(self, *_: object) -> None:
        time.sleep(LAST_MARK_S)
        self._set([0] * len(self._marks))

    def _set(self, addresses: list[int]) -> None:
        session = self._model._pool.take()
        workers = ffi.cast("kernel_worker *", session.struct.locals)
        for worker, trace in enumerate(addresses):
            workers[worker].trace = trace
        self._model._pool.give_back(session)


def _measure(shape: Shape, cell: Cell, runner: Ours, seconds: float) -> dict[str, Any]:
    call = runner.prepare(make_ids(shape, cell, seed=0))
    burst = partial(timed_burst, call, warm_up(call))
    plain = summarize(_for_seconds(seconds, burst))
    trace = Trace(runner.model)
    with trace:
        traced = summarize(_for_seconds(seconds, burst))
    shares = (trace.ticks / trace.ticks.sum(axis=1, keepdims=True)).mean(axis=0)
    times_s = dict(zip(STAGES, (shares * plain.median).tolist(), strict=True))
    macs = stage_macs(shape, *cell)
    return {
        "model": shape.name,
        "batch": cell.batch,
        "tokens": cell.tokens,
        "threads": runner.model.threads,
        "ms": plain.as_dict(scale=1e3),
        "traced_ms": round(traced.median * 1e3, 6),
        "gmacs_per_s": round(sum(macs.values()) / plain.median * 1e-9, 3),
        "shares": {stage: round(share, 5) for stage, share in zip(STAGES, shares.tolist(), strict=True)},
        "stage_gmacs_per_s": {stage: round(count / times_s[stage] * 1e-9, 3) for stage, count in macs.items() if times_s[stage]},
    }


def _for_seconds(seconds: float, burst: Callable[[], list[float]]) -> list[float]:
    samples: list[float] = []
    end = time.perf_counter() + seconds
    while not samples or time.perf_counter() < end:
        samples += burst()
    return samples


def _share_table(cells: list[dict[str, Any]]) -> str:
    rows = []
    for cell in cells:
        row = [title(cell), str(cell["threads"]), three_digits(cell["ms"]["median"]), three_digits(cell["gmacs_per_s"])]
        rows.append([*row, percent(cell["of_int8_peak"]), *(f"{100 * cell['shares'][stage]:.1f}" for stage in STAGES)])
    return "Time by stage, in %\n\n" + render_table(["model, batch × tokens", "threads", "ms", "GMAC/s", "of peak", *STAGES], rows)


def _product_table(cells: list[dict[str, Any]]) -> str:
    stages = list(cells[0]["stage_gmacs_per_s"]) if cells else []
    rows = [
        [title(cell), str(cell["threads"]), *(three_digits(cell["stage_gmacs_per_s"].get(stage)) for stage in stages)] for cell in cells
    ]
    return "GMAC/s inside the stages with matrix products\n\n" + render_table(["model, batch × tokens", "threads", *stages], rows)


if __name__ == "__main__":
    sys.exit(main())

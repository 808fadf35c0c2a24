"""Is the compiled library as fast as the kernels that are compiled on this machine?

    python -m bench.engines --models tiny,mini,small,minilm-l6,base --threads 1,2

Both engines run in one process on the same model file, in interleaved rounds; a ratio above 1 means that the library is the slower one.
"""

from __future__ import annotations

import argparse
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import tinybert_rt
from bench import artefacts, options
from bench.checkpoint import make_ids, open_checkpoint
from bench.common import (
    describe_header,
    flatten,
    geometric_mean,
    header,
    interleave,
    paired_ratio,
    render_table,
    summarize,
    three_digits,
    timed_burst,
    warm_up,
    write_json,
    write_text,
)
from bench.compare import threads_in_words
from bench.installed import library
from bench.peers import MODELS
from bench.process import isolated
from tinybert_rt.engine.native import LIBRARY_VARIABLE

ENGINES = ("native", "jit")


def main(arguments: list[str] | None = None) -> int:
    """Measure as the command line says; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.engines", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", type=options.models, default=list(MODELS), help=f"shapes or directories (default: {','.join(MODELS)})")
    parser.add_argument("--cells", type=options.cells, help="as 1x16,32x128 (default: the shape's own)")
    parser.add_argument("--threads", type=options.positives, default=[1, 2], help="as 1,2 (the default)")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each cell (default: 4)")
    parser.add_argument("--json", type=Path, help="write everything measured here")
    parser.add_argument("--markdown", type=Path, help="write the printed table here")
    parser.add_argument("--work", type=Path, default=Path("build/bench"), help="cache of what is converted (default: build/bench)")
    chosen = parser.parse_args(arguments)
    chosen.work = chosen.work.resolve()
    os.environ[LIBRARY_VARIABLE] = str(library(chosen.work) / "lib" / "libtinybert_rt.so")
    result: dict[str, Any] = header(("tinybert-rt", "numpy", "numba"), threads=",".join(map(str, chosen.threads)), seconds=chosen.seconds)
    result["cells"] = []
    for name in chosen.models:
        shape, checkpoint, work = open_checkpoint(name, chosen.work)
        path = isolated(artefacts.ours_int8, checkpoint, work, log=work / "log.txt")["tbrt"]
        for threads in chosen.threads:
            models = {engine: tinybert_rt.load(path, threads=threads, engine=engine) for engine in ENGINES}
            for cell in chosen.cells or shape.cells:
                found = measure(models, make_ids(shape, cell, seed=1), chosen.seconds)
                result["cells"].append({"model": shape.name, "cell": str(cell), "threads": threads, **found})
                print(
                    f"{shape.name} {cell}, {threads_in_words(threads)}: {found['native_over_jit']['median']}", file=sys.stderr, flush=True
                )
    ratios = [cell["native_over_jit"]["median"] for cell in result["cells"]]
    result["geometric_mean"] = round(geometric_mean(ratios) or 0, 4)
    text = "\n\n".join([describe_header(result), _table(result["cells"]), f"Geometric mean: {three_digits(result['geometric_mean'])}"])
    print(text)
    write_text(chosen.markdown, text + "\n")
    write_json(chosen.json, result)
    return 0


def measure(models: dict[str, tinybert_rt.Model], ids: np.ndarray, seconds: float) -> dict[str, Any]:
    """The ms of a call of each engine, and the ratio, for token ids (batch, tokens)."""
    flat = ids.astype(np.int32).ravel()
    offsets = np.arange(0, ids.size + 1, ids.shape[1], dtype=np.int64)
    calls = {engine: partial(model.encode_ids, flat, offsets) for engine, model in models.items()}
    if not (calls["native"]() == calls["jit"]()).all():
        raise RuntimeError("the engines' vectors are not the same bytes")
    visits = {engine: partial(timed_burst, call, warm_up(call)) for engine, call in calls.items()}
    rounds = interleave(visits, budget_s=seconds, max_rounds=1000)
    times = {f"{engine}_ms": summarize(flatten(rounds[engine])).as_dict(1e3) for engine in ENGINES}
    return {**times, "native_over_jit": paired_ratio(rounds["native"], rounds["jit"]).as_dict(digits=4)}


def _table(cells: list[dict[str, Any]]) -> str:
    columns = ["model, batch × tokens", "threads", "library, ms", "JIT, ms", "library / JIT", "middle half"]
    rows = []
    for cell in cells:
        ratio = cell["native_over_jit"]
        times = [cell[f"{engine}_ms"]["median"] for engine in ENGINES]
        middle = f"{three_digits(ratio['q1'])}–{three_digits(ratio['q3'])}"
        name = f"{cell['model']} {cell['cell'].replace('x', '×')}"
        rows.append([name, str(cell["threads"]), *map(three_digits, times), three_digits(ratio["median"]), middle])
    return render_table(columns, rows)


if __name__ == "__main__":
    sys.exit(main())

"""Encoder speed and accuracy side by side with other CPU runtimes, in one interleaved run.

    python -m bench.peers --models tiny,minilm-l6 --cells 1x16,1x128 --threads 1,2 --markdown peers.md --json peers.json

Every system gets the same weights and the same token ids, all of them real tokens. A model is the name of a file in `shapes/`
(random weights, seeded) or the directory of a BERT checkpoint. The times of peers are the encoder's run alone; ours is the public
Python call and includes pooling. Cosines compare mean-pooled vectors with those of PyTorch in float32. See README.md.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench import compare, options, report
from bench.checkpoint import make_ids, open_checkpoint
from bench.common import RunError, Stats, flatten, header, interleave, summarize, write_json, write_text
from bench.contestants import Build, Contestant, available, loaded, make_builds, report_problems, say
from bench.peak import measure_peak
from bench.runners import Bench
from bench.shape import Cell, Shape, macs, shape_names
from bench.systems import DEFAULT_SYSTEMS, PACKAGES, REFERENCE, SYSTEMS
from tinybert_rt.errors import TinyBertError

CHECK_TEXTS = 4  # at least so many texts behind every cosine
MODELS = ("tiny", "mini", "small", "minilm-l6", "base")
PEAK = "int8 peak"  # its name among the systems of a round


@dataclass(frozen=True)
class Accuracy:
    """Cosines of sentence vectors against the reference, over the check texts."""

    minimum: float
    mean: float


def main(arguments: list[str] | None = None) -> int:
    """Measure as the command line says; return the exit status."""
    chosen = parse(arguments)
    chosen.work = chosen.work.resolve()
    chosen.work.mkdir(parents=True, exist_ok=True)
    settings = {"threads": ",".join(map(str, chosen.threads)), "isa": chosen.isa or "auto", "rounds": chosen.repeats}
    result: dict[str, Any] = header(PACKAGES, **settings, budget_s=chosen.budget)
    result |= {"peak_gmacs": None, "skipped": {}, "failed": {}, "cells": []}
    names = available(chosen.peers, result["skipped"])
    if REFERENCE not in names and SYSTEMS[REFERENCE].missing() is None:
        names.append(REFERENCE)
    for model in chosen.models:
        _measure_model(model, names, chosen, result)
        result["peak_gmacs"] = max((cell["peak_gmacs"] for cell in result["cells"] if cell["peak_gmacs"]), default=None)
        result["means"] = report.means_by_threads(result["cells"])
        write_json(chosen.json, result)
    text = report.markdown(result)
    print(text)
    write_text(chosen.markdown, text + "\n")
    return 0


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line's options."""
    parser = argparse.ArgumentParser(prog="python -m bench.peers", description=(__doc__ or "").splitlines()[0])
    models_help = f"of {', '.join(shape_names())}, or checkpoint directories (default: all of these)"
    parser.add_argument("--models", type=options.models, default=list(MODELS), help=models_help)
    parser.add_argument("--cells", type=options.cells, help="batch x tokens, for example 1x16,32x128 (default: the shape's own)")
    parser.add_argument("--threads", type=options.positives, default=[1], help="threads of every system, for example 1,2 (default: 1)")
    parser.add_argument("--peers", type=options.names(SYSTEMS), default=list(DEFAULT_SYSTEMS), help=f"systems: {', '.join(SYSTEMS)}")
    parser.add_argument("--repeats", type=options.positive, default=40, help="rounds over all systems, at most (default: 40)")
    parser.add_argument("--budget", type=float, default=30.0, help="seconds of rounds per cell, about (default: 30)")
    parser.add_argument("--isa", help="instruction-set level for ours (default: the best of this machine)")
    parser.add_argument("--peak", type=float, help="the int8 peak of one core in GMAC/s (default: measured in the rounds of each cell)")
    parser.add_argument("--json", type=Path, help="write everything measured here, after each model")
    parser.add_argument("--markdown", type=Path, help="write the printed tables here")
    parser.add_argument("--work", type=Path, default=Path("build/bench"), help="cache of what is converted (default: build/bench)")
    return parser.parse_args(arguments)


def _measure_model(model: str, names: list[str], chosen: argparse.Namespace, result: dict[str, Any]) -> None:
    """Every cell of a model with every number of threads, added to the result."""
    failed = result["failed"]
    shape, checkpoint, work = open_checkpoint(model, chosen.work)
    cells = [cell for cell in chosen.cells or shape.cells if cell.tokens <= shape.max_positions]
    builds = make_builds(names, shape.name, checkpoint, work, failed)
    for threads in chosen.threads:
        title = f"{shape.name}, {compare.threads_in_words(threads)},"

        def factory(build: Build, threads: int = threads) -> tuple[Any, ...]:
            return Bench, SYSTEMS[build.system].runner, build.path, threads, chosen.isa

        settings: dict[str, Any] = {"log": work / "log.txt", "threads": threads, "environment": {"TOKENIZERS_PARALLELISM": "false"}}
        with loaded(builds, factory, title=title, failed=failed, **settings) as contestants:
            for cell in cells:
                say(f"{title} {cell}")
                result["cells"].append(_measure(shape, cell, threads, contestants, chosen))
                report_problems(contestants, f"{title} {cell}", failed)


def _measure(shape: Shape, cell: Cell, threads: int, contestants: list[Contestant], chosen: argparse.Namespace) -> dict[str, Any]:
    """One cell: accuracy first, then warm-up and the interleaved rounds; of a system's variants the fastest counts."""
    vectors = _check_vectors(shape, cell, contestants)
    timed = [contestant for contestant in contestants if contestant.system in chosen.peers]
    ids = make_ids(shape, cell, seed=0)
    ready = [contestant for contestant in timed if contestant.succeeds("begin", ids)]
    visits = {contestant.key: partial(contestant.call, "visit") for contestant in ready} | _peak_visit(chosen, threads)
    rounds = interleave(visits, budget_s=chosen.budget, max_rounds=chosen.repeats)
    peaks = flatten(rounds.pop(PEAK, [])) or [chosen.peak]
    stats = {key: summarize(flatten(samples)) for key, samples in rounds.items()}
    reference = next((vectors[c.key] for c in contestants if c.system == REFERENCE and c.key in vectors), None)
    systems: dict[str, Any] = {}
    best: dict[str, Contestant] = {}
    for contestant in sorted((c for c in timed if c.key in stats), key=lambda c: stats[c.key].median):
        best.setdefault(contestant.system, contestant)
    for name in (name for name in chosen.peers if name in best):
        fastest = best[name]
        accuracy = _accuracy(vectors.get(fastest.key), reference)
        others = {c.variant: round(stats[c.key].median * 1e3, 6) for c in timed if c.system == name and c.key in stats}
        systems[name] = _system_entry(fastest, stats[fastest.key], accuracy, others)
    work = macs(shape, *cell)
    entry = {"model": shape.name, "batch": cell.batch, "tokens": cell.tokens, "threads": threads}
    entry |= {"macs_linear": work.linear, "macs_attention": work.attention, "systems": systems}
    entry["unrelated_cosine"] = None if reference is None else _largest_cosine_between_texts(reference)
    entry["peak_gmacs"] = None if peaks[0] is None else round(statistics.median(peaks), 2)
    return entry | compare.limit(entry) | compare.ratios(systems, {name: rounds[fastest.key] for name, fastest in best.items()})


def _peak_visit(chosen: argparse.Namespace, threads: int) -> dict[str, Callable[[], list[float]]]:
    """The int8 peak of one core in GMAC/s as one more that is visited in each round; none where it is given or cannot be compiled."""
    if chosen.peak:
        return {}
    try:
        measure_peak(chosen.isa, threads, runs=1)
    except TinyBertError as error:
        say(f"no int8 peak: {error}")
        return {}
    return {PEAK: lambda: [measure_peak(chosen.isa, threads, runs=1)]}


def _check_vectors(shape: Shape, cell: Cell, contestants: list[Contestant]) -> dict[str, np.ndarray]:
    """Sentence vectors of the check texts by contestant, in batches of the cell's size (a neighbour may matter to a peer)."""
    batches = [make_ids(shape, cell, seed=seed) for seed in range(-(-CHECK_TEXTS // cell.batch))]
    vectors = {}
    for contestant in contestants:
        try:
            vectors[contestant.key] = contestant.call("vectors", batches)
        except RunError:
            continue
    return vectors


def _system_entry(chosen: Contestant, stats: Stats, accuracy: Accuracy | None, variants_ms: dict[str, float]) -> dict[str, Any]:
    entry: dict[str, Any] = {"variant": chosen.variant, "ms": stats.as_dict(scale=1e3), "info": chosen.info}
    if len(variants_ms) > 1:
        entry["variants_ms"] = variants_ms
    if accuracy is not None:
        entry |= {"cosine_min": accuracy.minimum, "cosine_mean": accuracy.mean}
    return entry


def _accuracy(vectors: np.ndarray | None, reference: np.ndarray | None) -> Accuracy | None:
    if vectors is None or reference is None:
        return None
    cosines = compare.cosines(vectors, reference)
    return Accuracy(float(cosines.min()), float(cosines.mean()))


def _largest_cosine_between_texts(vectors: np.ndarray) -> float:
    """The yardstick beside the cosines: how alike two different texts can look to the reference."""
    units = compare.unit(vectors)
    return float((units @ units.T)[~np.eye(len(vectors), dtype=bool)].max())


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    sys.exit(main())

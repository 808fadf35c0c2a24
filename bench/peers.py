"""Encoder speed and accuracy side by side with other CPU runtimes, in one interleaved run.

    python -m bench.peers --models tiny,minilm-l6 --cells 1x16,1x128 --threads 1 --markdown peers.md --json peers.json

Every system gets the same weights and the same token ids, all of them real tokens. A model is the name of a file in `shapes/`
(random weights, seeded) or the directory of a BERT checkpoint. The times of peers are the encoder's run alone; ours is the public
Python call and includes pooling. Cosines compare mean-pooled vectors with those of PyTorch in float32. See README.md.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench import report
from bench.checkpoint import checkpoint_name, make_ids, write_checkpoint
from bench.common import RunError, Stats, flatten, header, interleave, paired_ratio, summarize, write_json, write_text
from bench.process import Worker, isolated
from bench.runners import Bench
from bench.shape import Cell, Shape, load_shape, macs, parse_cells, shape_names, shape_of_checkpoint
from bench.systems import DEFAULT_SYSTEMS, OURS, PACKAGES, REFERENCE, SYSTEMS

CHECK_TEXTS = 4  # at least so many texts behind every cosine


@dataclass
class Contestant:
    """One variant of one system, loaded in its worker."""

    system: str
    variant: str
    worker: Worker
    info: dict[str, Any]
    problems: list[str] = field(default_factory=list)

    @property
    def key(self) -> str:
        return f"{self.system}/{self.variant}"

    def call(self, method: str, *args: Any) -> Any:
        """The worker's method; a failure is kept in `problems` and raised again."""
        try:
            return self.worker.call(method, *args)
        except RunError as error:
            self.problems.append(str(error))
            raise


@dataclass(frozen=True)
class Accuracy:
    """Cosines of sentence vectors against the reference, over the check texts."""

    minimum: float
    mean: float


def main(arguments: list[str] | None = None) -> int:
    """Measure as the command line says; return the exit status."""
    options = _parse(arguments)
    options.work = options.work.resolve()
    options.work.mkdir(parents=True, exist_ok=True)
    settings = {"threads": options.threads, "isa": options.isa or "auto", "rounds": options.repeats, "budget_s": options.budget}
    result: dict[str, Any] = header(PACKAGES, **settings)
    result |= {"skipped": {}, "failed": {}, "cells": []}
    names = _available(options.peers, result["skipped"])
    for model in options.models:
        shape, checkpoint, work = _checkpoint(model, options.work)
        wanted = options.cells or shape.cells
        cells = [cell for cell in wanted if cell.tokens <= shape.max_positions]
        with _contestants(names, shape, checkpoint, work, options, result["failed"]) as contestants:
            for cell in cells:
                _say(f"{shape.name} {cell}")
                result["cells"].append(_measure(shape, cell, contestants, options, result["failed"]))
    result["summary"] = report.summary(result["cells"])
    text = report.markdown(result, peak_gmacs=options.peak)
    print(text)
    write_text(options.markdown, text + "\n")
    write_json(options.json, result)
    return 0


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.peers", description=(__doc__ or "").splitlines()[0])

    def names(known: tuple[str, ...]) -> Any:
        def parse(text: str) -> list[str]:
            words = [word for word in text.split(",") if word]
            unknown = [word for word in words if word not in known]
            if unknown or not words:
                raise argparse.ArgumentTypeError(f"{text!r}: choose from {', '.join(known)}")
            return words

        return parse

    def models(text: str) -> list[str]:
        words = [word for word in text.split(",") if word]
        unknown = [word for word in words if word not in shape_names() and not (Path(word) / "config.json").is_file()]
        if unknown or not words:
            raise argparse.ArgumentTypeError(f"{text!r}: choose from {', '.join(shape_names())}, or give checkpoint directories")
        return words

    def cells(text: str) -> tuple[Cell, ...]:
        try:
            return parse_cells(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    def positive(text: str) -> int:
        if not text.isdigit() or not int(text):
            raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
        return int(text)

    parser.add_argument("--models", type=models, default=["tiny", "minilm-l6", "base"], help="shapes or checkpoint directories")
    parser.add_argument("--cells", type=cells, help="batch x tokens, for example 1x16,32x128 (default: the shape's own)")
    parser.add_argument("--threads", type=positive, default=1, help="threads of every system (default: 1)")
    parser.add_argument("--peers", type=names(tuple(SYSTEMS)), default=list(DEFAULT_SYSTEMS), help=f"systems: {', '.join(SYSTEMS)}")
    parser.add_argument("--repeats", type=positive, default=40, help="rounds over all systems, at most (default: 40)")
    parser.add_argument("--budget", type=float, default=30.0, help="seconds of rounds per cell, about (default: 30)")
    parser.add_argument("--isa", help="instruction-set level for ours (default: the best of this machine)")
    parser.add_argument("--peak", type=float, help="the machine's int8 GMAC/s with these threads, to print the int8 limit")
    parser.add_argument("--json", type=Path, help="write everything measured here")
    parser.add_argument("--markdown", type=Path, help="write the printed tables here")
    parser.add_argument("--work", type=Path, default=Path("build/bench"), help="cache of what is converted (default: build/bench)")
    return parser.parse_args(arguments)


def _available(wanted: list[str], skipped: dict[str, str]) -> list[str]:
    names = []
    for name in wanted:
        missing = SYSTEMS[name].missing()
        if missing is None:
            names.append(name)
        else:
            skipped[name] = f"{missing} is not installed"
            _say(f"{name}: skipped, {skipped[name]}")
    return names


def _checkpoint(model: str, work: Path) -> tuple[Shape, Path, Path]:
    """The model's shape, its checkpoint and the folder for what is made from it."""
    if model in shape_names():
        shape = load_shape(model)
        folder = work / checkpoint_name(shape)
        folder.mkdir(parents=True, exist_ok=True)
        return shape, write_checkpoint(shape, folder / "checkpoint"), folder
    checkpoint = Path(model).resolve()
    shape = shape_of_checkpoint(checkpoint)
    weights = checkpoint / "model.safetensors"
    folder = work / f"{checkpoint.parent.name}-{checkpoint.name}-{weights.stat().st_mtime_ns:x}"
    folder.mkdir(parents=True, exist_ok=True)
    return shape, checkpoint, folder


@contextmanager
def _contestants(
    names: list[str], shape: Shape, checkpoint: Path, work: Path, options: argparse.Namespace, failed: dict[str, str]
) -> Iterator[list[Contestant]]:
    """Convert for and load every system; those that fail are named in `failed`. The reference is loaded even if it is not timed."""
    if REFERENCE not in names and SYSTEMS[REFERENCE].missing() is None:
        names = [*names, REFERENCE]
    environment = {"OMP_NUM_THREADS": str(options.threads), "TOKENIZERS_PARALLELISM": "false"}
    log = work / "log.txt"
    with ExitStack() as stack:
        contestants = []
        for name in names:
            system = SYSTEMS[name]
            _say(f"{shape.name}: {system.label}")
            try:
                for variant, path in isolated(system.build, checkpoint, work, log=log).items():
                    worker = Worker(
                        *(Bench, system.runner, path, options.threads, options.isa),
                        log=log,
                        environment=environment,
                        stop_when_idle=options.threads > 1,
                    )
                    stack.enter_context(worker)
                    contestants.append(Contestant(name, variant, worker, worker.call("info")))
            except RunError as error:
                failed[f"{shape.name} {name}"] = str(error)
                _say(f"{name}: failed, {error}")
        yield contestants


def _measure(
    shape: Shape, cell: Cell, contestants: list[Contestant], options: argparse.Namespace, failed: dict[str, str]
) -> dict[str, Any]:
    """One cell: accuracy first, then warm-up and the interleaved rounds; of a system's variants the fastest counts."""
    vectors = _check_vectors(shape, cell, contestants)
    timed = [contestant for contestant in contestants if contestant.system in options.peers]
    ids = make_ids(shape, cell, seed=0)
    ready = [contestant for contestant in timed if _succeeds(contestant, "begin", ids)]
    visits = {contestant.key: partial(contestant.call, "visit") for contestant in ready}
    rounds = interleave(visits, budget_s=options.budget, max_rounds=options.repeats)
    for contestant in timed:
        for problem in contestant.problems:
            failed[f"{shape.name} {cell} {contestant.key}"] = problem
        contestant.problems.clear()

    stats = {key: summarize(flatten(samples)) for key, samples in rounds.items()}
    reference = next((vectors[c.key] for c in contestants if c.system == REFERENCE and c.key in vectors), None)
    systems: dict[str, Any] = {}
    best: dict[str, Contestant] = {}
    for contestant in sorted((c for c in timed if c.key in stats), key=lambda c: stats[c.key].median):
        best.setdefault(contestant.system, contestant)
    for name in (name for name in options.peers if name in best):
        chosen = best[name]
        accuracy = _accuracy(vectors.get(chosen.key), reference)
        others = {c.variant: round(stats[c.key].median * 1e3, 6) for c in timed if c.system == name and c.key in stats}
        systems[name] = _system_entry(chosen, stats[chosen.key], accuracy, others)
    work = macs(shape, *cell)
    entry = {"model": shape.name, "batch": cell.batch, "tokens": cell.tokens, "threads": options.threads}
    entry |= {"macs_linear": work.linear, "macs_attention": work.attention, "systems": systems}
    entry["unrelated_cosine"] = None if reference is None else _largest_cosine_between_texts(reference)
    return entry | _ratios(systems, {name: rounds[chosen.key] for name, chosen in best.items()})


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


def _succeeds(contestant: Contestant, method: str, *args: Any) -> bool:
    if contestant.problems:
        return False
    try:
        contestant.call(method, *args)
    except RunError:
        return False
    return True


def _system_entry(chosen: Contestant, stats: Stats, accuracy: Accuracy | None, variants_ms: dict[str, float]) -> dict[str, Any]:
    entry: dict[str, Any] = {"variant": chosen.variant, "ms": stats.as_dict(scale=1e3), "info": chosen.info}
    if len(variants_ms) > 1:
        entry["variants_ms"] = variants_ms
    if accuracy is not None:
        entry |= {"cosine_min": accuracy.minimum, "cosine_mean": accuracy.mean}
    return entry


def _ratios(systems: dict[str, Any], rounds: dict[str, list[list[float]]]) -> dict[str, Any]:
    """Peer time / our time, for the fastest peer and for ONNX Runtime int8: of the medians, and paired by round."""
    peers = [name for name in systems if name != OURS]
    best_peer = min(peers, key=lambda name: systems[name]["ms"]["median"], default=None)
    ratios: dict[str, Any] = {"best_peer": best_peer}
    for key, peer in (("best_peer_over_ours", best_peer), ("ort_int8_over_ours", "ort-int8")):
        if OURS in systems and peer in systems:
            ratios[key] = round(systems[peer]["ms"]["median"] / systems[OURS]["ms"]["median"], 4)
            ratios[f"{key}_by_round"] = paired_ratio(rounds[peer], rounds[OURS]).as_dict(digits=4)
    return ratios


def _accuracy(vectors: np.ndarray | None, reference: np.ndarray | None) -> Accuracy | None:
    if vectors is None or reference is None:
        return None
    cosines = (_unit(vectors) * _unit(reference)).sum(axis=1)
    return Accuracy(float(cosines.min()), float(cosines.mean()))


def _largest_cosine_between_texts(vectors: np.ndarray) -> float:
    """The yardstick beside the cosines: how alike two different texts can look to the reference."""
    cosines = _unit(vectors) @ _unit(vectors).T
    return float(cosines[~np.eye(len(vectors), dtype=bool)].max())


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    sys.exit(main())

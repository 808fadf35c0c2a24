"""Search: how good the hits are, how fast an index is made, how long an exact search takes.

    python -m bench.search --data DATA --json search.json
    python -m bench.search --data DATA --parts scifact,indexing,scan

scifact: NDCG@10 by vectors, by words and by both, beside vectors of `transformers` in float32 of the same passages; of whole documents too.
indexing: files to a finished index, beside the bare encoder on the same passages, and beside ONNX Runtime int8 and the `tokenizers` package
writing their vectors into the same tables: in batches of 256 in order, as fastembed does, and in sorted ones of 32; in interleaved
rounds. scan: exact search among many vectors, made of real ones with noise.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from bench import options
from bench.checkpoint import PACKAGE, open_checkpoint, packaged_checkpoint
from bench.common import describe_header, header, interleave, paired_ratio, write_json
from bench.contestants import make_builds, say
from bench.process import Worker
from bench.search_jobs import IndexJob, OursJob, PeerJob, candidates, scifact, wiki_files
from bench.systems import OURS

PARTS = ("scifact", "indexing", "scan")
PACKAGES = ("tinybert-rt", "apsw", "onnxruntime", "tokenizers", "sqlite-vec", "usearch", "transformers", "numpy")


def main(arguments: list[str] | None = None) -> int:
    """Measure as the command line says; return the exit status: 2 without a checkpoint."""
    parser = argparse.ArgumentParser(prog="python -m bench.search", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder with the datasets (default: ../shared/data)")
    parser.add_argument("--parts", type=options.names(PARTS), default=list(PARTS), help=f"of {', '.join(PARTS)} (default: all)")
    parser.add_argument("--threads", type=options.positive, default=2, help="threads of every system (default: 2)")
    parser.add_argument("--passages", type=options.positive, default=9999, help="of the indexing, in three rounds (default: 9999)")
    parser.add_argument("--vectors", type=options.positive, default=1_000_000, help="of the scan (default: 1000000)")
    parser.add_argument("--json", type=Path, help="write everything measured here, after each part")
    parser.add_argument("--work", type=Path, default=Path("build/bench"), help="cache of what is converted (default: build/bench)")
    chosen = parser.parse_args(arguments)
    checkpoint = packaged_checkpoint()
    if checkpoint is None:
        print(f"bench.search: the package {PACKAGE.replace('_', '-')} is not installed", file=sys.stderr)
        return 2
    result: dict[str, Any] = header(PACKAGES, threads=chosen.threads, passages=chosen.passages, vectors=chosen.vectors)
    print(describe_header(result))
    measures: dict[str, Callable[[], dict[str, Any]]] = {
        "scifact": partial(_scifact, chosen.data, checkpoint, chosen.threads),
        "indexing": partial(_indexing, chosen, checkpoint),
        "scan": partial(_scan, chosen.vectors, chosen.threads),
    }
    for part in chosen.parts:
        say(part)
        result[part] = measures[part]()
        print(part, result[part])
        write_json(chosen.json, result)
    return 0


def _scifact(data: Path, checkpoint: Path, threads: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        return scifact(data, checkpoint, Path(folder), threads)


def _indexing(chosen: argparse.Namespace, checkpoint: Path) -> dict[str, Any]:
    shape, checkpoint, work = open_checkpoint(str(checkpoint), chosen.work.resolve())
    builds = {each.system: each for each in make_builds([OURS, "ort-int8"], shape.name, checkpoint, work, {})}
    log = work / "log.txt"
    environment = {"OMP_NUM_THREADS": str(chosen.threads), "RAYON_NUM_THREADS": str(chosen.threads), "TOKENIZERS_PARALLELISM": "true"}
    with tempfile.TemporaryDirectory() as name:
        rounds = wiki_files(chosen.data, Path(name), chosen.passages // 3, 3)
        worker = partial(Worker, log=log, environment=environment, stop_when_idle=True)
        ours, peer = builds[OURS].path, builds["ort-int8"].path
        with (
            worker(OursJob, ours, chosen.threads) as bare,
            worker(IndexJob, ours, chosen.threads) as whole,
            worker(PeerJob, peer, checkpoint / "tokenizer.json", chosen.threads, True) as plain,
            worker(PeerJob, peer, checkpoint / "tokenizer.json", chosen.threads, False) as careful,
        ):
            workers = {"encoder": bare, "index": whole, "plain": plain, "careful": careful}
            for each in workers.values():
                each.call("run", rounds[0][0], rounds[0][1][:64])
            left = {key: iter(rounds) for key in workers}

            def visit(key: str, process: Worker) -> list[float]:
                folder, passages = next(left[key])
                return [process.call("run", folder, passages)]

            visits = {key: partial(visit, key, process) for key, process in workers.items()}
            seconds = interleave(visits, budget_s=1e9, max_rounds=3)
    count = sum(len(passages) for _, passages in rounds)
    return {
        "passages": count,
        "passages_per_s": {name: round(count / sum(map(sum, each)), 1) for name, each in seconds.items()},
        "share_of_encoder": paired_ratio(seconds["encoder"], seconds["index"]).as_dict(digits=4),
        "plain_over_ours": paired_ratio(seconds["plain"], seconds["index"]).as_dict(digits=4),
        "careful_over_ours": paired_ratio(seconds["careful"], seconds["index"]).as_dict(digits=4),
    }


def _scan(count: int, threads: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        return candidates(Path(folder), count, threads)


if __name__ == "__main__":
    sys.exit(main())

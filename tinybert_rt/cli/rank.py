"""`tinybert-rt rank`: the lines of a file that answer a query best."""

from __future__ import annotations

import argparse
import heapq
import json
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from .common import UsageError, lines_of, load, name_of, note_truncation, open_input, progress, runs

if TYPE_CHECKING:
    from tinybert_rt.model import Model
    from tinybert_rt.vectors import Encoded


def add(commands: Any) -> None:
    """Its arguments."""
    rank = commands.add_parser("rank", help="the lines of a file that answer a query best")
    rank.add_argument("query")
    rank.add_argument("file", help="a text a line; '-' is standard input")
    rank.add_argument("--top", type=int, default=10, help="lines to print (default: 10)")
    rank.add_argument("--model", help="a .tbrt file; default: the bundled model")
    rank.add_argument("--method", choices=("auto", "vectors", "pairs"), default="auto", help="auto: pairs where the model scores pairs")
    rank.add_argument("--json", action="store_true", help="one JSON object a line")
    runs(rank, _rank)


def _rank(options: argparse.Namespace) -> None:
    if options.top < 1:
        raise UsageError(f"--top must be at least 1, not {options.top}")
    name = name_of(options.file)
    with open_input(options.file) as file:
        model = load(options.model, options)
        best = best_lines(model, options.query, lines_of(file, name), options.top, options.method)
    if not best:
        raise UsageError(f"{name}: no texts")
    for score, number, line in best:
        if options.json:
            print(json.dumps({"score": round(score, 6), "line": number, "text": line}, ensure_ascii=False))
        else:
            print(f"{score:.4f}  {number:>6}  {line}")


def best_lines(model: Model, query: str, lines: Iterator[str], top: int, method: str) -> list[tuple[float, int, str]]:
    """The `top` lines that `Model.rank` would put first: (score, line number, line), best first; blank lines are skipped."""
    from tinybert_rt.engine.texts import utf8
    from tinybert_rt.ranking import chosen_method, cosine_similarity, pair_scores

    utf8(query, "the query")
    truncated = 0
    method = chosen_method(model, method)
    best: list[tuple[float, int, str]] = []
    waiting: list[tuple[int, str]] = []

    def remembered() -> Iterator[str]:
        for number, line in enumerate(lines, 1):
            if line.strip():
                waiting.append((number, line))
                yield line

    def by_vectors() -> Iterator[Encoded]:
        asked = model.encode_detailed([query], truncation="truncate")
        if asked.truncated[0]:
            print(f"tinybert-rt: the query had more than {model.max_tokens} tokens and was truncated", file=sys.stderr)
        for group in model.stream(remembered()):
            yield group._replace(vectors=cosine_similarity(group.vectors, asked.vectors[0]))

    with progress() as show:
        done = 0
        for group in pair_scores(model, query, remembered()) if method == "pairs" else by_vectors():
            scores = group.vectors
            for score, (number, line) in zip(scores.tolist(), waiting, strict=False):
                entry = (score, -number, line)
                if len(best) < top:
                    heapq.heappush(best, entry)
                else:
                    heapq.heappushpop(best, entry)
            del waiting[: len(scores)]
            done += len(scores)
            truncated += int(group.truncated.sum())
            show(done)
    note_truncation(truncated, done, model)
    return [(score, -number, line) for score, number, line in sorted(best, reverse=True)]

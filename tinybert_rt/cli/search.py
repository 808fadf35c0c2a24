"""`tinybert-rt index` and `tinybert-rt search`: folders in, answers out, in one SQLite file."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from .common import UsageError, on_one_line, runs, status_line, warnings_as_notes

if TYPE_CHECKING:
    from tinybert_rt.search import Hit, Index, Progress, Report

_BOLD = "\033[1m", "\033[0m"
_PLAIN = "»", "«"


def add(commands: Any) -> None:
    """Their arguments."""
    index = commands.add_parser("index", help="make files and folders searchable, or bring an index up to date")
    index.add_argument("paths", nargs="+", help="files, and folders with all below them: text, Markdown, HTML, PDF, jsonl, csv, tsv")
    index.add_argument("--db", required=True, help="the index: one SQLite file, made where there is none")
    index.add_argument("--model", help="a .tbrt file; default: the bundled model")
    index.add_argument("--remove", action="store_true", help="take the paths out of the index instead; they need not be there")
    index.add_argument("--text", help="of rows: the column of the text (default: the usual names)")
    index.add_argument("--title", help="of rows: the column of the title")
    index.add_argument("--dtype", choices=("int8", "float32", "binary"), help="of the vectors of a new index (default: int8)")
    index.add_argument("--passage-tokens", type=int, help="of a passage at most, in a new index (default: the model's limit)")
    index.add_argument("--overlap", type=int, help="tokens that neighbouring passages share at most, in a new index (default: 32)")
    runs(index, _index)
    search = commands.add_parser("search", help="the passages of an index that answer a query best")
    search.add_argument("db", help="the index")
    search.add_argument("query")
    search.add_argument("--top", type=int, default=5, help="passages to print (default: 5)")
    search.add_argument("--method", choices=("hybrid", "vectors", "words"), default="hybrid", help="default: both, fused")
    search.add_argument("--path", help="only this file or folder, or those that a pattern with * and ? fits")
    search.add_argument("--after", help="only files changed since: 2024-05-31")
    search.add_argument("--before", help="only files changed before")
    search.add_argument(
        "--where", action="append", default=[], metavar="NAME=VALUE", help="only passages with this metadata; may be repeated"
    )
    search.add_argument("--per-document", action="store_true", help="only the best passage of each file")
    search.add_argument("--rerank", metavar="MODEL", help="a cross-encoder that puts the best passages in order")
    search.add_argument("--model", help="the model that the index was made with, if it is not the bundled one")
    search.add_argument("--json", action="store_true", help="one JSON object a line")
    runs(search, _search)


def _open(path: str, options: argparse.Namespace, **more: Any) -> Index:
    from tinybert_rt import model
    from tinybert_rt.search import Index

    opened = model.load(options.model, threads=options.threads, isa=options.isa)
    return Index(path, model=opened, **more)


def _index(options: argparse.Namespace) -> None:
    if options.remove:
        with _open(options.db, options, create=False) as index:
            print(f"{index.remove(options.paths):,} removed")
            print(_size(index))
        return
    with (
        _open(options.db, options, dtype=options.dtype, passage_tokens=options.passage_tokens, overlap=options.overlap) as index,
        _shown() as show,
    ):
        try:
            report = index.update(options.paths, text=options.text, title=options.title, progress=show)
        except KeyboardInterrupt:
            print(
                f"tinybert-rt: interrupted: {index.info()['passages']:,} passages are in {options.db}; the same command goes on",
                file=sys.stderr,
            )
            raise
        size = _size(index)
    named = {os.path.abspath(path) for path in options.paths}
    for path, problem in report.problems:
        if path not in named:
            print(f"tinybert-rt: {path}: {problem}", file=sys.stderr)
    print(_summary(report))
    print(size)
    fatal = [f"{path}: {problem}" for path, problem in report.problems if path in named]
    if fatal:
        raise UsageError("; ".join(fatal))


def _size(index: Index) -> str:
    facts = index.info()
    counts = [f"{facts[name]:,} {unit}{'s' * (facts[name] != 1)}" for name, unit in (("documents", "file"), ("passages", "passage"))]
    return f"{facts['path']}: {', '.join(counts)}"


def _summary(report: Report) -> str:
    parts = [f"{report.added:,} new", f"{report.changed:,} changed", f"{report.unchanged:,} unchanged", f"{report.removed:,} removed"]
    if report.problems:
        parts.append(f"{len(report.problems):,} not read")
    speed = report.passages / report.seconds if report.seconds else 0
    return f"{', '.join(parts)}; {report.passages:,} passages in {report.seconds:.1f} s, {speed:,.0f} a second"


@contextmanager
def _shown() -> Iterator[Callable[[Progress], None] | None]:
    """Progress on a terminal; nothing in a pipe."""
    with status_line() as line:
        yield None if line is None else lambda progress: line(lambda: _state(progress))


def _state(progress: Progress) -> str:
    files = f"{progress.documents:,}" + (f" of {progress.total:,}" if progress.total is not None else "")
    text = f"{files} files, {progress.passages:,} passages, {progress.passages / max(progress.seconds, 1e-9):,.0f} a second"
    if progress.share:
        left = progress.seconds * (1 - progress.share) / progress.share
        text += f", {progress.share:.0%}, {int(left) // 60}:{int(left) % 60:02} left"
    return text


def _search(options: argparse.Namespace) -> None:
    where = {}
    for each in options.where:
        name, equals, value = each.partition("=")
        if not equals or not name:
            raise UsageError(f"--where {each}: write NAME=VALUE")
        where[name] = value
    if options.top < 1:
        raise UsageError(f"--top must be at least 1, not {options.top}")
    rerank = None
    if options.rerank is not None:
        from tinybert_rt import model

        rerank = model.load(options.rerank, threads=options.threads, isa=options.isa)
    with warnings_as_notes(), _open(options.db, options, create=False) as index:
        hits = index.search(
            options.query,
            top=options.top,
            method=options.method,
            path=options.path,
            after=options.after,
            before=options.before,
            where=where,
            per_document=options.per_document,
            rerank=rerank,
        )
    for hit in hits:
        print(_as_json(hit) if options.json else _as_text(hit))
    if not hits:
        print("tinybert-rt: nothing was found", file=sys.stderr)


def _as_json(hit: Hit) -> str:
    facts = {"path": hit.path, "line": hit.line, "score": hit.score, "cosine": hit.cosine, "bm25": hit.bm25, "title": hit.title}
    return json.dumps({**facts, "text": hit.text, "mark": hit.mark, "metadata": dict(hit.metadata)}, ensure_ascii=False)


def _as_text(hit: Hit) -> str:
    """Where it is, its title, and the passage with the part that answers best marked."""
    begin, end = _BOLD if sys.stdout.isatty() else _PLAIN
    path = os.path.relpath(hit.path) if os.path.isabs(hit.path) else hit.path
    where = path if path.count("..") < 3 else hit.path
    head = f"{where}:{hit.line}  {hit.score:.4f}" + (f"  {on_one_line(hit.title)}" if hit.title else "")
    first, last = hit.mark or (0, 0)
    parts = [on_one_line(" ".join(each.split())) for each in (hit.text[:first], hit.text[first:last], hit.text[last:])]
    marked = f"{begin}{parts[1]}{end}" if parts[1] else ""
    return f"{head}\n    {' '.join(part for part in (parts[0], marked, parts[2]) if part)}\n"

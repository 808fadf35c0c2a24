"""The index: one SQLite file with passages, their words and their vectors. Documents in, hits out."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tinybert_rt.engine.arguments import between, one_of
from tinybert_rt.engine.library import Library
from tinybert_rt.engine.texts import utf8
from tinybert_rt.errors import ForkedError, IndexFileError, IndexModelError, InvalidArgumentError
from tinybert_rt.model import Model, load
from tinybert_rt.opened import warn_of_truncation
from tinybert_rt.ranking import cosine_similarity

from . import query, schema
from .documents import Hit
from .passages import Splitter
from .sources import Record, find_files, is_utf8, record
from .store import Store
from .update import OnProgress, Report, Updater, only_writer
from .vectors import DTYPES, ROWS, Block, Packing, best, scan
from .words import by_words

if TYPE_CHECKING:
    from numpy.typing import NDArray

METHODS = ("hybrid", "vectors", "words")
_CACHE_BYTES = 2 << 30
_DEPTH = 100
"""candidates of each kind at least"""
_RERANKED = 4
"""candidates for each hit that is asked for"""
_DEEPEST = 10_000
"""candidates of each kind at most, where more are needed to have enough documents"""
_RESCORED = 8
"""candidates by signs for each hit that is asked for"""
_READ_BYTES = 128 << 20
"""vectors that are read at a time where the cache has no room for them"""


class Index:
    """An index of passages in one SQLite file. Close it, or use `with`.

    Threads may share it: one is at work at a time, so to search during an update open the file a second time. After a fork open it anew.

    Args:
        path: the file; it is made where there is none, unless `create` is False.
        model: a `Model`, or the path of a `.tbrt` file; None is the bundled one. The index remembers which one it was made with.
        dtype: how vectors are stored in a new index: "int8", "float32", or "binary" (signs first, then int8). Kept by the file.
        passage_tokens: tokens of a passage at most, special tokens included; in a new index. None is the model's own limit.
        overlap: tokens that neighbouring passages share at most, in a new index.
        threads: of encoding and scanning; None is all that the process may use.

    Raises IndexFileError, IndexVersionError, IndexModelError, InvalidArgumentError, InvalidTextError.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        model: Model | str | os.PathLike[str] | None = None,
        create: bool = True,
        dtype: str | None = None,
        passage_tokens: int | None = None,
        overlap: int | None = None,
        threads: int | None = None,
    ) -> None:
        self.path = Path(os.path.abspath(os.fsdecode(path)))
        self._given, self._threads = model, threads
        self._lock = threading.RLock()
        self._process = os.getpid()
        self._closed = False
        if dtype is not None:
            one_of("dtype", dtype, tuple(DTYPES))
        if create and not self.path.parent.is_dir():
            raise IndexFileError(f"{path}: there is no such directory to write to")
        if create and not self.path.exists():
            self._new_settings(dtype, passage_tokens, overlap)  # refused before there is a file
        self._connection = schema.connect(self.path, create=create)
        try:
            with self._entered():
                self._settings(dtype, passage_tokens, overlap)
        except BaseException:
            self._connection.close()
            raise
        self._blocks: dict[int, tuple[int, Block]] = {}

    def _settings(self, dtype: str | None, passage_tokens: int | None, overlap: int | None) -> None:
        """Read what the file keeps, or write it into a new one."""
        store = Store(self._connection, Packing("int8", 1))
        if store.setting("dtype") is None:
            values = self._new_settings(dtype, passage_tokens, overlap)
            with store.writing():
                if store.setting("dtype") is None:  # another process may have been first
                    for name, value in values.items():
                        store.set(name, value)
        kept = {name: store.setting(name) for name in ("dtype", "passage_tokens", "overlap", "dim", "model", "fingerprint")}
        for name, asked in (("dtype", dtype), ("passage_tokens", passage_tokens), ("overlap", overlap)):
            if asked is not None and asked != kept[name]:
                raise IndexModelError(f"{self.path}: has {name} {kept[name]!r}, not {asked!r}: leave it out, or make a new index")
        self._store = Store(self._connection, Packing(kept["dtype"], kept["dim"]))
        self.passage_tokens, self.overlap = int(kept["passage_tokens"]), int(kept["overlap"])
        self._model_name, self._fingerprint = kept["model"], kept["fingerprint"]

    @contextmanager
    def _entered(self) -> Iterator[None]:
        """The file, while it is open, for one thread at a time, in the process that opened it. Raises IndexFileError, ForkedError."""
        if os.getpid() != self._process:
            raise ForkedError(f"{self.path}: was opened before this process was forked: open it again here")
        with self._lock, schema.clear_errors(self.path):
            if self._closed:
                raise IndexFileError(f"{self.path}: is closed: open it again")
            yield

    def _new_settings(self, dtype: str | None, passage_tokens: int | None, overlap: int | None) -> dict[str, Any]:
        """What a new index keeps. Raises InvalidArgumentError."""
        model = self._given_model
        tokens = model.max_tokens if passage_tokens is None else between("passage_tokens", passage_tokens, 16, model.max_tokens)
        shared = min(32, tokens // 4) if overlap is None else between("overlap", overlap, 0, tokens // 2)
        values = {"dim": model.dim, "dtype": dtype or "int8", "passage_tokens": tokens, "overlap": shared}
        return values | {"model": model.info()["name"], "fingerprint": model.fingerprint}

    # ------------------------------------------------------------ the model

    @cached_property
    def _given_model(self) -> Model:
        """The model that was given, opened when it is first needed."""
        given = self._given
        return given if isinstance(given, Model) else load(given, threads=self._threads)

    @cached_property
    def model(self) -> Model:
        """The model whose vectors the index has. Raises IndexModelError if another one was given."""
        model = self._given_model
        if model.fingerprint != self._fingerprint:
            was = self._model_name or "another file"
            raise IndexModelError(
                f"{self.path}: its vectors were made by another model ({was}, {self._fingerprint[:12]}…) than"
                f" {model.path} ({model.fingerprint[:12]}…): give that one, or index anew"
            )
        return model

    @cached_property
    def _library(self) -> Library:
        return self.model._library

    # ------------------------------------------------------------ documents

    def update(
        self,
        paths: Iterable[str | os.PathLike[str]],
        *,
        text: str | None = None,
        title: str | None = None,
        progress: OnProgress | None = None,
    ) -> Report:
        """Bring the index up to date with files and folders.

        Files whose content did not change are passed over, changed ones replaced, and those that are gone from the folders removed. (A
        path that is not there at all, and a folder in which no file is left, is a problem in the report and removes nothing, since a disk
        may not be mounted: see `remove`.) What is written is committed every few hundred passages; interrupted at any moment, the next
        update goes on.

        Args:
            paths: files, and folders with all below them but names that begin with a dot.
            text, title: columns of `.jsonl`, `.csv` and `.tsv` files; None: the usual names.
            progress: called for each file and each group of passages; returning False cancels, and what is written stays.

        Raises CancelledError; IndexWriteError: another process updates the index, or the disk is full. Files that cannot be read are in the
        report.
        """
        paths = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
        own = str(self.path)
        with self._entered(), only_writer(self.path):
            found = find_files(
                paths, text=text, title=title, left_out=frozenset(own + end for end in ("", "-wal", "-shm", "-lock", "-journal"))
            )
            updater = self._updater(len(found.files), sum(each.size for each in found.files.values()), progress)
            updater.report.problems += found.problems
            for folder in found.bare:
                if next(self._store.paths_below(folder), None) is not None:
                    updater.report.problems.append(
                        (folder, "has no file that can be read: what is indexed of it stays until it is removed")
                    )
            unread = {path for path, _ in found.problems}
            known = (path for root in found.roots for path in self._store.paths_below(root))
            gone = dict.fromkeys(path for path in known if path not in found.files and not _below(path, unread))
            updater.remove(list(gone))
            updater.run(found.files.values())
            return updater.report

    def add(self, documents: Iterable[Mapping[str, Any]], *, progress: OnProgress | None = None) -> Report:
        """Add documents that are in memory, or replace those of the same id; of two with the same id, the later one stays.

        Args:
            documents: mappings with "id" and "text", and if they have them "title" and "metadata" (a mapping of str to str).

        Raises CancelledError if `progress` returns False, InvalidArgumentError or InvalidTextError for a document of another form, and what
        `documents` raises; those before it stay.
        """
        with self._entered(), only_writer(self.path):
            updater = self._updater(None, None, progress)
            faults: list[Exception] = []
            updater.run(_records(documents, faults))
        for fault in faults:
            raise fault
        return updater.report

    def load(self, folder: str | os.PathLike[str]) -> tuple[int, int]:
        """Take over the vectors of a job of `tools.embed_ray`: each row of its parquet files is a document of one passage.

        The path of a document is the row's id, or the file's name and the row's number. Columns but text, title and id are metadata.

        Returns how many were written, and how many were there already. Needs pyarrow.
        Raises InvalidArgumentError, IndexModelError, IndexWriteError.
        """
        from . import parquet

        with self._entered(), only_writer(self.path):
            return parquet.load(self._store, parquet.read(os.fsdecode(folder), self.model.fingerprint, self.model.dim))

    def remove(self, documents: Iterable[str | os.PathLike[str]]) -> int:
        """Remove documents by their ids, or by the paths of files or of folders with all below them, there or not.

        Returns how many there were. Raises InvalidArgumentError, InvalidTextError, IndexWriteError.
        """
        given = [documents] if isinstance(documents, (str, os.PathLike)) else documents
        names = [os.fsdecode(each) for each in given]
        if "" in names:
            raise InvalidArgumentError("a path is empty: the current folder is '.'")
        with self._entered(), only_writer(self.path):
            updater = self._updater(None, None, None)
            paths = filter(is_utf8, (os.path.abspath(name) for name in names if self._store.document(name) is None))
            updater.remove(list(dict.fromkeys([*names, *(below for path in paths for below in self._store.paths_below(path))])))
            return updater.report.removed

    def _updater(self, total: int | None, size: int | None, progress: OnProgress | None) -> Updater:
        splitter = Splitter(self.model, self.passage_tokens, self.overlap)
        return Updater(self._store, self.model, splitter, total, size, progress)

    def info(self) -> dict[str, Any]:
        """What is in the index, by name."""
        with self._entered(), self._store.reading():
            documents, passages = self._store.counts()
            settings = {name: self._store.setting(name) for name in ("model", "fingerprint", "dim", "dtype", "passage_tokens", "overlap")}
        return {"path": str(self.path), "documents": documents, "passages": passages, **settings}

    # ------------------------------------------------------------ search

    def search(
        self,
        text: str,
        *,
        top: int = 10,
        method: str = "hybrid",
        path: str | os.PathLike[str] | None = None,
        after: query.When | None = None,
        before: query.When | None = None,
        where: Mapping[str, str] | None = None,
        per_document: bool = False,
        rerank: Model | None = None,
        mark: bool = True,
    ) -> list[Hit]:
        """The passages that answer best, the best first.

        Args:
            text: what is looked for.
            top: hits at most.
            method: "vectors": `score` is the cosine similarity. "words": BM25. "hybrid": reciprocal rank fusion of both.
            path: only this file, the files of this folder, or those that a pattern with * and ? fits.
            after, before: only files that were changed since, or before then: a date, "2024-05-31", or seconds since 1970.
            where: only passages with this metadata.
            per_document: only the best passage of each document, of those that have one among the best 10,000 of each method.
            rerank: a cross-encoder, which puts the best candidates (four times `top`) in order; its score is then `score`.
            mark: find the sentence of each hit that is nearest to the query; takes as long as encoding the hits.

        A query of more tokens than the model takes is cut, with a TruncationWarning.

        Raises InvalidArgumentError, InvalidTextError, IndexFileError, ForkedError, IndexModelError, MissingHeadError.
        """
        utf8(text, "the query")
        between("top", top, 1, 10_000)
        one_of("method", method, METHODS)
        if not text.strip():
            raise InvalidArgumentError("the query is empty")
        if rerank is not None and not isinstance(rerank, Model):
            raise InvalidArgumentError(f"rerank must be a Model, not {type(rerank).__name__}: load it first")
        condition, values = query.Filter(path, after, before, where).sql()
        with self._entered():
            model = self.model if method != "words" or mark else None
        asked = None if model is None else _asked(model, text)
        wanted = top if rerank is None else _RERANKED * top
        depth = max(_DEPTH, _RERANKED * top)
        with self._entered(), self._store.reading():
            while True:
                words = dict(by_words(self._connection, text, depth, condition, values)) if method != "vectors" else {}
                vectors = self._nearest(asked, depth, condition, values) if method != "words" and asked is not None else {}
                ranked = query.fused(list(words), list(vectors)) if method == "hybrid" else list((vectors or words).items())
                if per_document:
                    ranked = self._best_of_documents(ranked)
                if not per_document or len(ranked) >= wanted or depth >= _DEEPEST or max(len(words), len(vectors)) < depth:
                    break
                depth = min(8 * depth, _DEEPEST)
            hits = [self._hit(row, score, vectors.get(row), words.get(row)) for row, score in ranked[:wanted]]
        if rerank is not None:
            hits = _reranked(rerank, text, hits)[:top]
        if mark and asked is not None and hits:
            spans = query.marks(self.model, asked, [hit.text for hit in hits])
            hits = [replace(hit, mark=span) for hit, span in zip(hits, spans, strict=True)]
        return hits

    def _best_of_documents(self, ranked: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
        """The first passage of each document."""
        best: dict[int, tuple[int, float]] = {}
        for row, score in ranked:
            (document,) = next(iter(self._connection.execute("SELECT document FROM passages WHERE id = ?", (row,))))
            best.setdefault(document, (row, score))
        return list(best.values())

    def _nearest(self, asked: NDArray[np.float32], depth: int, condition: str, values: Sequence[Any]) -> dict[int, float]:
        """Passages by falling cosine similarity, and it."""
        versions = self._store.versions()
        rows = ROWS * (max(versions, default=-1) + 1)
        allowed = query.allowed_rows(self._connection, rows, condition, values) if condition else None
        packing, full = self._store.packing, self._store.full
        count = depth if full is None else _RESCORED * depth
        one = packing.query(asked)
        found: NDArray[np.int64] = np.empty(0, np.int64)
        scores: NDArray[np.float32] = np.empty(0, np.float32)
        for blocks in self._read_blocks(versions):
            more, their_scores = scan(self._library, packing, blocks, one, count, allowed, self.model.threads)
            found, scores = best(np.concatenate([found, more]), np.concatenate([scores, their_scores]), count)
        if full is not None:
            exact = self._store.full_vectors(found.tolist())
            found, scores = best(found, cosine_similarity(exact, asked), depth)
        return dict(zip(found.tolist(), scores.tolist(), strict=True))

    def _read_blocks(self, versions: Mapping[int, int]) -> Iterator[list[Block]]:
        """All vectors: first those that are kept in memory, as many as the cache has room for, then the others, a few at a time."""
        kept = {number: each for number, each in self._blocks.items() if versions.get(number) == each[0]}
        self._blocks = kept
        missing = sorted(versions.keys() - kept.keys())
        size = ROWS * (self._store.packing.stride + 4)
        room = max(0, _CACHE_BYTES // size - len(kept))
        for number in missing[:room]:
            kept[number] = versions[number], self._store.read_block(number)
        yield [block for _, (_, block) in sorted(kept.items())]
        step = max(1, _READ_BYTES // size)
        for at in range(room, len(missing), step):
            yield [self._store.read_block(number) for number in missing[at : at + step]]

    def _hit(self, row: int, score: float, cosine: float | None, bm25: float | None) -> Hit:
        sql = """
            SELECT d.path, p.line, p.title, p.text, p.metadata, d.modified
            FROM passages p JOIN documents d ON d.id = p.document WHERE p.id = ?
        """
        (path, line, title, text, metadata, modified) = next(iter(self._connection.execute(sql, (row,))))
        return Hit(path, line, title, text, score, cosine, bm25, None, json.loads(metadata) if metadata else {}, modified)

    # ------------------------------------------------------------ the end

    def close(self) -> None:
        """Close the file."""
        if os.getpid() == self._process:  # SQLite allows no other one to do it
            with self._lock:
                self._blocks.clear()
                self._connection.close()
                self._closed = True

    def __enter__(self) -> Index:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _asked(model: Model, text: str) -> NDArray[np.float32]:
    """The vector of a query, float32 (dim,); warns where the query is too long."""
    found = model.encode_detailed([text], truncation="truncate")
    if found.truncated[0]:
        warn_of_truncation(f"the query has {found.token_counts[0]} tokens: its vector is of the first {model.max_tokens}")
    vector: NDArray[np.float32] = found.vectors[0]
    return vector


def _records(documents: Iterable[Mapping[str, Any]], faults: list[Exception]) -> Iterator[Record]:
    """The documents up to the first fault, which is kept until they are written."""
    try:
        for each in documents:
            yield record(each)
    except Exception as fault:
        faults.append(fault)


def _below(path: str, unread: Collection[str]) -> bool:
    return bool(unread) and (path in unread or any(str(each) in unread for each in Path(path).parents))


def _reranked(model: Model, text: str, hits: list[Hit]) -> list[Hit]:
    if not hits:
        return hits
    ranked = model.rank(text, [hit.text for hit in hits], method="pairs")
    return [replace(hits[each.index], score=each.score) for each in ranked]

"""What `bench.search` measures: jobs for worker processes, and what they are given."""

from __future__ import annotations

import json
import lzma
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from bench.text_runners import OnnxRuntime
from tools import vector_tasks

BATCH, PLAIN_BATCH = 32, 256
SMALL, NEIGHBOURS, QUERIES = 200_000, 10, 200
NOISE = 0.02

Round = tuple[Path, list[str]]


class OursJob:
    """The bare encoder."""

    def __init__(self, model: Path, threads: int):
        import tinybert_rt

        self.model = tinybert_rt.load(str(model), threads=threads)

    def run(self, folder: Path, passages: list[str]) -> float:
        begin = time.perf_counter()
        self.model.encode(passages, truncation="truncate")
        return time.perf_counter() - begin


class IndexJob(OursJob):
    """Files to a finished index; of few passages, one document that is made of them."""

    def run(self, folder: Path, passages: list[str]) -> float:
        from tinybert_rt.search import Index

        with TemporaryDirectory() as name:
            begin = time.perf_counter()
            with Index(Path(name) / "x.db", model=self.model) as index:
                index.update([folder])
                if index.info()["passages"] < len(passages):
                    raise RuntimeError("the index has not all passages")
            return time.perf_counter() - begin


class PeerJob:
    """A user's own pipeline: batches through ONNX Runtime, vectors and texts into the same tables.

    Args:
        plain: batches of `PLAIN_BATCH` texts in their order, as fastembed has them; else of `BATCH`, sorted by length.
    """

    def __init__(self, path: Path, tokenizer: Path, threads: int, plain: bool):
        self.runner, self.plain = OnnxRuntime(path, tokenizer, threads, None), plain

    def run(self, folder: Path, passages: list[str]) -> float:
        from tinybert_rt.search.documents import Passage
        from tinybert_rt.search.schema import connect
        from tinybert_rt.search.store import Store
        from tinybert_rt.search.vectors import Packing

        with TemporaryDirectory() as name:
            begin = time.perf_counter()
            store = Store(connect(Path(name) / "x.db", create=True), Packing("int8", 384))
            size = PLAIN_BATCH if self.plain else 32 * BATCH
            for at in range(0, len(passages), size):
                texts = passages[at : at + size]
                vectors = self.runner.encode(texts, PLAIN_BATCH if self.plain else BATCH)
                with store.writing():
                    number = store.add_document(str(at), b"", 0, 0.0)
                    store.add_passages([number] * len(texts), [Passage(text, 1, "", {}) for text in texts], vectors.astype(np.float32))
            store.connection.close()
            return time.perf_counter() - begin


def wiki_files(data: Path, folder: Path, passages: int, rounds: int) -> list[Round]:
    """Folders of articles, a file each, with about so many passages; and these, as the index has them."""
    import tinybert_rt
    from tinybert_rt.search.documents import Section
    from tinybert_rt.search.passages import Splitter

    splitter = Splitter(tinybert_rt.load(threads=1), 256, 32)
    made: list[Round] = []
    texts: list[str] = []
    with lzma.open(data / "corpus" / "wiki" / "train-0.txt.xz", "rt", encoding="utf-8") as file:
        for number, article in enumerate(_articles(file)):
            here = folder / str(len(made))
            here.mkdir(exist_ok=True)
            (here / f"{number:05}.txt").write_text(article, encoding="utf-8")
            texts += [each.embedded for each in splitter.split(Section(article, 1))]
            if len(texts) >= passages:
                made.append((here, texts))
                texts = []
                if len(made) == rounds:
                    return made
    return made


def _articles(lines: Iterable[str]) -> Iterable[str]:
    paragraphs: list[str] = []
    for line in lines:
        if line.strip():
            paragraphs.append(line.strip())
        elif paragraphs:
            yield "\n\n".join(paragraphs)
            paragraphs = []
    if paragraphs:
        yield "\n\n".join(paragraphs)


# ---------------------------------------------------------------- quality


def scifact(data: Path, checkpoint: Path, folder: Path, threads: int) -> dict[str, Any]:
    """NDCG@10 of SciFact's queries, each document by its best passage; and of whole documents, cut at the model's limit, by vectors alone.

    standard_error: of the difference between the index's vectors and those of `transformers`, over queries.
    """
    from tinybert_rt.search import Index

    corpus, queries, grades = vector_tasks.read_scifact(data)
    scores: dict[str, np.ndarray] = {}

    def note(name: str, rankings: Iterable[Iterable[str]]) -> None:
        pairs = zip(queries, rankings, strict=True)
        scores[name] = np.array([vector_tasks.ndcg_at_10(grades[query["_id"]], list(ranking)) for query, ranking in pairs])

    with Index(folder / "x.db", threads=threads) as index:
        index.add({"id": each["_id"], "title": each["title"], "text": each["text"]} for each in corpus)
        for method in ("vectors", "words", "hybrid"):
            hits = (index.search(query["text"], method=method, per_document=True, mark=False) for query in queries)
            note(method, ([hit.path for hit in found] for found in hits))
        rows = list(index._connection.execute("SELECT d.path, p.title, p.text FROM passages p JOIN documents d ON d.id = p.document"))
        passages = index.info()["passages"]
        model = index.model
    encode = vector_tasks.transformers_encoder(checkpoint)
    vectors = encode([f"{title}\n{text}" if title else text for _, title, text in rows])
    similarities = encode([query["text"] for query in queries]) @ vectors.T
    order = np.argsort(-similarities, axis=1, kind="stable")[:, :200]
    note("transformers float32", (dict.fromkeys(rows[row][0] for row in best) for best in order))
    difference = scores["vectors"] - scores["transformers float32"]
    whole = {"vectors": lambda texts: model.encode(texts, truncation="truncate"), "transformers float32": encode}
    return {
        "documents": len(corpus),
        "passages": passages,
        "queries": len(queries),
        "max_tokens": model.max_tokens,
        "ndcg10": {name: round(float(each.mean()), 4) for name, each in scores.items()},
        "standard_error": round(float(difference.std(ddof=1) / np.sqrt(len(queries))), 4),
        "ndcg10_whole": {name: round(float(vector_tasks.scifact(each, data)["ndcg_at_10"]), 4) for name, each in whole.items()},
    }


# ---------------------------------------------------------------- latency


def candidates(folder: Path, count: int, threads: int) -> dict[str, Any]:
    """Search times among `count` vectors, and of other ways to do it among `SMALL`."""
    vectors, queries = made_vectors(count)
    found: dict[str, Any] = {"vectors": count, "queries": QUERIES, "threads": threads}
    for dtype, number in (("int8", count), ("int8", min(count, SMALL)), ("float32", min(count, SMALL)), ("binary", min(count, SMALL))):
        path = folder / f"{dtype}-{number}.db"
        write(path, dtype, vectors[:number])
        facts = json.loads(
            subprocess.run(
                [sys.executable, "-m", "bench.search_scan", str(path), str(threads)],
                input=queries.tobytes(),
                capture_output=True,
                check=True,
            ).stdout
        )
        exact = nearest(vectors[:number], queries)
        facts["recall10"] = recall(facts.pop("rows"), exact)
        found[f"{dtype}, {number:,}"] = facts | {"megabytes": round(path.stat().st_size / 1e6)}
        path.unlink()
    small = vectors[: min(count, SMALL)]
    exact = nearest(small, queries)
    for name, system in (("sqlite-vec int8", sqlite_vec), ("usearch HNSW int8", usearch)):
        try:
            rows, facts = system(small, queries, threads)
        except ImportError as error:
            found[name] = f"{error.name} is not installed"
            continue
        found[f"{name}, {len(small):,}"] = facts | {"recall10": recall(rows, exact)}
    return found


def made_vectors(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of real sentences, repeated with noise, normalized; and queries, which are others."""
    import tinybert_rt

    model = tinybert_rt.load()
    subjects = [
        "river",
        "city",
        "queen",
        "music",
        "album",
        "war",
        "history",
        "season",
        "village",
        "party",
        "species",
        "road",
        "game",
        "film",
    ]
    texts = [f"The {a} of the {b} in the {c}." for a in subjects for b in subjects for c in subjects]
    real = model.encode(texts)
    rng = np.random.default_rng(0)
    out = np.empty((count, real.shape[1]), np.float32)
    for at in range(0, count, len(real)):
        part = out[at : at + len(real)]
        part[:] = real[: len(part)] + rng.standard_normal(part.shape, np.float32) * np.float32(NOISE)
        part /= np.linalg.norm(part, axis=1, keepdims=True)
    return out, model.encode([f"What does the {a} have to do with a {b}?" for a in subjects for b in subjects][:QUERIES])


def write(path: Path, dtype: str, vectors: np.ndarray) -> None:
    """An index whose passages have these vectors."""
    from tinybert_rt.search import Index
    from tinybert_rt.search.documents import Passage

    with Index(path, dtype=dtype, threads=1) as index:
        for at in range(0, len(vectors), 8192):
            part = vectors[at : at + 8192]
            with index._store.writing():
                number = index._store.add_document(f"/made/{at}", b"", 0, 0.0)
                passages = [Passage(f"passage {at + i}", i, "", {}) for i in range(len(part))]
                index._store.add_passages([number] * len(part), passages, part)
                index._store.finish_document(number)
        index._connection.pragma("wal_checkpoint", "TRUNCATE")


def nearest(vectors: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """The rows of the nearest vectors of each query, by float32."""
    return np.stack([np.argpartition(-(vectors @ query), NEIGHBOURS)[:NEIGHBOURS] for query in queries])


def recall(found: Sequence[Sequence[int]], exact: np.ndarray) -> float:
    """The share of the nearest that were found."""
    return round(float(np.mean([len(set(a) & set(b)) / NEIGHBOURS for a, b in zip(found, exact.tolist(), strict=True)])), 4)


def timed(search: Any, queries: np.ndarray) -> tuple[list[list[int]], dict[str, float]]:
    """Rows for each query, and the times."""
    rows, seconds = [], []
    for query in queries:
        begin = time.perf_counter()
        rows.append([int(row) for row in search(query)])
        seconds.append(time.perf_counter() - begin)
    return rows, {"p50_ms": round(1e3 * float(np.percentile(seconds, 50)), 2), "p99_ms": round(1e3 * float(np.percentile(seconds, 99)), 2)}


def as_int8(vectors: np.ndarray) -> np.ndarray:
    """As an index stores them."""
    return np.rint(vectors * (127 / np.abs(vectors).max(axis=-1, keepdims=True))).astype(np.int8)


def sqlite_vec(vectors: np.ndarray, queries: np.ndarray, threads: int) -> tuple[list[list[int]], dict[str, Any]]:
    """The extension's exact search."""
    import apsw
    import sqlite_vec as extension

    connection = apsw.Connection(":memory:")
    connection.enable_load_extension(True)
    connection.load_extension(extension.loadable_path())
    connection.execute(f"CREATE VIRTUAL TABLE v USING vec0(e int8[{vectors.shape[1]}] distance_metric=cosine)")
    begin = time.perf_counter()
    with connection:
        connection.executemany(
            "INSERT INTO v (rowid, e) VALUES (?, vec_int8(?))", ((i, row.tobytes()) for i, row in enumerate(as_int8(vectors)))
        )
    built = time.perf_counter() - begin
    sql = f"SELECT rowid FROM v WHERE e MATCH vec_int8(?) AND k = {NEIGHBOURS}"
    found, facts = timed(lambda query: [row for (row,) in connection.execute(sql, (as_int8(query).tobytes(),))], queries)
    return found, {**facts, "built_s": round(built, 1)}


def usearch(vectors: np.ndarray, queries: np.ndarray, threads: int) -> tuple[list[list[int]], dict[str, Any]]:
    """An approximate index beside the file."""
    from usearch.index import Index

    index = Index(ndim=vectors.shape[1], metric="cos", dtype="i8")
    begin = time.perf_counter()
    index.add(np.arange(len(vectors)), vectors, threads=threads)
    built = time.perf_counter() - begin
    rows, facts = timed(lambda query: index.search(query, NEIGHBOURS).keys.tolist(), queries)
    return rows, {**facts, "built_s": round(built, 1)}

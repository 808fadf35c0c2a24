"""A fresh process that searches an index: the first search, which reads the file, and those after it. Run by `bench.search`."""

from __future__ import annotations

import json
import sys
import time

import numpy as np

from bench.search_jobs import timed

DEPTH = 100
"""candidates that `Index.search` asks for"""


def main() -> None:
    """Queries, float32 (n, dim), on standard input; facts as JSON on standard output. Encoding is not part of the times."""
    from tinybert_rt.search import Index

    path, threads = sys.argv[1], int(sys.argv[2])
    with Index(path, create=False, threads=threads) as index:
        index.model  # noqa: B018
        queries = np.frombuffer(sys.stdin.buffer.read(), np.float32).reshape(-1, index.model.dim)

        def search(query: np.ndarray) -> list[int]:
            with index._store.reading():
                found = list(index._nearest(query, DEPTH, "", ()))[:10]
                # The passages are numbered from 1.
                return [int(hit.text.split()[1]) for hit in (index._hit(row, 0.0, None, None) for row in found)]

        begin = time.perf_counter()
        search(queries[0])
        first = time.perf_counter() - begin
        rows, facts = timed(search, queries)
    print(json.dumps({**facts, "first_ms": round(1e3 * first, 1), "rows": rows}))


if __name__ == "__main__":
    main()

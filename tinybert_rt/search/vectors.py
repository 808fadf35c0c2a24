"""Stored vectors: how they are packed, and the exact scan over all of them by the runtime's own kernel.

| dtype   | a vector of 384 takes | score                                             |
|---------|-----------------------|---------------------------------------------------|
| int8    | 388 bytes             | cosine; a query has 14 bits, so only the stored vector is rounded |
| float32 | 1,540 bytes           | cosine                                            |
| binary  | 64 + 388 bytes, of which the scan reads the first | signs that agree find candidates; their order is that of int8 |
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tinybert_rt.engine.session import address

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tinybert_rt.engine.library import Library

DTYPES = {"int8": 0, "float32": 1, "binary": 2}
"""dtype: the number of its kind in `kernels.scan`."""

ROWS = 4096
"""vectors of a block"""
_QUERY_LEVELS = 8127
"""largest magnitude of a query's elements: 128·63 + 63, two parts that obey the pair rule of the kernel"""


class Query(NamedTuple):
    """A vector to compare with, as the kernel takes it."""

    data: NDArray[Any]
    constant: int
    scale: float
    """what makes a cosine of the kernel's score"""


class Packing:
    """The form of the stored vectors of one dtype and dimension."""

    def __init__(self, dtype: str, dim: int) -> None:
        self.dtype, self.dim, self.kind = dtype, dim, DTYPES[dtype]
        self.width = dim if dtype == "binary" else (dim + 63) & -64
        self.stride = {"int8": self.width, "float32": 4 * self.width, "binary": (dim + 511) // 512 * 64}[dtype]

    def pack(self, vectors: NDArray[np.float32]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """float32 (n, dim) as uint8 (n, stride), and the factor of each vector, float32 (n,): 0 for zeros, but of signs always 1."""
        count = len(vectors)
        out = np.zeros((count, self.stride), np.uint8)
        if self.dtype == "binary":
            bits = np.packbits(vectors > 0, axis=1)
            out[:, : bits.shape[1]] = bits
            return out, np.ones(count, np.float32)
        values: NDArray[Any] = vectors
        if self.dtype == "int8":
            largest = np.abs(vectors).max(axis=1, keepdims=True, initial=0)
            values = np.rint(vectors * (127 / np.where(largest == 0, 1, largest))).astype(np.int8)
            out[:, : self.dim] = values.view(np.uint8)
        else:
            out[:, : 4 * self.dim] = np.ascontiguousarray(values, np.float32).view(np.uint8)
        lengths = np.sqrt((values.astype(np.float64) ** 2).sum(axis=1))
        return out, np.divide(1, lengths, out=np.zeros(count), where=lengths > 0).astype(np.float32)

    def query(self, vector: NDArray[np.float32]) -> Query:
        """A query of float32 (dim,)."""
        length = float(np.linalg.norm(vector))
        if self.dtype == "binary":
            data = np.zeros(self.stride, np.uint8)
            bits = np.packbits(vector > 0)
            data[: bits.size] = bits
            return Query(data, 0, 1 / self.dim)
        if self.dtype == "float32":
            padded = np.zeros(self.width, np.float32)
            padded[: self.dim] = vector
            return Query(padded, 0, 1 / length if length else 0.0)
        levels = np.zeros(self.width, np.int64)
        largest = float(np.abs(vector).max(initial=0))
        levels[: self.dim] = np.rint(vector.astype(np.float64) * (_QUERY_LEVELS / largest if largest else 0))
        high = (levels + 64) >> 7
        parts = np.concatenate([high, levels - 128 * high]).astype(np.int8)
        length = float(np.sqrt((levels**2).sum()))
        return Query(parts, 128 * int(levels.sum()), 1 / length if length else 0.0)


class Block(NamedTuple):
    """Some stored vectors, read into memory."""

    first: int
    """the number of its first row"""
    data: NDArray[np.uint8]
    """(rows, stride)"""
    factors: NDArray[np.float32]
    """(rows,)"""


def scan(
    library: Library,
    packing: Packing,
    blocks: list[Block],
    query: Query,
    top: int,
    allowed: NDArray[np.uint8] | None = None,
    threads: int = 1,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The rows of the best scores and these, best first; of equal scores the lower row is first.

    Args:
        allowed: uint8, 0 for rows that are left out; one element for each row from 0 on.
    """
    if allowed is not None and blocks and len(allowed) < max(block.first + len(block.factors) for block in blocks):
        raise ValueError("some rows have no element in `allowed`")
    threads = max(1, min(threads, len(blocks) // 4))
    if threads == 1:
        parts = [_scan_part(library, packing, blocks, query, top, allowed)]
    else:
        with ThreadPoolExecutor(threads) as pool:
            jobs = [
                pool.submit(
                    _scan_part, library, packing, blocks[i * len(blocks) // threads : (i + 1) * len(blocks) // threads], query, top, allowed
                )
                for i in range(threads)
            ]
            parts = [job.result() for job in jobs]
    rows, scores = best(np.concatenate([rows for rows, _ in parts]), np.concatenate([scores for _, scores in parts]), top)
    return rows, scores * np.float32(query.scale)


def best(rows: NDArray[np.int64], scores: NDArray[np.float32], top: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Those of the `top` highest scores, best first; of equal scores the lower row is first."""
    order = np.lexsort((rows, -scores))[:top]
    return rows[order], scores[order]


def _scan_part(
    library: Library, packing: Packing, blocks: list[Block], query: Query, top: int, allowed: NDArray[np.uint8] | None
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """As `scan`, without order and scale."""
    scores, rows, found = np.empty(top, np.float32), np.empty(top, np.int64), 0
    for block in blocks:
        chosen = 0 if allowed is None else address(allowed) + block.first
        count = len(block.factors)
        found = library.scan(
            packing.kind,
            address(block.data),
            packing.stride,
            address(block.factors),
            chosen,
            count,
            block.first,
            packing.width,
            address(query.data),
            query.constant,
            address(scores),
            address(rows),
            found,
            top,
        )
    return rows[:found], scores[:found]

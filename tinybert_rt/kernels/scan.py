"""Exact nearest neighbours: one query against stored vectors that lie one behind the other; the best scores are kept in a heap."""

from __future__ import annotations

import numpy as np

from tinybert_rt.kernels.jit import inline, kernel
from tinybert_rt.kernels.memory import load_f32, load_i64, load_u8, store_f32, store_i64
from tinybert_rt.kernels.vector import (
    add_i32,
    count_bits,
    dot4,
    flip_signs,
    fma,
    load_f32x16,
    load_i32x16,
    reduce_add,
    splat_f32,
    splat_i32,
    unequal_bits,
)

_F = np.float32

INT8 = 0
FLOAT32 = 1
BINARY = 2


@inline
def _int8_score(row, width, query, constant):  # type: ignore[no-untyped-def]
    """Σ v·(128·high + low) of s8 v and the two parts of a query, exact; `constant` is 128·Σ(128·high + low).

    The bytes of v become unsigned by a flip of their highest bit, which adds 128 to each. High and low are below 65 in magnitude, so
    that they obey the pair rule.
    """
    high = splat_i32(0)
    low = splat_i32(0)
    for at in range(0, width, 64):
        value = flip_signs(load_i32x16(row + at))
        high = dot4(high, value, load_i32x16(query + at))
        low = dot4(low, value, load_i32x16(query + width + at))
    return _F(np.int64(128) * add_i32(high) + add_i32(low) - constant)


@inline
def _float32_score(row, width, query):  # type: ignore[no-untyped-def]
    """Σ v·q of float32, width a multiple of 64, in four chains of fma."""
    first = splat_f32(_F(0.0))
    second = first
    third = first
    fourth = first
    for at in range(0, 4 * width, 256):
        first = fma(load_f32x16(row + at), load_f32x16(query + at), first)
        second = fma(load_f32x16(row + at + 64), load_f32x16(query + at + 64), second)
        third = fma(load_f32x16(row + at + 128), load_f32x16(query + at + 128), third)
        fourth = fma(load_f32x16(row + at + 192), load_f32x16(query + at + 192), fourth)
    return reduce_add((first + second) + (third + fourth))


@inline
def _binary_score(row, width_bytes, query, dim):  # type: ignore[no-untyped-def]
    """Bits that are equal minus bits that are not, of `dim` bits."""
    unequal = splat_i32(0)
    for at in range(0, width_bytes, 64):
        unequal = unequal + count_bits(unequal_bits(load_i32x16(row + at), load_i32x16(query + at)))
    return _F(dim - 2 * add_i32(unequal))


@inline
def _is_worse(score, row, other_score, other_row):  # type: ignore[no-untyped-def]
    """Whether a hit stands behind another one: a lower score, or the same and a later row."""
    return score < other_score or (score == other_score and row > other_row)


@kernel
def _sift_up(scores, rows, at):  # type: ignore[no-untyped-def]
    """The heap's order again, where its last hit is new; the worst hit is the root."""
    score = load_f32(scores + 4 * at)
    row = load_i64(rows + 8 * at)
    while at > 0:
        parent = (at - 1) // 2
        if not _is_worse(score, row, load_f32(scores + 4 * parent), load_i64(rows + 8 * parent)):
            break
        store_f32(scores + 4 * at, load_f32(scores + 4 * parent))
        store_i64(rows + 8 * at, load_i64(rows + 8 * parent))
        at = parent
    store_f32(scores + 4 * at, score)
    store_i64(rows + 8 * at, row)


@kernel
def _replace_root(scores, rows, count, score, row):  # type: ignore[no-untyped-def]
    """Put a hit in the place of the worst one."""
    at = 0
    while True:
        child = 2 * at + 1
        if child >= count:
            break
        other = child + 1
        if other < count and _is_worse(
            load_f32(scores + 4 * other), load_i64(rows + 8 * other), load_f32(scores + 4 * child), load_i64(rows + 8 * child)
        ):
            child = other
        if not _is_worse(load_f32(scores + 4 * child), load_i64(rows + 8 * child), score, row):
            break
        store_f32(scores + 4 * at, load_f32(scores + 4 * child))
        store_i64(rows + 8 * at, load_i64(rows + 8 * child))
        at = child
    store_f32(scores + 4 * at, score)
    store_i64(rows + 8 * at, row)


@kernel
def scan(kind, vectors, stride, factors, allowed, count, first, width, query, constant, scores, rows, found, top):  # type: ignore[no-untyped-def]
    """Put those of `count` vectors that belong to the `top` best ones into a heap. Returns how many hits the heap has then.

    Args:
        kind: INT8, FLOAT32 or BINARY.
        vectors: [count], `stride` bytes apart: s8 [width] with width a multiple of 64; float32 [width], the same; or bits
            [width] in a multiple of 64 bytes, zeros behind.
        factors: float32 [count]: the score is this times the sum of products. A row with 0 holds no vector and is left out.
        allowed: u8 [count], 0 where a row is to be left out; or the address 0.
        first: the number of the first row.
        query: s8 [2, width], see `_int8_score`; float32 [width]; or bits as those of a vector.
        constant: of INT8, see `_int8_score`.
        scores, rows: float32 [top] and int64 [top], of which `found` are hits.
    """
    padded_bytes = (width + 511) // 512 * 64
    for i in range(count):
        factor = load_f32(factors + 4 * i)
        if factor == _F(0.0) or (allowed != 0 and load_u8(allowed + i) == 0):
            continue
        row = vectors + i * stride
        if kind == INT8:
            score = _int8_score(row, width, query, constant) * factor
        elif kind == FLOAT32:
            score = _float32_score(row, width, query) * factor
        else:
            score = _binary_score(row, padded_bytes, query, width) * factor
        if found < top:
            store_f32(scores + 4 * found, score)
            store_i64(rows + 8 * found, first + i)
            _sift_up(scores, rows, found)
            found += 1
        elif _is_worse(load_f32(scores), load_i64(rows), score, first + i):
            _replace_root(scores, rows, found, score, first + i)
    return found

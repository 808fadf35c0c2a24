"""The exact scan over stored vectors, against numpy, on every level."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import LEVELS

from tinybert_rt.engine.library import load_library
from tinybert_rt.search.vectors import Block, Packing, scan

DIMS = (1, 63, 64, 65, 384, 769)


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(list(shape)).standard_normal(shape).astype(np.float32)


def blocks_of(packing: Packing, vectors: np.ndarray, size: int) -> list[Block]:
    data, factors = packing.pack(vectors)
    return [Block(at, data[at : at + size].copy(), factors[at : at + size].copy()) for at in range(0, len(vectors), size)]


def cosines(vectors: np.ndarray, query: np.ndarray) -> np.ndarray:
    values = vectors.astype(np.float64)
    return values @ query.astype(np.float64) / np.linalg.norm(values, axis=1) / np.linalg.norm(query.astype(np.float64))


def rounded(vectors: np.ndarray) -> np.ndarray:
    """As int8 vectors are stored: each scaled so that its largest magnitude is 127."""
    return np.rint(vectors / np.abs(vectors).max(axis=1, keepdims=True) * np.float32(127))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("dtype", ["int8", "float32", "binary"])
def test_the_best_are_those_of_numpy(level: str, dim: int, dtype: str) -> None:
    vectors, query = random(103, dim), random(1, dim)[0]
    packing = Packing(dtype, dim)
    blocks = blocks_of(packing, vectors, 17)
    rows, scores = scan(load_library("jit", level), packing, blocks, packing.query(query), 10)
    if dtype == "binary":
        wanted = 1 - 2 * ((vectors > 0) != (query > 0)).mean(axis=1)
    else:
        wanted = cosines(rounded(vectors) if dtype == "int8" else vectors, query)
    # A query has 14 bits: its direction is off by at most half a level in each element.
    tolerance = 1e-6 * dim**0.5 + (dim**0.5 / 2 / 8127 * np.abs(query).max() / np.linalg.norm(query) if dtype == "int8" else 0)
    np.testing.assert_allclose(scores, np.sort(wanted)[::-1][:10], atol=tolerance)
    np.testing.assert_allclose(scores, wanted[rows], atol=tolerance)
    assert len(set(rows.tolist())) == 10


@pytest.mark.parametrize("dtype", ["int8", "float32", "binary"])
def test_every_level_gives_the_same_bytes_whatever_the_threads(dtype: str) -> None:
    packing = Packing(dtype, 384)
    blocks, query = blocks_of(packing, random(500, 384), 23), packing.query(random(1, 384)[0])
    found = {
        (rows.tobytes(), scores.tobytes())
        for level in LEVELS
        for threads in (1, 2, 3)
        for rows, scores in [scan(load_library("jit", level), packing, blocks, query, 40, threads=threads)]
    }
    assert len(found) == 1


def test_extreme_vectors_do_not_overflow() -> None:
    """The largest sums, of both signs, in a vector as wide as any model's."""
    packing = Packing("int8", 4096)
    vectors = np.concatenate([np.ones((1, 4096)), -np.ones((1, 4096))]).astype(np.float32)
    rows, scores = scan(load_library("jit"), packing, blocks_of(packing, vectors, 2), packing.query(vectors[0]), 2)
    assert rows.tolist() == [0, 1]
    np.testing.assert_allclose(scores, [1, -1], rtol=1e-6)


def test_rows_without_a_vector_or_permission_are_left_out() -> None:
    packing = Packing("int8", 64)
    vectors = random(40, 64)
    vectors[7] = 0
    allowed = np.ones(40, np.uint8)
    allowed[20:] = 0
    rows, _ = scan(load_library("jit"), packing, blocks_of(packing, vectors, 16), packing.query(random(1, 64)[0]), 40, allowed)
    assert sorted(rows.tolist()) == [row for row in range(20) if row != 7]
    with pytest.raises(ValueError, match="allowed"):
        scan(load_library("jit"), packing, blocks_of(packing, vectors, 16), packing.query(vectors[0]), 40, allowed[:-1])


def test_equal_scores_are_in_the_order_of_their_rows() -> None:
    packing = Packing("int8", 64)
    vectors = np.repeat(random(2, 64), 50, axis=0)
    for top in (1, 3, 49, 60):
        rows, _ = scan(load_library("jit"), packing, blocks_of(packing, vectors, 9), packing.query(vectors[0]), top, threads=2)
        assert rows.tolist() == list(range(top))


def test_a_query_of_zeros_finds_all_with_zero() -> None:
    for dtype in ("int8", "float32"):
        packing = Packing(dtype, 64)
        rows, scores = scan(load_library("jit"), packing, blocks_of(packing, random(5, 64), 5), packing.query(np.zeros(64, np.float32)), 5)
        assert rows.tolist() == [0, 1, 2, 3, 4]
        assert not scores.any()

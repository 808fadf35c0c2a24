"""Kernels over rows against float64 and exact integer references, on every level of the machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from conftest import Functions
from test_kernels import aligned, at, random


@contextmanager
def group_scratch(kernels: Functions) -> Iterator[int]:
    """The address of as much scratch as the kernels over rows ask for, full of what is no number; nothing behind it may change."""
    scratch = aligned(kernels("group_bytes") + 64, 255)
    yield at(scratch)
    assert (scratch[-64:] == 255).all(), "the kernel wrote behind its scratch"


def quantized(kernels: Functions, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What `quantize_rows` makes of float32 rows: u8 values, scales, zero points."""
    rows, width = x.shape
    q, scales, zeros = np.full((rows, width), 9, np.uint8), np.empty(rows, np.float32), np.empty(rows, np.float32)
    with group_scratch(kernels) as scratch:
        kernels("quantize_rows", at(x), width * 4, rows, width, at(q), width, at(scales), at(zeros), scratch)
    return q, scales, zeros


@pytest.mark.parametrize("width", [16, 64, 128, 384, 832, 7168])
@pytest.mark.parametrize("rows", [1, 3, 16, 37])
def test_quantize_rows_match_their_definition(kernels: Functions, rows: int, width: int) -> None:
    x = random(rows, width, scale=2.0) + np.resize(np.float32([0, 5, -5]), (rows, 1))
    q, scales, zeros = quantized(kernels, x)
    low, high = np.minimum(x.min(1), 0), np.maximum(x.max(1), 0)
    levels = np.float32(255 - 2**-12)
    assert (scales == (high - low) / levels).all()
    inverse = (levels / (high - low)).astype(np.float64)
    assert (zeros == np.rint(-low * inverse)).all()
    assert (q == np.rint(x * inverse[:, None] + zeros[:, None])).all(), "in float64, which holds the products exactly"
    assert (np.abs(scales[:, None] * (q.astype(np.float64) - zeros[:, None]) - x) <= scales[:, None] * 0.51 + 1e-6).all()


def test_half_levels_at_both_ends_stay_within_a_byte(kernels: Functions) -> None:
    """With 255 levels between them, the larger of these two would become 256."""
    x = np.zeros((1, 16), np.float32)
    x[0, :2] = float.fromhex("-0x1.caa25cp-2"), float.fromhex("0x1.68c146p+0")
    q, _, zeros = quantized(kernels, x)
    assert q[0, :3].tolist() == [0, 254, int(zeros[0])]


def test_quantize_rows_of_zeros(kernels: Functions) -> None:
    x = random(5, 64)
    x[1] = 0
    x[3] = 1e-31
    q, scales, zeros = quantized(kernels, x)
    assert (scales[[1, 3]] == 1).all()
    assert not zeros[[1, 3]].any()
    assert not q[[1, 3]].any()
    assert q[[0, 2, 4]].any(1).all()


def test_a_row_that_is_not_a_number_has_no_scale(kernels: Functions) -> None:
    """Else the check for finite results would not find what is computed from its bytes."""
    x = random(5, 64)
    x[2] = np.nan
    q, scales, zeros = quantized(kernels, x)
    others = [0, 1, 3, 4]
    assert np.isnan(scales[2])
    for one, other in zip((q, scales, zeros), quantized(kernels, x[others]), strict=True):
        assert (one[others] == other).all()


@pytest.mark.parametrize("rows", [1, 17])
@pytest.mark.parametrize("size", [16, 26, 64, 100, 312, 384, 7168])
def test_layer_norm_rows(kernels: Functions, size: int, rows: int) -> None:
    width = -(-size // 64) * 64
    x = np.zeros((rows, width), np.float32)
    x[:, :size] = random(rows, size) * 3 + 1
    weight, bias = np.zeros(width, np.float32), np.zeros(width, np.float32)
    weight[:size], bias[:size] = random(size, 2)[:, 0], random(size, 3)[:, 0]
    norm = kernels.struct("kernel_norm", weight=at(weight), bias=at(bias))
    x64 = x[:, :size].astype(np.float64)
    exact = (x64 - x64.mean(1, keepdims=True)) / np.sqrt(x64.var(1, keepdims=True) + 1e-12) * weight[:size] + bias[:size]
    out = x.copy()
    with group_scratch(kernels) as scratch:
        kernels("layer_norm_rows", at(out), width * 4, rows, size, width, norm, 1e-12, 0, 0, 0, 0, scratch)
    assert np.abs(out[:, :size] - exact).max() < 2e-6 * np.abs(exact).max()
    assert (out[:, size:] == 0).all()
    q, scales, zeros = np.empty((rows, width), np.uint8), np.empty(rows, np.float32), np.empty(rows, np.float32)
    with group_scratch(kernels) as scratch:
        kernels("layer_norm_rows", at(x), width * 4, rows, size, width, norm, 1e-12, at(q), width, at(scales), at(zeros), scratch)
    assert (x == out).all()
    for one, other in zip((q, scales, zeros), quantized(kernels, out), strict=True):
        assert (one == other).all()


@pytest.mark.parametrize("tokens", [1, 2, 7, 40])
def test_pooling_and_normalization(kernels: Functions, tokens: int) -> None:
    x = random(tokens, 128)
    out = np.empty(128, np.float32)
    kernels("pool_mean", at(x), tokens, 128, at(out))
    assert np.allclose(out, x.astype(np.float64).mean(0), atol=1e-6)
    kernels("normalize_row", at(out), 128)
    assert abs(np.linalg.norm(out.astype(np.float64)) - 1) < 1e-6
    kernels("pool_max", at(x), tokens, 128, at(out))
    assert (out == x.max(0)).all()


def test_normalizing_zeros_gives_zeros(kernels: Functions) -> None:
    x = np.zeros(64, np.float32)
    kernels("normalize_row", at(x), 64)
    assert (x == 0).all()


def test_a_norm_that_overflows_is_not_silent(kernels: Functions) -> None:
    x = np.full(64, 1e30, np.float32)
    kernels("normalize_row", at(x), 64)
    assert np.isnan(x).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_values_are_found(kernels: Functions, bad: float) -> None:
    x = random(128)
    assert kernels("is_finite_row", at(x), 128) == 1
    x[77] = bad
    assert kernels("is_finite_row", at(x), 128) == 0

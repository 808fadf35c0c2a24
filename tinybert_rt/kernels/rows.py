"""Kernels over one row of activations: quantization, layer normalization, embedding lookup, pooling.

A row is float32, its width padded to a multiple of 64 elements with zeros. Sums use four 16-lane accumulators over
vectors 4i, 4i+1, 4i+2, 4i+3, joined as (0+1)+(2+3), then the fixed tree of `vector.reduce_add`.
"""

from __future__ import annotations

import numpy as np

from tinybert_rt.kernels.jit import inline, kernel, outlined
from tinybert_rt.kernels.memory import load_f32, store_f32, store_i32
from tinybert_rt.kernels.vector import (
    clamp_i32,
    first_lanes,
    fma,
    load_f32x16,
    load_s8x16,
    maximum,
    minimum,
    reduce_add,
    reduce_max,
    reduce_min,
    round_to_i32,
    splat_f32,
    splat_i32,
    sqrt,
    store_f32x16,
    store_u8x16,
    to_f32,
)

_F = np.float32
_ZERO = _F(0.0)
_ONE = _F(1.0)
_LEVELS = _F(255.0)
_SMALLEST_RANGE = _F(1e-30)
_HUGE = _F(3.0e38)


@outlined
def quantize_row(x, width, q, scale, zero):  # type: ignore[no-untyped-def]
    """One row to u8 with its own scale and zero point: x ≈ scale·(q − zero).

    The range always includes 0, so that zero is exact: scale = (max(x, 0) − min(x, 0))/255, zero = round(−min/scale),
    q = round(x/scale) + zero, rounding half to even. A row whose range is below 1e-30 becomes zeros with scale 1.

    Args:
        x: float32 [width], width a multiple of 16. q: u8 [width].
        scale, zero: addresses of the float32 scale and the int32 zero point.
    """
    low0 = splat_f32(_ZERO)
    low1 = low0
    high0 = low0
    high1 = low0
    pairs = (width & -32) * 4
    for i in range(0, pairs, 128):
        a = load_f32x16(x + i)
        b = load_f32x16(x + i + 64)
        low0 = minimum(a, low0)
        high0 = maximum(a, high0)
        low1 = minimum(b, low1)
        high1 = maximum(b, high1)
    if pairs < width * 4:
        a = load_f32x16(x + pairs)
        low0 = minimum(a, low0)
        high0 = maximum(a, high0)
    low = reduce_min(minimum(low0, low1))
    high = reduce_max(maximum(high0, high1))
    spread = high - low
    if not spread >= _SMALLEST_RANGE:
        store_f32(scale, _ONE)
        store_i32(zero, 0)
        for i in range(0, width, 16):
            store_u8x16(q + i, splat_i32(0))
        return
    step = spread / _LEVELS
    inverse = _LEVELS / spread
    zero_point = clamp_i32(round_to_i32(splat_f32(-low * inverse)), 0, 255)
    store_f32(scale, step)
    store_i32(zero, _first_i32(zero_point))
    inverses = splat_f32(inverse)
    for i in range(0, width, 16):
        store_u8x16(q + i, clamp_i32(round_to_i32(load_f32x16(x + 4 * i) * inverses) + zero_point, 0, 255))


@inline
def _first_i32(vector):  # type: ignore[no-untyped-def]
    return np.int64(reduce_max(to_f32(vector)))


@inline
def _row_sum(x, width):  # type: ignore[no-untyped-def]
    s0 = splat_f32(_ZERO)
    s1 = s0
    s2 = s0
    s3 = s0
    for i in range(0, width * 4, 256):
        s0 = s0 + load_f32x16(x + i)
        s1 = s1 + load_f32x16(x + i + 64)
        s2 = s2 + load_f32x16(x + i + 128)
        s3 = s3 + load_f32x16(x + i + 192)
    return reduce_add((s0 + s1) + (s2 + s3))


@outlined
def layer_norm_row(x, size, width, norm, eps, out):  # type: ignore[no-untyped-def]
    """out = (x − mean)/√(variance + eps)·weight + bias over one row (Ba, Kiros and Hinton 2016); out may be x.

    Args:
        x, out: float32 [width]; size: the elements that count, ≤ width. The padding of x is zero, that of out becomes zero.
        norm: Norm, its weight and bias padded with zeros. eps: float32.
    """
    count = _F(size)
    mean = _row_sum(x, width) / count
    means = splat_f32(mean)
    zeros = splat_f32(_ZERO)
    v0 = zeros
    v1 = zeros
    v2 = zeros
    v3 = zeros
    whole = size & -64
    for i in range(0, whole * 4, 256):
        d0 = load_f32x16(x + i) - means
        d1 = load_f32x16(x + i + 64) - means
        d2 = load_f32x16(x + i + 128) - means
        d3 = load_f32x16(x + i + 192) - means
        v0 = fma(d0, d0, v0)
        v1 = fma(d1, d1, v1)
        v2 = fma(d2, d2, v2)
        v3 = fma(d3, d3, v3)
    for i in range(whole, size, 16):
        d0 = first_lanes(size - i, load_f32x16(x + 4 * i) - means, zeros)
        v0 = fma(d0, d0, v0)
    variance = reduce_add((v0 + v1) + (v2 + v3)) / count
    factor = splat_f32(_ONE / sqrt(variance + eps))
    weight = norm.weight
    bias = norm.bias
    for i in range(0, width * 4, 64):
        store_f32x16(out + i, fma((load_f32x16(x + i) - means) * factor, load_f32x16(weight + i), load_f32x16(bias + i)))


@inline
def _table_row(table, row, width, i):  # type: ignore[no-untyped-def]
    """16 values from element i on of a row of an embedding table, as float32."""
    if table.scale == 0:
        return load_f32x16(table.values + (row * width + i) * 4)
    return to_f32(load_s8x16(table.values + row * width + i)) * splat_f32(load_f32(table.scale + 4 * row))


@outlined
def embed_row(model, token, position, token_type, out):  # type: ignore[no-untyped-def]
    """The sum of word, position (where the model has them) and token-type embeddings of one token, before layer normalization.

    Args:
        model: Model; token < vocab_size, position < max_positions, token_type < type_vocab_size. out: float32 [width].
    """
    width = model.embedding_width
    for i in range(0, width, 16):
        value = _table_row(model.word, token, width, i) + _table_row(model.type, token_type, width, i)
        if model.position.values != 0:
            value = value + _table_row(model.position, position, width, i)
        store_f32x16(out + 4 * i, value)


@kernel
def pool_mean(x, tokens, width, out):  # type: ignore[no-untyped-def]
    """Mean of `tokens` ≥ 1 rows of float32 [width], added in order; out: float32 [width]."""
    factor = splat_f32(_ONE / _F(tokens))
    for i in range(0, width * 4, 64):
        total = splat_f32(_ZERO)
        for t in range(tokens):
            total = total + load_f32x16(x + t * width * 4 + i)
        store_f32x16(out + i, total * factor)


@kernel
def pool_max(x, tokens, width, out):  # type: ignore[no-untyped-def]
    """Largest value of each column over `tokens` ≥ 1 rows of float32 [width]; out: float32 [width]."""
    for i in range(0, width * 4, 64):
        largest = splat_f32(-_HUGE)
        for t in range(tokens):
            largest = maximum(load_f32x16(x + t * width * 4 + i), largest)
        store_f32x16(out + i, largest)


@kernel
def pool_first(x, width, out):  # type: ignore[no-untyped-def]
    """The first row of float32 [width]; out: float32 [width]."""
    for i in range(0, width * 4, 64):
        store_f32x16(out + i, load_f32x16(x + i))


@kernel
def normalize_row(x, width):  # type: ignore[no-untyped-def]
    """x / max(‖x‖₂, 1e-12) in place, as torch.nn.functional.normalize does; x: float32 [width].

    Where the norm overflows, x becomes NaN instead of zeros: the caller's check for finite results then finds it.
    """
    s0 = splat_f32(_ZERO)
    s1 = s0
    s2 = s0
    s3 = s0
    for i in range(0, width * 4, 256):
        a = load_f32x16(x + i)
        b = load_f32x16(x + i + 64)
        c = load_f32x16(x + i + 128)
        d = load_f32x16(x + i + 192)
        s0 = fma(a, a, s0)
        s1 = fma(b, b, s1)
        s2 = fma(c, c, s2)
        s3 = fma(d, d, s3)
    norm = sqrt(reduce_add((s0 + s1) + (s2 + s3)))
    if not norm >= _F(1e-12):
        norm = _F(1e-12)
    scale = _ONE / norm
    if norm > _HUGE:
        scale = _F(np.nan)
    factor = splat_f32(scale)
    for i in range(0, width * 4, 64):
        store_f32x16(x + i, load_f32x16(x + i) * factor)


@kernel
def is_finite_row(x, width):  # type: ignore[no-untyped-def]
    """1 if all of float32 [width] are finite, else 0: x·0 is 0 for finite x only, and NaN makes the sum NaN."""
    total = splat_f32(_ZERO)
    zeros = splat_f32(_ZERO)
    for i in range(0, width * 4, 64):
        total = fma(load_f32x16(x + i), zeros, total)
    if reduce_add(total) == _ZERO:
        return 1
    return 0

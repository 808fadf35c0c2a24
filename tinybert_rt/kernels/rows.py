"""Kernels over rows of activations: quantization, layer normalization, embedding lookup, pooling.

A row is float32, its width padded to a multiple of 64 elements with zeros. Sums use four 16-lane accumulators over
vectors 4i, 4i+1, 4i+2, 4i+3, joined as (0+1)+(2+3), then the fixed tree of `vector.reduce_add`.
"""

from __future__ import annotations

import numpy as np

from tinybert_rt.kernels.jit import inline, kernel, outlined
from tinybert_rt.kernels.memory import load_f32, store_f32
from tinybert_rt.kernels.vector import (
    add_16_rows,
    as_i32,
    first_lanes,
    fma,
    load_f32x16,
    load_s8x16,
    max_16_rows,
    maximum,
    min_16_rows,
    minimum,
    negative,
    reduce_add,
    splat_f32,
    sqrt,
    sqrt_f32,
    store_f32x16,
    store_u8x16,
    to_f32,
    where_below,
)

_F = np.float32
_ZERO = _F(0.0)
_ONE = _F(1.0)
_LEVELS = _F(255.0 - 2.0**-12)
_ROUND_MAGIC = _F(12582912.0)  # 1.5·2**23: a sum with it is rounded to an integer, which its low bits are
_SMALLEST_RANGE = _F(1e-30)
_HUGE = _F(3.0e38)


_GROUP = 16
_GROUP_ELEMENTS = 6144  # 24 KiB, which the first-level cache holds beside the weights of a normalization
# In the scratch of a group, behind the rows' vectors (minima, then maxima), a vector each with one number for each row.
_MAXIMA = 64 * _GROUP
_MEAN = 2 * _MAXIMA
_FACTOR = _MEAN + 64
_INVERSE = _FACTOR + 64
_SHIFTED_ZERO = _INVERSE + 64
_SCALE = _SHIFTED_ZERO + 64
GROUP_BYTES = _SCALE + 64
"""Scratch of the kernels over several rows.

Rows are taken in groups, as many as fit the first-level cache, and what is one number for a row is worked out for all of them at once.
"""


@inline
def _rows_of_group(width):  # type: ignore[no-untyped-def]
    return max(1, min(_GROUP, _GROUP_ELEMENTS // width))


@kernel
def quantize_rows(x, x_stride, rows, width, q, q_stride, scales, zeros, scratch):  # type: ignore[no-untyped-def]
    """Rows to u8, each with its own scale and zero point: x ≈ scale·(q − zero).

    The range always includes 0, so that zero is exact: scale = (max(x, 0) − min(x, 0))/L, zero = round(−min·i), q = round(x·i + zero),
    L = 255 − 2**-12 and i = L/(max(x, 0) − min(x, 0)), rounded once, half to even. q is within 0 … 255: x·i + zero is not below −0.5,
    and it is below 255.5, since (max − min)·i is less than 2**-15 above L, whatever the rounding of i. A row whose range is below 1e-30
    becomes zeros with scale 1. The scale of a row of NaN is NaN: what is computed from it shows what it was.

    Args:
        x: float32 [rows][width], rows x_stride bytes apart, width a multiple of 16. q: u8 [rows][width], rows q_stride apart.
        scales, zeros: float32 [rows]. scratch: GROUP_BYTES.
    """
    step = _rows_of_group(width)
    for first in range(0, rows, step):
        count = min(step, rows - first)
        group = x + first * x_stride
        for r in range(count):
            low = splat_f32(_ZERO)
            high = low
            for i in range(0, width * 4, 64):
                value = load_f32x16(group + r * x_stride + i)
                low = minimum(low, value)
                high = maximum(high, value)
            store_f32x16(scratch + 64 * r, low)
            store_f32x16(scratch + _MAXIMA + 64 * r, high)
        _quantize_group(group, x_stride, count, width, q + first * q_stride, q_stride, scales + 4 * first, zeros + 4 * first, scratch)


@outlined
def _quantize_group(x, x_stride, rows, width, q, q_stride, scales, zeros, scratch):  # type: ignore[no-untyped-def]
    """See `quantize_rows`; the rows' extremes lie in the scratch, lane by lane."""
    low = min_16_rows(scratch)
    spread = max_16_rows(scratch + _MAXIMA) - low
    smallest = splat_f32(_SMALLEST_RANGE)
    inverse = where_below(spread, smallest, splat_f32(_ZERO), splat_f32(_LEVELS) / spread)
    store_f32x16(scratch + _INVERSE, inverse)
    store_f32x16(scratch + _SHIFTED_ZERO, fma(negative(low), inverse, splat_f32(_ROUND_MAGIC)))
    store_f32x16(scratch + _SCALE, where_below(spread, smallest, splat_f32(_ONE), spread / splat_f32(_LEVELS)))
    for r in range(rows):
        shifted_zero = load_f32(scratch + _SHIFTED_ZERO + 4 * r)
        store_f32(zeros + 4 * r, shifted_zero - _ROUND_MAGIC)
        store_f32(scales + 4 * r, load_f32(scratch + _SCALE + 4 * r))
        inverses = splat_f32(load_f32(scratch + _INVERSE + 4 * r))
        shifted_zeros = splat_f32(shifted_zero)
        for i in range(0, width, 16):
            store_u8x16(q + r * q_stride + i, as_i32(fma(load_f32x16(x + r * x_stride + 4 * i), inverses, shifted_zeros)))


@inline
def _sums_of_row(x, width):  # type: ignore[no-untyped-def]
    s0 = splat_f32(_ZERO)
    s1 = s0
    s2 = s0
    s3 = s0
    for i in range(0, width * 4, 256):
        s0 = s0 + load_f32x16(x + i)
        s1 = s1 + load_f32x16(x + i + 64)
        s2 = s2 + load_f32x16(x + i + 128)
        s3 = s3 + load_f32x16(x + i + 192)
    return (s0 + s1) + (s2 + s3)


@inline
def _squares_of_row(x, size, means):  # type: ignore[no-untyped-def]
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
    return (v0 + v1) + (v2 + v3)


@kernel
def layer_norm_rows(x, x_stride, rows, size, width, norm, eps, q, q_stride, scales, zeros, scratch):  # type: ignore[no-untyped-def]
    """x = (x − mean)/√(variance + eps)·weight + bias for each row (Ba, Kiros and Hinton 2016), and the results as u8.

    Args:
        x: float32 [rows][width], rows x_stride bytes apart, width a multiple of 64; size: the elements that count, ≤ width. The
            padding of a row is zero, and stays zero.
        norm: Norm, its weight and bias padded with zeros. eps: float32.
        q, q_stride, scales, zeros: as in `quantize_rows`, or q is 0: nothing is quantized. scratch: GROUP_BYTES.
    """
    step = _rows_of_group(width)
    for first in range(0, rows, step):
        count = min(step, rows - first)
        group = x + first * x_stride
        _norm_group(group, x_stride, count, size, width, norm, eps, scratch)
        if q != 0:
            _quantize_group(group, x_stride, count, width, q + first * q_stride, q_stride, scales + 4 * first, zeros + 4 * first, scratch)


@outlined
def _norm_group(x, x_stride, rows, size, width, norm, eps, scratch):  # type: ignore[no-untyped-def]
    """See `layer_norm_rows`; leaves the extremes of the new rows and 0 in the scratch, for `_quantize_group`."""
    sizes = splat_f32(_F(size))
    for r in range(rows):
        store_f32x16(scratch + 64 * r, _sums_of_row(x + r * x_stride, width))
    store_f32x16(scratch + _MEAN, add_16_rows(scratch) / sizes)
    for r in range(rows):
        store_f32x16(scratch + 64 * r, _squares_of_row(x + r * x_stride, size, splat_f32(load_f32(scratch + _MEAN + 4 * r))))
    variance = add_16_rows(scratch) / sizes
    store_f32x16(scratch + _FACTOR, splat_f32(_ONE) / sqrt(variance + splat_f32(eps)))
    weight = norm.weight
    bias = norm.bias
    for r in range(rows):
        row = x + r * x_stride
        means = splat_f32(load_f32(scratch + _MEAN + 4 * r))
        factor = splat_f32(load_f32(scratch + _FACTOR + 4 * r))
        low = splat_f32(_ZERO)
        high = low
        for i in range(0, width * 4, 64):
            value = fma((load_f32x16(row + i) - means) * factor, load_f32x16(weight + i), load_f32x16(bias + i))
            store_f32x16(row + i, value)
            low = minimum(low, value)
            high = maximum(high, value)
        store_f32x16(scratch + 64 * r, low)
        store_f32x16(scratch + _MAXIMA + 64 * r, high)


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
    norm = sqrt_f32(reduce_add((s0 + s1) + (s2 + s3)))
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

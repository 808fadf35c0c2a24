"""Multi-head self-attention of one text and one head with int8 products (Vaswani et al. 2017, section 3.2.1).

Queries become u8 with a zero point per row; keys and values become s8 with a scale per token, so that they obey the pair rule of
`isa.lowering`: neighbouring elements of a key add up to at most 127 before they are rounded, and values, whose neighbours are other
tokens with other scales, stay within −64…64. The scale of a value's token goes into its weight: with v[j] ≈ scale_v[j]·q_v[j],

    context[i] = Σ_j e[i, j]·scale_v[j]·q_v[j] / Σ_j e[i, j],    e[i, j] = 2**s[i, j]

and the products p[i, j] = e[i, j]·scale_v[j] = 2**(s[i, j] + log2 scale_v[j]) are what is rounded to u8, relative to their
maximum over BLOCK keys. Tokens that attract much attention (separators) have small values in trained models, so this keeps
resolution for all others. Softmax itself is float32.
"""

from __future__ import annotations

import math

import numpy as np

from tinybert_rt.kernels.jit import inline, kernel, outlined
from tinybert_rt.kernels.math import exp2, exp2_levels, log2
from tinybert_rt.kernels.memory import load_f32, take
from tinybert_rt.kernels.panels import INT8_ROWS, int8_product, int8_scores
from tinybert_rt.kernels.rows import GROUP_BYTES, quantize_rows
from tinybert_rt.kernels.vector import (
    absolute,
    add_8_rows,
    dot4,
    first_lanes,
    fma,
    load_f32x16,
    load_i32x16,
    max_8_rows,
    max_16_rows,
    maximum,
    reduce_max,
    round_to_i32,
    rounded_product,
    splat_f32,
    splat_i32,
    store_f32x16,
    store_i32x16,
    store_u8x16,
    swap_neighbours,
    to_f32,
    transpose_f32,
    where_below,
)

_F = np.float32
_ZERO = _F(0.0)
_ONE = _F(1.0)
_LOG2_E = _F(math.log2(math.e))
_KEY_LIMIT = _F(127.0)
_VALUE_LIMIT = _F(64.0)
_SMALLEST = _F(1e-20)
_OVERFLOW = _F(1e37)
_INFINITE = _F(np.inf)
_NEVER = _F(-1e30)
_HUGE = _F(-3.0e38)
_ONES = 0x01010101

BLOCK = 128
"""Keys whose weights share one scale."""

_BLOCK_BYTES = max(2048 + 64, GROUP_BYTES)
"""Scratch while the operands are prepared."""

_ROWS = 8
"""Queries that are alive at a time, at most: as many as the reductions over rows take."""
if INT8_ROWS > _ROWS:
    raise ValueError(f"a tile of {INT8_ROWS} rows: attention reduces {_ROWS} rows at a time")


@inline
def _magnitudes(row, width):  # type: ignore[no-untyped-def]
    """The largest magnitudes of a row's elements, lane by lane."""
    largest = splat_f32(_ZERO)
    for i in range(0, width * 4, 64):
        largest = maximum(absolute(load_f32x16(row + i)), largest)
    return largest


@inline
def _pair_magnitudes(row, width):  # type: ignore[no-untyped-def]
    """The largest magnitudes of an element, or of the sum of elements 2i and 2i + 1, lane by lane."""
    largest = splat_f32(_ZERO)
    for i in range(0, width * 4, 64):
        x = load_f32x16(row + i)
        largest = maximum(maximum(absolute(x), absolute(x + swap_neighbours(x))), largest)
    return largest


@outlined
def _prepare_keys(keys, tokens, padded, head_width, out, scales, sums, block):  # type: ignore[no-untyped-def]
    """Keys as weights of the int8 tile: 16 tokens are the columns of a block, the head's elements the depth.

    Returns the largest magnitude of the keys.

    Args:
        keys: float32 [padded][head_width], finite or not behind `tokens`. out: [padded/16][head_width/4] groups.
        scales, sums: float32 [padded]: scale, and sum of the quantized elements, of each token.
        block: scratch of 16 rows of 64 bytes, twice, and 16 float32.
    """
    worst = splat_f32(_ZERO)
    groups = head_width >> 2
    turned = block + 1024
    inverses = block + 2048
    ones = splat_i32(_ONES)
    none = splat_f32(_ZERO)
    limit = splat_f32(_KEY_LIMIT)
    for token in range(0, padded, 16):
        row = keys + token * head_width * 4
        for r in range(16):
            store_f32x16(block + 64 * r, _pair_magnitudes(row + r * head_width * 4, head_width))
        largest = first_lanes(tokens - token, max_16_rows(block), none)
        worst = maximum(largest, worst)
        store_f32x16(inverses, where_below(largest, splat_f32(_SMALLEST), none, limit / largest))
        store_f32x16(scales + 4 * token, largest / limit)
        total = splat_i32(0)
        target = out + (token >> 4) * groups * 64
        for first in range(0, head_width, 64):
            count = min(64, head_width - first)
            for r in range(16):
                factor = splat_f32(load_f32(inverses + 4 * r))
                source = row + (r * head_width + first) * 4
                for i in range(0, count, 16):
                    store_u8x16(block + r * 64 + i, rounded_product(load_f32x16(source + 4 * i), factor))
            transpose_f32(block, 64, turned, 64)
            for group in range(count >> 2):
                weights = load_i32x16(turned + group * 64)
                total = dot4(total, ones, weights)
                store_i32x16(target + ((first >> 2) + group) * 64, weights)
        store_f32x16(sums + 4 * token, to_f32(total))
    return reduce_max(worst)


@outlined
def _prepare_values(values, tokens, padded, head_width, out, shifts, inverse_scales, block):  # type: ignore[no-untyped-def]
    """Values as weights of the int8 tile: 16 elements of the head are the columns of a block, the tokens the depth.

    Returns the largest magnitude of the values.

    Args:
        values: float32 [padded][head_width], finite or not behind `tokens`. out: [head_width/16][padded/4] groups.
        shifts, inverse_scales: float32 [padded]: log2 of each token's scale and its inverse; behind `tokens` so small, and
            zero, that these keys never count.
        block: scratch of 16 rows of 64 bytes.
    """
    worst = splat_f32(_ZERO)
    none = splat_f32(_ZERO)
    stride = head_width * 4
    groups = padded >> 2
    for token in range(0, padded, 16):
        for r in range(16):
            store_f32x16(block + 64 * r, _magnitudes(values + (token + r) * stride, head_width))
        largest = max_16_rows(block)
        here = tokens - token
        worst = maximum(first_lanes(here, largest, none), worst)
        scale = maximum(largest, splat_f32(_SMALLEST)) * splat_f32(_ONE / _VALUE_LIMIT)
        store_f32x16(inverse_scales + 4 * token, first_lanes(here, splat_f32(_ONE) / scale, none))
        store_f32x16(shifts + 4 * token, first_lanes(here, log2(scale), splat_f32(_NEVER)))
    low = splat_i32(255)
    for group in range(groups):
        row = values + group * 4 * stride
        factor0 = splat_f32(load_f32(inverse_scales + 16 * group))
        factor1 = splat_f32(load_f32(inverse_scales + 16 * group + 4))
        factor2 = splat_f32(load_f32(inverse_scales + 16 * group + 8))
        factor3 = splat_f32(load_f32(inverse_scales + 16 * group + 12))
        for i in range(0, stride, 64):
            q0 = rounded_product(load_f32x16(row + i), factor0)
            q1 = rounded_product(load_f32x16(row + stride + i), factor1)
            q2 = rounded_product(load_f32x16(row + 2 * stride + i), factor2)
            q3 = rounded_product(load_f32x16(row + 3 * stride + i), factor3)
            low_half = (q0 & low) | ((q1 & low) << splat_i32(8))
            weights = low_half | ((q2 & low) << splat_i32(16)) | (q3 << splat_i32(24))
            store_i32x16(out + ((i >> 6) * groups + group) * 64, weights)
    return reduce_max(worst)


@inline
def _weights_of_block(scores, count, inverse_scales, peak, out, total):  # type: ignore[no-untyped-def]
    """One query's weights for a block of keys: scores s + log2 scale_v become 255·p relative to their maximum `peak`, as u8 at `out`.

    Stores 255·Σ e·2**−maximum at `total`, lane by lane.
    """
    peaks = splat_f32(peak)
    added = splat_f32(_ZERO)
    for i in range(0, count * 4, 64):
        p = exp2_levels(load_f32x16(scores + i) - peaks)
        added = fma(p, load_f32x16(inverse_scales + i), added)
        store_u8x16(out + (i >> 2), round_to_i32(p))
    store_f32x16(total, added)


@inline
def _quantize_queries(queries, tokens, head_width, scale, q, factors, zeros, group):  # type: ignore[no-untyped-def]
    """Queries as u8, what their scores are multiplied with, and their zero points; returns the largest scale."""
    quantize_rows(queries, head_width * 4, tokens, head_width, q, head_width, factors, zeros, group)
    worst = splat_f32(_ZERO)
    for token in range(0, tokens, 16):
        scales = load_f32x16(factors + 4 * token)
        worst = maximum(first_lanes(tokens - token, scales, worst), worst)
        store_f32x16(factors + 4 * token, scales * splat_f32(scale) * splat_f32(_LOG2_E))
    return reduce_max(worst)


@inline
def _blocks(padded):  # type: ignore[no-untyped-def]
    return (padded + BLOCK - 1) // BLOCK


@kernel
def attention_int8_bytes(max_tokens, head_width):  # type: ignore[no-untyped-def]
    """Scratch that `attention_head_int8` needs; max_tokens is a multiple of 16."""
    groups = head_width >> 2
    operands = (max_tokens >> 4) * groups * 64 + (head_width >> 4) * (max_tokens >> 2) * 64
    tables = 6 * max_tokens * 4
    rows = max_tokens * head_width + _ROWS * (BLOCK * 4 + max_tokens + head_width * 4 + 128) + 2 * 64 * _blocks(max_tokens)
    return operands + tables + _BLOCK_BYTES + rows + 64 * 11


@outlined
def attention_head_int8(queries, count, keys, values, tokens, head_width, scale, added, added_stride, out, out_stride, scratch):  # type: ignore[no-untyped-def]
    """context = softmax(scale·(Q·Kᵀ + added))·V for one text and head.

    Args:
        queries: float32 [count][head_width], of the text's first tokens.
        keys, values: float32 [tokens][head_width], readable up to a multiple of 16 rows.
        scale: float32, 1/√head_size.
        added: float32 [count] rows added_stride bytes apart, readable up to a multiple of 16 columns; or 0: nothing is added.
        out: float32 [count], rows out_stride bytes apart; head_width values of each are written.
        scratch: attention_int8_bytes(max_tokens, head_width) for some max_tokens ≥ tokens, 64-byte aligned.
    """
    padded = (tokens + 15) & -16
    groups = head_width >> 2
    key_groups = padded >> 2
    blocks = _blocks(padded)
    stride = head_width * 4

    key_weights = scratch
    value_weights = take(key_weights, (padded >> 4) * groups * 64)
    table = padded * 4
    sums = take(value_weights, (head_width >> 4) * key_groups * 64)
    scales = sums + table
    shifts = scales + table
    inverse_scales = shifts + table
    factors = inverse_scales + table
    zeros = factors + table
    q = zeros + table
    block_scratch = take(q, padded * head_width)
    worst = _prepare_keys(keys, tokens, padded, head_width, key_weights, scales, sums, block_scratch)
    worst = max(_prepare_values(values, tokens, padded, head_width, value_weights, shifts, inverse_scales, block_scratch), worst)
    worst = max(_quantize_queries(queries, count, head_width, scale, q, factors, zeros, block_scratch), worst)

    scores = take(block_scratch, _BLOCK_BYTES)
    p = scores + _ROWS * BLOCK * 4
    context = take(p, _ROWS * padded)
    tops = context + _ROWS * stride
    sums_of_rows = tops + _ROWS * 64
    # Of each block of keys: the maxima and the sums of the queries, a lane for each.
    peaks = sums_of_rows + _ROWS * 64
    totals = peaks + blocks * 64
    row = 0
    while row < count:
        here = min(INT8_ROWS, count - row)
        done = here
        for block in range(blocks):
            first = block * BLOCK
            keys_here = min(BLOCK, padded - first)
            score_stride = keys_here * 4
            for r in range(here):
                store_f32x16(tops + 64 * r, splat_f32(_HUGE))
            done = int8_scores(
                here,
                q + row * head_width,
                head_width,
                key_weights + (first >> 4) * groups * 64,
                groups * 64,
                groups,
                keys_here >> 4,
                factors + 4 * row,
                sums + 4 * first,
                table,
                0 if added == 0 else added + row * added_stride + 4 * first,
                added_stride,
                scale * _LOG2_E,
                scores,
                score_stride,
                tops,
            )
            store_f32x16(peaks + 64 * block, max_8_rows(tops))
            for r in range(done):
                _weights_of_block(
                    scores + r * score_stride,
                    keys_here,
                    inverse_scales + 4 * first,
                    load_f32(peaks + 64 * block + 4 * r),
                    p + r * padded + first,
                    sums_of_rows + 64 * r,
                )
            store_f32x16(totals + 64 * block, add_8_rows(sums_of_rows))
        _combine_blocks(peaks, totals, blocks)
        for block in range(blocks):
            first = block * BLOCK
            depth = min(BLOCK, padded - first) >> 2
            panel = value_weights + (first >> 2) * 64
            weights = p + first
            int8_product(done, weights, padded, panel, key_groups * 64, depth, head_width >> 4, context, stride)
            for r in range(done):
                factor = splat_f32(load_f32(peaks + 64 * block + 4 * r))
                target = out + (row + r) * out_stride
                for i in range(0, stride, 64):
                    part = to_f32(load_i32x16(context + r * stride + i)) * factor
                    if block > 0:
                        part = part + load_f32x16(target + i)
                    store_f32x16(target + i, part)
        row += done
    if worst > _OVERFLOW:
        # Rounding to 8 bits would make finite numbers of infinite ones; this keeps them infinite up to the check of the result.
        for r in range(count):
            for i in range(0, stride, 64):
                store_f32x16(out + r * out_stride + i, splat_f32(_INFINITE))


@inline
def _combine_blocks(peaks, totals, blocks):  # type: ignore[no-untyped-def]
    """The maxima of blocks become the factors of their contexts: 2**(maximum − largest) / (255·Σ e); each lane is a query."""
    if blocks == 1:
        store_f32x16(peaks, splat_f32(_ONE) / load_f32x16(totals))
        return
    largest = splat_f32(_HUGE)
    for block in range(blocks):
        largest = maximum(load_f32x16(peaks + 64 * block), largest)
    total = splat_f32(_ZERO)
    for block in range(blocks):
        factor = exp2(load_f32x16(peaks + 64 * block) - largest)
        store_f32x16(peaks + 64 * block, factor)
        total = total + factor * load_f32x16(totals + 64 * block)
    factor = splat_f32(_ONE) / total
    for block in range(blocks):
        store_f32x16(peaks + 64 * block, load_f32x16(peaks + 64 * block) * factor)

"""Multi-head self-attention of one text and one head in float32 (Vaswani et al. 2017, section 3.2.1), without padding.

Queries, keys and values lie in heads: float32 [tokens][head_width], head_width = head_size padded to a multiple of 16
with zeros. Keys are transposed once per head; then a few query rows at a time go through scores, softmax and context
while they are in the first-level cache.
"""

from __future__ import annotations

import math

import numpy as np

from tinybert_rt.kernels.jit import inline, kernel, outlined
from tinybert_rt.kernels.math import exp2
from tinybert_rt.kernels.memory import load_f32, store_f32
from tinybert_rt.kernels.panels import FLOAT_ROWS, NARROW_COLUMNS, float_product
from tinybert_rt.kernels.vector import (
    first_lanes,
    fma,
    load_f32x16,
    maximum,
    reduce_add,
    reduce_max,
    splat_f32,
    store_f32x16,
    transpose_f32,
)

_F = np.float32
_ZERO = _F(0.0)
_ONE = _F(1.0)
_LOWEST = _F(-3.0e38)
_LOG2_E = _F(math.log2(math.e))


@outlined
def transpose_keys(keys, tokens, head_width, out):  # type: ignore[no-untyped-def]
    """float32 [tokens][head_width] → [ceil(tokens/16)][head_width][16]; rows behind `tokens` are read, up to a multiple of 16."""
    stride = head_width * 4
    for token in range(0, tokens, 16):
        for i in range(0, head_width, 16):
            transpose_f32(keys + token * stride + 4 * i, stride, out + (token * head_width + 16 * i) * 4, 64)


@inline
def _softmax_row(scores, tokens, scale, sums):  # type: ignore[no-untyped-def]
    """exp(scale·(s − max s)) in place for the first `tokens` of a row; stores 1/sum at `sums`."""
    lowest = splat_f32(_LOWEST)
    zeros = splat_f32(_ZERO)
    whole = tokens & -16
    largest = lowest
    for i in range(0, whole, 16):
        largest = maximum(load_f32x16(scores + 4 * i), largest)
    if whole < tokens:
        largest = maximum(first_lanes(tokens - whole, load_f32x16(scores + 4 * whole), lowest), largest)
    factor = scale * _LOG2_E
    factors = splat_f32(factor)
    shift = splat_f32(-(reduce_max(largest) * factor))
    total = zeros
    for i in range(0, whole, 16):
        value = exp2(fma(load_f32x16(scores + 4 * i), factors, shift))
        store_f32x16(scores + 4 * i, value)
        total = total + value
    if whole < tokens:
        value = exp2(fma(load_f32x16(scores + 4 * whole), factors, shift))
        store_f32x16(scores + 4 * whole, value)
        total = total + first_lanes(tokens - whole, value, zeros)
    store_f32(sums, _ONE / reduce_add(total))


@inline
def _add_row(scores, added, tokens):  # type: ignore[no-untyped-def]
    for i in range(0, tokens * 4, 64):
        store_f32x16(scores + i, load_f32x16(scores + i) + load_f32x16(added + i))


@inline
def _value_blocks(head_width):
    """Column blocks of the context tile: those of a head, rounded up to a whole tile."""
    return (head_width // 16 + NARROW_COLUMNS - 1) // NARROW_COLUMNS * NARROW_COLUMNS


@kernel
def attention_bytes(max_tokens, head_width):
    """Scratch that `attention_head` needs: transposed keys; scores, context and sums of one tile of query rows."""
    tile_rows = max_tokens + _value_blocks(head_width) * 16 + 1
    return (max_tokens * head_width + FLOAT_ROWS * tile_rows) * 4


@outlined
def attention_head(queries, count, keys, values, tokens, head_width, scale, added, added_stride, out, out_stride, scratch, max_tokens):  # type: ignore[no-untyped-def]
    """context = softmax(scale·(Q·Kᵀ + added))·V for one text and head.

    Args:
        queries: float32 [count][head_width], of the text's first tokens.
        keys, values: float32 [tokens][head_width]; keys are readable up to a multiple of 32 rows.
        scale: float32, 1/√head_size.
        added: float32 [count] rows added_stride bytes apart, readable up to a multiple of 16 columns; or 0: nothing is added.
        out: float32 [count], rows out_stride bytes apart; head_width values of each are written.
        scratch: attention_bytes(max_tokens, head_width); max_tokens ≥ tokens, a multiple of 64.
    """
    key_blocks = (tokens + 16 * NARROW_COLUMNS - 1) // (16 * NARROW_COLUMNS) * NARROW_COLUMNS
    keys_transposed = scratch
    scores = keys_transposed + max_tokens * head_width * 4
    context = scores + FLOAT_ROWS * max_tokens * 4
    value_blocks = _value_blocks(head_width)
    sums = context + FLOAT_ROWS * value_blocks * 64
    transpose_keys(keys, key_blocks * 16, head_width, keys_transposed)
    row_stride = head_width * 4
    score_stride = key_blocks * 64
    context_stride = value_blocks * 64
    row = 0
    while row < count:
        done = float_product(
            count - row,
            queries + row * row_stride,
            row_stride,
            keys_transposed,
            head_width * 64,
            64,
            head_width,
            key_blocks,
            scores,
            score_stride,
        )
        if added != 0:
            for r in range(done):
                _add_row(scores + r * score_stride, added + (row + r) * added_stride, tokens)
        for r in range(done):
            _softmax_row(scores + r * score_stride, tokens, scale, sums + 4 * r)
        float_product(done, scores, score_stride, values, 64, row_stride, tokens, value_blocks, context, context_stride)
        for r in range(done):
            factor = splat_f32(load_f32(sums + 4 * r))
            for i in range(0, head_width * 4, 64):
                store_f32x16(out + (row + r) * out_stride + i, load_f32x16(context + r * context_stride + i) * factor)
        row += done

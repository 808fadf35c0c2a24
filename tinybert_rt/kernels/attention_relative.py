"""Scores between contents and relative positions: what disentangled attention adds to those between contents.

He et al. 2021, "DeBERTa: Decoding-enhanced BERT with Disentangled Attention", section 3.1, as the released models compute it: with
δ(d) = span + sign(d)·bucket(|d|), kept within 0 … 2·span − 1, the score of query i and key j is

    Q[i]·K[j] + Q[i]·Kʳ[δ(i − j)] + K[j]·Qʳ[δ(i − j)]

Kʳ and Qʳ depend on the weights alone and lie in the file, for each head, in the order in which a row meets them: the row of query i
meets Kʳ with falling i − j, which is turned around there; the row of key j meets Qʳ with rising i − j. With r the token of the row
and s the other one, its column is origin + sign(s − r)·bucket(|s − r|), origin being span − 1 in Kʳ and span in Qʳ. Thus a row of
scores is a window of a product with a few columns more than there are tokens, moved by one column from row to row.
"""

from __future__ import annotations

import numpy as np

from tinybert_rt.kernels.jit import inline, kernel, outlined
from tinybert_rt.kernels.memory import load_f32, load_i32, store_f32, take
from tinybert_rt.kernels.panels import FLOAT_ROWS, INT8_ROWS, NARROW_COLUMNS, float_product, int8_product
from tinybert_rt.kernels.rows import GROUP_BYTES, quantize_rows
from tinybert_rt.kernels.vector import fma, load_f32x16, load_i32x16, splat_f32, store_f32x16, to_f32, transpose_f32

_F = np.float32
_ZERO = _F(0.0)
_TILE_ROWS = max(FLOAT_ROWS, INT8_ROWS)
_ALIGNED = 16 * NARROW_COLUMNS


@inline
def score_stride(tokens):  # type: ignore[no-untyped-def]
    """Elements of a row of scores in memory: those of `tokens` padded to a multiple of 16, and room for one vector more."""
    return ((tokens + 15) & -16) + 16


@kernel
def relative_bytes(max_tokens, head_width, relative_width):  # type: ignore[no-untyped-def]
    """Scratch of `relative_scores`: two matrices of scores, quantized rows with scales and zero points and what quantizing needs, a
    tile, and a block of 16×16.

    A tile may have all columns of a head: buckets rise by as much as the file says, not by 1 from one distance to the next.
    """
    matrix = (max_tokens + 16) * score_stride(max_tokens) * 4
    return 2 * matrix + max_tokens * (head_width + 8) + _TILE_ROWS * relative_width * 4 + 1024 + GROUP_BYTES + 7 * 64


@inline
def _bucket(model, distance):  # type: ignore[no-untyped-def]
    return load_i32(model.buckets + 4 * distance)


@inline
def _column(model, origin, offset):  # type: ignore[no-untyped-def]
    """The column of a position `offset` = s − r away."""
    if offset < 0:
        return max(origin - _bucket(model, -offset), 0)
    return min(origin + _bucket(model, offset), 2 * model.relative_span - 1)


@inline
def _to_float(tile, columns, scale, zero, scales, sums):  # type: ignore[no-untyped-def]
    """A row of int32 products in place: scale·scales·(product − zero·sum)."""
    factor = splat_f32(scale)
    minus_zero = splat_f32(-zero)
    for i in range(0, columns * 4, 64):
        value = fma(minus_zero, to_f32(load_i32x16(sums + i)), to_f32(load_i32x16(tile + i)))
        store_f32x16(tile + i, value * (factor * load_f32x16(scales + i)))


@inline
def _move_window(model, origin, tile, first, row, tokens, out):  # type: ignore[no-untyped-def]
    """The scores of one row, from a tile whose first column is `first`; the padding of the row becomes zero."""
    near = model.relative_near
    begin = max(0, row - near + 1)
    end = min(tokens, row + near)
    for other in range(begin):
        store_f32(out + 4 * other, load_f32(tile + 4 * (_column(model, origin, other - row) - first)))
    source = tile + 4 * (origin - row - first)
    for other in range(begin, end, 16):
        store_f32x16(out + 4 * other, load_f32x16(source + 4 * other))
    for other in range(end, tokens):
        store_f32(out + 4 * other, load_f32(tile + 4 * (_column(model, origin, other - row) - first)))
    store_f32x16(out + 4 * tokens, splat_f32(_ZERO))


@outlined
def _meet_positions(model, rows, count, tokens, head_width, positions, origin, head, int8, out, scratch):  # type: ignore[no-untyped-def]
    """out[r, s] = rows[r] · positions[column of s − r] of one head.

    Args:
        rows: float32 [count][head_width], count ≤ tokens. positions: Linear. out: float32 [count][score_stride(tokens)].
        scratch: behind the matrices of `relative_bytes`.
    """
    q = scratch
    scales = take(q, tokens * head_width)
    zeros = take(scales, tokens * 4)
    group = take(zeros, tokens * 4)
    tile = take(group, GROUP_BYTES)
    stride = score_stride(tokens) * 4
    width = model.relative_width
    at = head * width
    if int8:
        quantize_rows(rows, head_width * 4, count, head_width, q, head_width, scales, zeros, group)
    row = 0
    while row < count:
        here = min(INT8_ROWS if int8 else FLOAT_ROWS, count - row)
        first = _column(model, origin, -(row + here - 1)) & -_ALIGNED
        last = _column(model, origin, tokens - 1 - row)
        blocks = ((last - first) // _ALIGNED + 1) * NARROW_COLUMNS
        columns = blocks * 16
        if int8:
            groups = head_width >> 2
            panel = positions.weight + ((at + first) >> 4) * groups * 64
            a = q + row * head_width
            done = int8_product(here, a, head_width, panel, groups * 64, groups, blocks, tile, columns * 4)
            for r in range(done):
                scale = load_f32(scales + 4 * (row + r))
                zero = load_f32(zeros + 4 * (row + r))
                offset = 4 * (at + first)
                _to_float(tile + r * columns * 4, columns, scale, zero, positions.scale + offset, positions.column_sum + offset)
        else:
            panel = positions.weight + ((at + first) >> 4) * head_width * 64
            a = rows + row * head_width * 4
            done = float_product(here, a, head_width * 4, panel, head_width * 64, 64, head_width, blocks, tile, columns * 4)
        for r in range(done):
            _move_window(model, origin, tile + r * columns * 4, first, row + r, tokens, out + (row + r) * stride)
        row += done


@outlined
def _add_turned(source, count, tokens, out, add, block):  # type: ignore[no-untyped-def]
    """out[i, j] = source[j, i], i < count, added to what is there with `add`; both float32 rows of score_stride(tokens)."""
    stride = score_stride(tokens) * 4
    for row in range(tokens, (tokens + 15) & -16):
        for i in range(0, stride, 64):
            store_f32x16(source + row * stride + i, splat_f32(_ZERO))
    for i in range(0, count, 16):
        for j in range(0, tokens, 16):
            transpose_f32(source + j * stride + 4 * i, stride, block, 64)
            for r in range(min(16, count - i)):
                target = out + (i + r) * stride + 4 * j
                value = load_f32x16(block + 64 * r)
                if add:
                    value = value + load_f32x16(target)
                store_f32x16(target, value)


@outlined
def relative_scores(model, layer, head, queries, count, keys, tokens, head_width, int8, scratch):  # type: ignore[no-untyped-def]
    """What relative positions add to the scores Q·Kᵀ of one text and head, before the scale.

    Args:
        model, layer: Model, Layer, with relative positions. int8: whether the tables are.
        queries: float32 [count][head_width], of the text's first tokens. keys: float32 [tokens][head_width].
        scratch: relative_bytes(max_tokens, head_width, model.relative_width) for some max_tokens ≥ tokens, 64-byte aligned.

    Returns the address of float32 [count][score_stride(tokens)] in the scratch, zero from `tokens` to its next multiple of 16.
    """
    matrix = (tokens + 16) * score_stride(tokens) * 4
    turned = take(scratch, matrix)
    work = take(turned, matrix)
    direct = layer.position_key.weight != 0
    if direct:
        _meet_positions(model, queries, count, tokens, head_width, layer.position_key, model.relative_span - 1, head, int8, scratch, work)
    if layer.position_query.weight != 0:
        _meet_positions(model, keys, tokens, tokens, head_width, layer.position_query, model.relative_span, head, int8, turned, work)
        _add_turned(turned, count, tokens, scratch, direct, work)
    return scratch

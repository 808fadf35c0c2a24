"""Linear layers with fused epilogues: dequantization, bias, residual or activation in one pass over the tile.

int8:   y[r, n] = scale_x[r]·scale_w[n]·(Σ_k q_x[r, k]·q_w[n, k] − zero_x[r]·Σ_k q_w[n, k]) + bias[n], the sums in int32
float:  y[r, n] = Σ_k x[r, k]·w[n, k] + bias[n]

Outputs go to rows, or to heads: column block c of the query, key and value parts goes to its own head's rows, so that
attention reads contiguous rows. Rows are not padded; columns are, to whole panels.
"""

from __future__ import annotations

import numpy as np

from tinybert_rt.config import ACTIVATIONS
from tinybert_rt.kernels.jit import inline, outlined
from tinybert_rt.kernels.math import activate
from tinybert_rt.kernels.memory import load_i64, store_i64
from tinybert_rt.kernels.panels import FLOAT_COLUMNS, INT8_COLUMNS, INT8_ROWS, float_rows, int8_linear_rows
from tinybert_rt.kernels.tile import ADD_RESIDUAL, AS_IT_IS, THROUGH_GELU, THROUGH_GELU_TANH
from tinybert_rt.kernels.vector import load_f32x16, store_f32x16

PLAIN = np.int64(-1)
RESIDUAL = np.int64(-2)
"""Epilogues; a number ≥ 0 is an activation of `layout.ACTIVATIONS`."""

_TILES_FOR_NEAR = 5
"""From so many tiles of rows on, weights are brought into the first-level cache ahead of their use, else into the second."""
_GELU = ACTIVATIONS["gelu"]
_GELU_TANH = ACTIVATIONS["gelu_tanh"]


@inline
def _finish(epilogue, value, residual):  # type: ignore[no-untyped-def]
    if epilogue == PLAIN:
        return value
    if epilogue == RESIDUAL:
        return value + load_f32x16(residual)
    return activate(epilogue, value)


@inline
def _block_offset(target, block):  # type: ignore[no-untyped-def]
    """Byte offset of a 16-column block in row 0 of the output, see `Target`."""
    part = block // target.part_blocks
    inside = block - part * target.part_blocks
    group = inside // target.group_blocks
    return part * target.part_stride + group * target.group_stride + (inside - group * target.group_blocks) * 64


@outlined
def linear_int8(x, x_stride, scales, zeros, rows, weights, first, last, after, target, epilogue, tile):  # type: ignore[no-untyped-def]
    """Column blocks `first` … `last`−1 (multiples of INT8_COLUMNS) of an int8 linear layer.

    Args:
        x: u8 [rows][x_stride bytes], of which ceil(inputs/4)·4 are read.
        scales, zeros: float32 [rows].
        after: the column block that is wanted next. weights: Linear. target: Target. epilogue: PLAIN, RESIDUAL or an activation.
        tile: scratch, `encoder.plan.TILE_BYTES`.
    """
    groups = (weights.inputs + 3) >> 2
    block_stride = groups * 64
    out = target.out
    out_stride = target.row_stride
    residual = target.residual
    # Of the activations, both forms of GELU are computed in the tile's registers, ReLU from the rows that it has just written.
    finish = np.int64(AS_IT_IS)
    if epilogue == RESIDUAL:
        finish = np.int64(ADD_RESIDUAL)
    elif epilogue == _GELU:
        finish = np.int64(THROUGH_GELU)
    elif epilogue == _GELU_TANH:
        finish = np.int64(THROUGH_GELU_TANH)
    later = epilogue >= 0 and finish == AS_IT_IS
    # While the rows meet one panel of weights, the next one comes nearer, a part with each tile: memory is then never asked for more
    # than it can give at a time. With few rows, it is what all wait for, and the first-level cache has no room for more requests.
    panel_bytes = block_stride * INT8_COLUMNS
    tiles = max(1, (rows + INT8_ROWS - 1) // INT8_ROWS)
    ahead_step = (64 * INT8_COLUMNS + tiles - 1) // tiles
    block = first
    while block < last:
        panel = weights.weight + block * block_stride
        ahead = panel + panel_bytes if block + INT8_COLUMNS < last else weights.weight + after * block_stride
        far, far_step, near, near_step = panel, np.int64(0), ahead, ahead_step
        if tiles < _TILES_FOR_NEAR:
            far, far_step, near, near_step = ahead, ahead_step, panel, np.int64(0)
        for j in range(INT8_COLUMNS):
            store_i64(tile + 8 * j, _block_offset(target, block + j))
        column = 64 * block
        row = 0
        while row < rows:
            done = int8_linear_rows(
                rows - row,
                x + row * x_stride,
                x_stride,
                panel,
                block_stride,
                groups,
                finish,
                scales + 4 * row,
                zeros + 4 * row,
                weights.scale + column,
                weights.column_sum + column,
                weights.bias + column,
                out + row * out_stride,
                out_stride,
                residual + row * out_stride,
                tile,
                far,
                far_step,
                near,
                near_step,
            )
            far += groups * far_step
            near += groups * near_step
            if later:
                for j in range(INT8_COLUMNS):
                    at = out + load_i64(tile + 8 * j) + row * out_stride
                    for r in range(done):
                        store_f32x16(at + r * out_stride, activate(epilogue, load_f32x16(at + r * out_stride)))
            row += done
        block += INT8_COLUMNS


@outlined
def linear_float(x, x_stride, rows, weights, first, last, target, epilogue, tile):  # type: ignore[no-untyped-def]
    """Column blocks `first` … `last`−1 (multiples of FLOAT_COLUMNS) of a float32 linear layer.

    Args:
        x: float32 [rows], rows x_stride bytes apart, of which `inputs` values are read.
        weights, target, epilogue, tile: as in `linear_int8`.
    """
    inputs = weights.inputs
    block_stride = inputs * 64
    out = target.out
    out_stride = target.row_stride
    residual = target.residual
    tile_stride = FLOAT_COLUMNS * 64
    block = first
    while block < last:
        panel = weights.weight + block * block_stride
        row = 0
        while row < rows:
            done = float_rows(rows - row, x + row * x_stride, x_stride, panel, block_stride, 64, inputs, tile, tile_stride)
            for j in range(FLOAT_COLUMNS):
                bias = load_f32x16(weights.bias + (block + j) * 64)
                offset = _block_offset(target, block + j) + row * out_stride
                for r in range(done):
                    value = load_f32x16(tile + (r * FLOAT_COLUMNS + j) * 64) + bias
                    at = offset + r * out_stride
                    store_f32x16(out + at, _finish(epilogue, value, residual + at))
            row += done
        block += FLOAT_COLUMNS

"""Kernels that the tests call one by one, compiled for each instruction-set level of the machine."""

from __future__ import annotations

from numba.core import types

from tinybert_rt.encoder.structs import Target
from tinybert_rt.format.structs import Linear, Norm
from tinybert_rt.kernels import attention, attention_int8, attention_probabilities, linear, rows, vector
from tinybert_rt.kernels import math as vector_math
from tinybert_rt.kernels.jit import kernel
from tinybert_rt.kernels.memory import load_i64, store_f32
from tinybert_rt.kernels.panels import float_product, int8_product
from tinybert_rt.kernels.vector import load_f32x16, store_f32x16, store_i32x16

_I = types.int64
_F = types.float32


@kernel
def map_exp2(count, x, y):
    for i in range(0, count * 4, 64):
        store_f32x16(y + i, vector_math.exp2(load_f32x16(x + i)))


@kernel
def map_exp2_levels(count, x, y):
    for i in range(0, count * 4, 64):
        store_f32x16(y + i, vector_math.exp2_levels(load_f32x16(x + i)))


@kernel
def map_gelu_near(count, x, y):
    for i in range(0, count * 4, 64):
        store_f32x16(y + i, vector_math.gelu_near(load_f32x16(x + i)))


@kernel
def map_gelu_tanh_near(count, x, y):
    for i in range(0, count * 4, 64):
        store_f32x16(y + i, vector_math.gelu_tanh_near(load_f32x16(x + i)))


@kernel
def map_log2(count, x, y):
    for i in range(0, count * 4, 64):
        store_f32x16(y + i, vector_math.log2(load_f32x16(x + i)))


@kernel
def map_activation(kind, count, x, y):
    for i in range(0, count * 4, 64):
        store_f32x16(y + i, vector_math.activate(kind, load_f32x16(x + i)))


@kernel
def map_fma(count, a, b, c, y):
    for i in range(0, count * 4, 64):
        store_f32x16(y + i, vector.fma(load_f32x16(a + i), load_f32x16(b + i), load_f32x16(c + i)))


@kernel
def map_round(count, x, y):
    for i in range(0, count * 4, 64):
        store_i32x16(y + i, vector.round_to_i32(load_f32x16(x + i)))


@kernel
def sum_lanes(x, y):
    store_f32(y, vector.reduce_add(load_f32x16(x)))
    store_f32(y + 4, vector.reduce_max(load_f32x16(x)))


@kernel
def group_bytes():
    return rows.GROUP_BYTES


@kernel
def transpose(x, stride, y):
    vector.transpose_f32(x, stride, y, 64)


@kernel
def int8_matrix(arguments):
    """a, a_stride, b, b_block_stride, groups, rows, out (int32 [rows][blocks·16]), out_stride, blocks."""
    a = load_i64(arguments)
    a_stride = load_i64(arguments + 8)
    out = load_i64(arguments + 48)
    row = 0
    rows_left = load_i64(arguments + 40)
    out_stride = load_i64(arguments + 56)
    while rows_left > 0:
        done = int8_product(
            rows_left,
            a + row * a_stride,
            a_stride,
            load_i64(arguments + 16),
            load_i64(arguments + 24),
            load_i64(arguments + 32),
            load_i64(arguments + 64),
            out,
            out_stride,
        )
        row += done
        rows_left -= done
        out += done * out_stride
    return row


@kernel
def float_matrix(arguments):
    """a, a_stride, b, b_block_stride, b_stride, depth, blocks, rows, out, out_stride."""
    a = load_i64(arguments)
    a_stride = load_i64(arguments + 8)
    rows_left = load_i64(arguments + 56)
    out = load_i64(arguments + 64)
    out_stride = load_i64(arguments + 72)
    while rows_left > 0:
        done = float_product(
            rows_left,
            a,
            a_stride,
            load_i64(arguments + 16),
            load_i64(arguments + 24),
            load_i64(arguments + 32),
            load_i64(arguments + 40),
            load_i64(arguments + 48),
            out,
            out_stride,
        )
        a += done * a_stride
        out += done * out_stride
        rows_left -= done
    return rows_left


def exports():
    """See `tinybert_rt.engine.emit.lower_to_module`."""
    void = types.void
    return [
        ("map_exp2", map_exp2, void, [_I] * 3),
        ("map_exp2_levels", map_exp2_levels, void, [_I] * 3),
        ("map_gelu_near", map_gelu_near, void, [_I] * 3),
        ("map_gelu_tanh_near", map_gelu_tanh_near, void, [_I] * 3),
        ("map_log2", map_log2, void, [_I] * 3),
        ("map_activation", map_activation, void, [_I] * 4),
        ("map_fma", map_fma, void, [_I] * 5),
        ("map_round", map_round, void, [_I] * 3),
        ("sum_lanes", sum_lanes, void, [_I] * 2),
        ("transpose", transpose, void, [_I] * 3),
        ("int8_matrix", int8_matrix, _I, [_I]),
        ("float_matrix", float_matrix, _I, [_I]),
        ("group_bytes", group_bytes, _I, []),
        ("quantize_rows", rows.quantize_rows, void, [_I] * 9),
        ("layer_norm_rows", rows.layer_norm_rows, void, [_I] * 5 + [Norm.pointer, _F] + [_I] * 5),
        ("normalize_row", rows.normalize_row, void, [_I] * 2),
        ("is_finite_row", rows.is_finite_row, _I, [_I] * 2),
        ("pool_mean", rows.pool_mean, void, [_I] * 4),
        ("pool_max", rows.pool_max, void, [_I] * 4),
        ("attention_bytes", attention.attention_bytes, _I, [_I] * 2),
        ("attention_head", attention.attention_head, void, [_I, _I, _I, _I, _I, _I, _F, *[_I] * 6]),
        ("attention_int8_bytes", attention_int8.attention_int8_bytes, _I, [_I] * 2),
        ("attention_head_int8", attention_int8.attention_head_int8, void, [_I, _I, _I, _I, _I, _I, _F, *[_I] * 5]),
        ("probabilities_bytes", attention_probabilities.probabilities_bytes, _I, [_I] * 2),
        ("attention_scores", attention_probabilities.attention_scores, void, [_I] * 6),
        ("softmax_scores", attention_probabilities.softmax_scores, void, [_I, _I, _F, _I, _I, _I]),
        ("linear_int8", linear.linear_int8, void, [_I, _I, _I, _I, _I, Linear.pointer, _I, _I, _I, Target.pointer, _I, _I]),
        ("linear_float", linear.linear_float, void, [_I, _I, _I, Linear.pointer, _I, _I, Target.pointer, _I, _I]),
    ]

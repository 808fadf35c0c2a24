"""The dot product and the tiles, each behind one address of arguments: a small unit to emit for machines other than this one."""

from __future__ import annotations

import numpy as np
from kernel_exports import float_matrix, int8_matrix
from numba.core import types

from tinybert_rt.kernels.jit import kernel
from tinybert_rt.kernels.memory import load_i64
from tinybert_rt.kernels.panels import int8_linear_rows
from tinybert_rt.kernels.vector import dot4, load_i32x16, store_i32x16


@kernel
def dot_products(arguments):
    """count, acc (int32 [count][16]), a (u8 [count][64]), b (s8 [count][64]), out (int32 [count][16]): out = dot4(acc, a, b)."""
    acc = load_i64(arguments + 8)
    a = load_i64(arguments + 16)
    b = load_i64(arguments + 24)
    out = load_i64(arguments + 32)
    for i in range(0, 64 * load_i64(arguments), 64):
        store_i32x16(out + i, dot4(load_i32x16(acc + i), load_i32x16(a + i), load_i32x16(b + i)))
    return out


@kernel
def linear_matrix(arguments):
    """One panel of a linear layer. Arguments: rows, then those of `panels.int8_linear_rows` from the second one up to `offsets`."""
    rows = load_i64(arguments)
    stride = load_i64(arguments + 16)
    groups = load_i64(arguments + 40)
    out_stride = load_i64(arguments + 104)
    row = 0
    while row < rows:
        row += int8_linear_rows(
            rows - row,
            load_i64(arguments + 8) + row * stride,
            stride,
            load_i64(arguments + 24),
            load_i64(arguments + 32),
            groups,
            load_i64(arguments + 48),
            load_i64(arguments + 56) + 4 * row,
            load_i64(arguments + 64) + 4 * row,
            load_i64(arguments + 72),
            load_i64(arguments + 80),
            load_i64(arguments + 88),
            load_i64(arguments + 96) + row * out_stride,
            out_stride,
            load_i64(arguments + 112) + row * out_stride,
            load_i64(arguments + 120),
            load_i64(arguments + 24),
            np.int64(64),
            load_i64(arguments + 24),
            np.int64(64),
        )
    return row


def exports():
    """See `tinybert_rt.engine.emit.lower_to_module`."""
    functions = {"dot_products": dot_products, "int8_matrix": int8_matrix, "linear_matrix": linear_matrix, "float_matrix": float_matrix}
    return [(name, function, types.int64, [types.int64]) for name, function in functions.items()]

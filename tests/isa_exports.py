"""The dot product and the tiles, each behind one address of arguments: a small unit to emit for machines other than this one."""

from __future__ import annotations

from kernel_exports import float_matrix, int8_matrix
from numba.core import types

from tinybert_rt.kernels.jit import kernel
from tinybert_rt.kernels.memory import load_i64
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


def exports():
    """See `tinybert_rt.engine.emit.lower_to_module`."""
    functions = {"dot_products": dot_products, "int8_matrix": int8_matrix, "float_matrix": float_matrix}
    return [(name, function, types.int64, [types.int64]) for name, function in functions.items()]

"""The loop of `bench.peak`: one int8 tile's dot products, again and again, on operands that stay in the first-level cache.

It is the micro-kernel of `tinybert_rt.kernels.tile` without what a product needs beside it: no depth to walk, no epilogue. Operands are
read anew in every step, as there: the optimiser is kept from knowing that their addresses stay the same.
"""

from __future__ import annotations

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from tinybert_rt.isa import lowering
from tinybert_rt.isa.lowering import I32, I32X16, I64
from tinybert_rt.kernels.jit import kernel
from tinybert_rt.kernels.memory import address_to_pointer

ROWS, COLUMNS = lowering.active().tile_int8
VECTOR_BYTES = 64
MACS_PER_STEP = ROWS * COLUMNS * VECTOR_BYTES


def _hide(builder, address):
    """The same address, of which the optimiser knows nothing."""
    return builder.asm(ir.FunctionType(I64, [I64]), "", "=r,0", [address], True)


def _load(builder, address, offset, element):
    place = builder.add(address, ir.Constant(I64, offset))
    return builder.load(address_to_pointer(builder, place, element), align=4)


@intrinsic
def _dot_steps(typingctx, steps, a, b, out):
    """`steps` ≥ 1 times: a tile's accumulators += rows of a (4 bytes, u8, 64 bytes apart) · columns of b (64 bytes, s8). Sums to out."""

    def codegen(context, builder, signature, arguments):
        steps, a, b, out = arguments
        entry, loop, done = builder.block, builder.append_basic_block("steps"), builder.append_basic_block("done")
        builder.branch(loop)
        builder.position_at_end(loop)
        left = builder.phi(I64)
        accumulators = [builder.phi(I32X16) for _ in range(ROWS * COLUMNS)]
        hidden_a, hidden_b = _hide(builder, a), _hide(builder, b)
        weights = [_load(builder, hidden_b, VECTOR_BYTES * column, I32X16) for column in range(COLUMNS)]
        sums = []
        for row in range(ROWS):
            activation = lowering.splat(builder, _load(builder, hidden_a, VECTOR_BYTES * row, I32), I32X16)
            for column, weight in enumerate(weights):
                sums.append(lowering.dot4(builder, accumulators[row * COLUMNS + column], activation, weight))
        after = builder.sub(left, ir.Constant(I64, 1))
        for phi, start, value in zip([left, *accumulators], [steps, *[ir.Constant(I32X16, None)] * len(sums)], [after, *sums], strict=True):
            phi.add_incoming(start, entry)
            phi.add_incoming(value, builder.block)
        builder.cbranch(builder.icmp_signed("!=", after, ir.Constant(I64, 0)), loop, done)
        builder.position_at_end(done)
        for index, value in enumerate(sums):
            place = builder.add(out, ir.Constant(I64, VECTOR_BYTES * index))
            builder.store(value, address_to_pointer(builder, place, I32X16), align=4)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64, types.int64), codegen


@kernel
def dot_steps(steps, a, b, out):
    _dot_steps(steps, a, b, out)


@kernel
def macs_per_step():
    return MACS_PER_STEP


def exports():
    """See `tinybert_rt.engine.emit.lower_to_module`."""
    integer = types.int64
    return [("dot_steps", dot_steps, types.void, [integer] * 4), ("macs_per_step", macs_per_step, integer, [])]

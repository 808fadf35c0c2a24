"""The two GEMM micro-kernels, written directly as LLVM IR: a tile of rows × 16-lane columns held in registers.

Both walk the depth once, in steps of a few and then of one, and keep rows·columns accumulators as loop-carried values. Depth
order is the same for every tile size, so an output value does not depend on the tile that computed it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from tinybert_rt.isa import lowering
from tinybert_rt.isa.lowering import F32X16, I32X16, I64
from tinybert_rt.kernels.memory import address_to_pointer

_UNROLL = 4

_Values = list[list[ir.Value]]
_Step = Callable[[ir.Value, int, int, _Values], _Values]
"""step(start, offset, count, accumulators) → accumulators, for depth index start + offset of a turn from start to start + count."""


def _depth_loop(
    builder: Any,
    rows: int,
    columns: int,
    depth: ir.Value,
    vector: ir.Type,
    step: _Step,
) -> _Values:
    """A loop over depth ≥ 1 with rows×columns accumulators; `step` gives the new ones.

    Most of it goes in steps of _UNROLL, so that addresses are worked out once for several indices, and that the loop is short
    enough for its end to be foreseen by the branch predictor.
    """
    zeros: _Values = [[ir.Constant(vector, None)] * columns for _ in range(rows)]
    start: ir.Value = ir.Constant(I64, 0)
    main = builder.and_(depth, ir.Constant(I64, -_UNROLL))
    values, index = _counted_loop(builder, zeros, start, main, _UNROLL, step)
    return _counted_loop(builder, values, index, depth, 1, step)[0]


def _counted_loop(
    builder: Any,
    values: _Values,
    start: ir.Value,
    end: ir.Value,
    stride: int,
    step: _Step,
) -> tuple[_Values, ir.Value]:
    """`step` for the indices from start to end, `stride` of them in one turn; none if they are equal. Returns also the index after."""
    entry = builder.block
    loop = builder.append_basic_block("depth")
    done = builder.append_basic_block("done")
    builder.cbranch(builder.icmp_signed("<", start, end), loop, done)
    builder.position_at_end(loop)
    index = builder.phi(I64)
    index.add_incoming(start, entry)
    phis = [[builder.phi(value.type) for value in row] for row in values]
    new = phis
    for offset in range(stride):
        new = step(index, offset, stride, new)
    after = builder.add(index, ir.Constant(I64, stride))
    index.add_incoming(after, builder.block)
    latch = builder.block
    builder.cbranch(builder.icmp_signed("<", after, end), loop, done)
    builder.position_at_end(done)
    index_done = builder.phi(I64)
    index_done.add_incoming(start, entry)
    index_done.add_incoming(after, latch)
    result = []
    for row, phi_row, new_row in zip(values, phis, new, strict=True):
        result.append([builder.phi(value.type) for value in row])
        for value, phi, again, out in zip(row, phi_row, new_row, result[-1], strict=True):
            phi.add_incoming(value, entry)
            phi.add_incoming(again, latch)
            out.add_incoming(value, entry)
            out.add_incoming(again, latch)
    return result, index_done


def _store_tile(builder: Any, values: _Values, out: ir.Value, out_stride: ir.Value) -> None:
    for i, row in enumerate(values):
        base = builder.add(out, builder.mul(out_stride, ir.Constant(I64, i)))
        for j, value in enumerate(row):
            address = builder.add(base, ir.Constant(I64, 64 * j))
            builder.store(value, address_to_pointer(builder, address, value.type), align=4)


def _offsets(builder: Any, base: ir.Value, stride: ir.Value, count: int) -> list[ir.Value]:
    return [builder.add(base, builder.mul(stride, ir.Constant(I64, i))) for i in range(count)]


def _index(builder: Any, start: ir.Value, offset: int) -> ir.Value:
    return builder.add(start, ir.Constant(I64, offset)) if offset else start


def _spread(builder: Any, address: ir.Value, lane: int, count: int, vector: ir.Type, align: int) -> ir.Value:
    """A vector with value `lane` of the `count` 32-bit values at an address in each lane."""
    if count == 1:
        return lowering.splat(builder, builder.load(address_to_pointer(builder, address, vector.element), align=align), vector)
    values = builder.load(address_to_pointer(builder, address, ir.VectorType(vector.element, count)), align=align)
    return lowering.shuffle(builder, values, None, [lane] * vector.count)


def int8_tile(rows: int, columns: int) -> Any:
    """The int8 micro-kernel for a tile of `rows` × `columns`·16 outputs.

    int8_tile(…)(a, a_stride, b, b_block_stride, groups, out, out_stride): int64 arguments, strides in bytes.
        a: u8 rows, `groups`·4 bytes each are read.
        b: s8 blocks [columns][groups][16][4], `b_block_stride` apart.
        out: int32 [rows][columns·16], rows `out_stride` apart; the accumulators are stored there.
    """

    @intrinsic
    def tile(typingctx, a, a_stride, b, b_block_stride, groups, out, out_stride):  # type: ignore[no-untyped-def]
        def codegen(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            a, a_stride, b, b_block_stride, groups, out, out_stride = arguments
            a_rows = _offsets(builder, a, a_stride, rows)
            b_blocks = _offsets(builder, b, b_block_stride, columns)
            # While this panel is multiplied, the next one comes nearer: with few rows, memory is what all wait for.
            next_panel = builder.mul(b_block_stride, ir.Constant(I64, columns))
            next_blocks = [builder.add(block, next_panel) for block in b_blocks]

            lanes = lowering.active().lanes_int8
            # Where the dot product is of shifted activations, one more row of zeros sums up what the shift does to the others.
            shifted = lowering.shifted_dot4()
            dot4 = shifted or lowering.dot4
            all_rows = a_rows if shifted is None else [*a_rows, None]
            zero = ir.Constant(I32X16, None)

            def step(start: ir.Value, offset: int, count: int, accumulators: _Values) -> _Values:
                index = _index(builder, start, offset)
                first, lane, loaded = (start, offset, count) if lanes else (index, 0, 1)
                a_offset = builder.mul(first, ir.Constant(I64, 4))
                b_offset = builder.mul(index, ir.Constant(I64, 64))
                weights = [builder.load(address_to_pointer(builder, builder.add(block, b_offset), I32X16), align=4) for block in b_blocks]
                for block in next_blocks:
                    lowering.prefetch(builder, address_to_pointer(builder, builder.add(block, b_offset), ir.IntType(8)))
                result = []
                for row, accumulator in zip(all_rows, accumulators, strict=True):
                    activation = zero if row is None else _spread(builder, builder.add(row, a_offset), lane, loaded, I32X16, 1)
                    result.append([dot4(builder, acc, activation, weight) for acc, weight in zip(accumulator, weights, strict=True)])
                return result

            sums = _depth_loop(builder, len(all_rows), columns, groups, I32X16, step)
            if shifted is not None:
                *sums, shifts = sums
                sums = [[builder.sub(value, shift) for value, shift in zip(row, shifts, strict=True)] for row in sums]
            _store_tile(builder, sums, out, out_stride)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 7), codegen

    return tile


def float_tile(rows: int, columns: int) -> Any:
    """The float32 micro-kernel for a tile of `rows` × `columns`·16 outputs.

    float_tile(…)(a, a_stride, b, b_block_stride, b_stride, depth, out, out_stride): int64 arguments, strides in bytes.
        a: float32 rows, `depth` values each.
        b: float32; the 16 values for depth k of column block j are at b + j·b_block_stride + k·b_stride.
        out: float32 [rows][columns·16], rows `out_stride` apart.
    Each output is a chain of fused multiply-adds in depth order, from zero.
    """

    @intrinsic
    def tile(typingctx, a, a_stride, b, b_block_stride, b_stride, depth, out, out_stride):  # type: ignore[no-untyped-def]
        def codegen(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            a, a_stride, b, b_block_stride, b_stride, depth, out, out_stride = arguments
            a_rows = _offsets(builder, a, a_stride, rows)
            b_blocks = _offsets(builder, b, b_block_stride, columns)

            lanes = lowering.active().lanes_float

            def step(start: ir.Value, offset: int, count: int, accumulators: _Values) -> _Values:
                index = _index(builder, start, offset)
                first, lane, loaded = (start, offset, count) if lanes else (index, 0, 1)
                a_offset = builder.mul(first, ir.Constant(I64, 4))
                b_offset = builder.mul(index, b_stride)
                weights = [builder.load(address_to_pointer(builder, builder.add(block, b_offset), F32X16), align=4) for block in b_blocks]
                result = []
                for row, accumulator in zip(a_rows, accumulators, strict=True):
                    spread = _spread(builder, builder.add(row, a_offset), lane, loaded, F32X16, 4)
                    result.append([lowering.fma(builder, spread, weight, acc) for acc, weight in zip(accumulator, weights, strict=True)])
                return result

            _store_tile(builder, _depth_loop(builder, rows, columns, depth, F32X16, step), out, out_stride)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 8), codegen

    return tile

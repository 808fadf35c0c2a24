"""The GEMM micro-kernels, written directly as LLVM IR: a tile of rows × 16-lane columns held in registers.

All walk the depth once, in steps of a few and then of one, and keep rows·columns accumulators as loop-carried values. Depth
order is the same for every tile size, so an output value does not depend on the tile that computed it. What is computed from
the accumulators of linear layers and of scores is computed before they leave the registers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from tinybert_rt.isa import lowering
from tinybert_rt.isa.lowering import F32X16, I32X16, I64
from tinybert_rt.kernels.math import GELU_NEAR, GELU_TANH_NEAR, Segments, build_gelu_near, gelu_near_constants
from tinybert_rt.kernels.memory import address_to_pointer
from tinybert_rt.kernels.vector import load, store

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
            store(builder, address, value)


def _equals(builder: Any, value: ir.Value, number: int) -> ir.Value:
    return builder.icmp_signed("==", value, ir.Constant(I64, number))


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


def _int8_sums(builder: Any, rows: int, columns: int, operands: Sequence[ir.Value], ahead: Sequence[ir.Value] = ()) -> _Values:
    """The int32 accumulators of a tile, see `int8_tile` for the operands (a to groups).

    ahead: none, or two addresses, each with a number of bytes: step k brings the `columns` cache lines from address + k·bytes on into
        the second-level cache, and the line of the other address + k·its bytes into the first-level cache.
    """
    a, a_stride, b, b_block_stride, groups = operands
    a_rows = _offsets(builder, a, a_stride, rows)
    b_blocks = _offsets(builder, b, b_block_stride, columns)
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
        weights = [load(builder, builder.add(block, b_offset), I32X16) for block in b_blocks]
        if ahead:
            far, near = (builder.add(start, builder.mul(index, step)) for start, step in (ahead[:2], ahead[2:]))
            for column in range(columns):
                lowering.prefetch(builder, address_to_pointer(builder, _index(builder, far, 64 * column), ir.IntType(8)), 2)
            lowering.prefetch(builder, address_to_pointer(builder, near, ir.IntType(8)), 1)
        result = []
        for row, accumulator in zip(all_rows, accumulators, strict=True):
            activation = zero if row is None else _spread(builder, builder.add(row, a_offset), lane, loaded, I32X16, 1)
            result.append([dot4(builder, acc, activation, weight) for acc, weight in zip(accumulator, weights, strict=True)])
        return result

    sums = _depth_loop(builder, len(all_rows), columns, groups, I32X16, step)
    if shifted is not None:
        *sums, shifts = sums
        sums = [[builder.sub(value, shift) for value, shift in zip(row, shifts, strict=True)] for row in sums]
    return sums


def _for_each_height(builder: Any, rows: ir.Value, most: int, emit: Callable[[int], None]) -> None:
    """`emit` the code for each number of rows from 1 to `most`; `rows` says which of them runs."""
    done = builder.append_basic_block("rows.done")
    heights = [builder.append_basic_block(f"rows.{height}") for height in range(1, most + 1)]
    switch = builder.switch(rows, heights[-1])
    for height, block in enumerate(heights, 1):
        if height < most:
            switch.add_case(ir.Constant(I64, height), block)
        builder.position_at_end(block)
        emit(height)
        builder.branch(done)
    builder.position_at_end(done)


def int8_tile(most: int, columns: int) -> Any:
    """The int8 micro-kernel for a tile of up to `most` rows × `columns`·16 outputs.

    int8_tile(…)(rows, a, a_stride, b, b_block_stride, groups, out, out_stride): int64 arguments, strides in bytes.
        rows: 1 … most.
        a: u8 rows, `groups`·4 bytes each are read.
        b: s8 blocks [columns][groups][16][4], `b_block_stride` apart.
        out: int32 [rows][columns·16], rows `out_stride` apart; the accumulators are stored there.
    """

    @intrinsic
    def tile(typingctx, rows, a, a_stride, b, b_block_stride, groups, out, out_stride):  # type: ignore[no-untyped-def]
        def codegen(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            rows, *operands, out, out_stride = arguments

            def emit(height: int) -> None:
                _store_tile(builder, _int8_sums(builder, height, columns, operands), out, out_stride)

            _for_each_height(builder, rows, most, emit)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 8), codegen

    return tile


def _dequantize(
    builder: Any,
    products: list[ir.Value],
    zeros: list[ir.Value],
    sums: ir.Value,
    scales: list[ir.Value],
    column_scales: ir.Value,
    shift: ir.Value,
) -> list[ir.Value]:
    """scale·column_scales·(product − zero·sums) + shift of each of some products i32x16; sums: integers in an f32x16.

    zeros, scales: addresses of a float32 for each product.

    The products go through each step together: one behind the other they would fill the processor's queues with operations that wait.
    """
    floats = [builder.sitofp(product, F32X16) for product in products]
    floats = [
        lowering.fma_of_integers(builder, builder.fneg(_spread(builder, zero, 0, 1, F32X16, 4)), sums, value)
        for zero, value in zip(zeros, floats, strict=True)
    ]
    factors = [builder.fmul(column_scales, _spread(builder, scale, 0, 1, F32X16, 4)) for scale in scales]
    return [lowering.fma(builder, value, factor, shift) for value, factor in zip(floats, factors, strict=True)]


AS_IT_IS, ADD_RESIDUAL, THROUGH_GELU, THROUGH_GELU_TANH = range(4)
"""What `int8_linear_tile` does with a value before it stores it."""


def int8_linear_tile(most: int, columns: int) -> Any:
    """The tile of a linear layer: as `int8_tile`, but its values go from the accumulators to the layer's outputs in registers:

        out[r, c] = finish(scales[r]·weight_scale[c]·(Σ a·b − zeros[r]·column_sum[c]) + bias[c])

    The sum is exact in int32 and rounded once, to float32, before the difference is taken with one more rounding.

    int8_linear_tile(…)(rows, a, a_stride, b, b_block_stride, groups, finish, scales, zeros, weight_scale, column_sum, bias, out,
    out_stride, residual, offsets, far, far_step, near, near_step): int64 arguments, strides in bytes; those before `finish` as in
    `int8_tile`.
        finish: AS_IT_IS, ADD_RESIDUAL (the value at the same place of `residual`, which only then is read), THROUGH_GELU
            (`math.gelu_near`) or THROUGH_GELU_TANH (`math.gelu_tanh_near`).
        scales, zeros: float32 [rows].
        weight_scale, column_sum, bias: float32, int32, float32 [columns·16].
        out, residual: float32; row r of column block j is at offsets[j] + r·out_stride. offsets: int64 [columns].
        far, far_step, near, near_step: weights that are wanted soon, `ahead` of `_int8_sums`.
    """

    @intrinsic
    def tile(  # type: ignore[no-untyped-def]
        typingctx,
        rows,
        a,
        a_stride,
        b,
        b_block_stride,
        groups,
        finish,
        scales,
        zeros,
        weight_scale,
        column_sum,
        bias,
        out,
        out_stride,
        residual,
        offsets,
        far,
        far_step,
        near,
        near_step,
    ):
        def codegen(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            rows, *operands, finish, scales, zeros, weight_scale, column_sum, bias, out, out_stride, residual, offsets = arguments[:-4]

            def finish_all(sums: _Values, last_step: Callable[[list[ir.Value], list[ir.Value]], list[ir.Value]]) -> None:
                apart = _offsets(builder, ir.Constant(I64, 0), out_stride, len(sums))
                row_zeros, row_scales = (_offsets(builder, each, ir.Constant(I64, 4), len(sums)) for each in (zeros, scales))
                for j in range(columns):
                    weight_scales = load(builder, _index(builder, weight_scale, 64 * j), F32X16)
                    column_sums = builder.sitofp(load(builder, _index(builder, column_sum, 64 * j), I32X16), F32X16)
                    biases = load(builder, _index(builder, bias, 64 * j), F32X16)
                    offset = builder.load(address_to_pointer(builder, _index(builder, offsets, 8 * j), I64), align=8)
                    products = [row[j] for row in sums]
                    values = _dequantize(builder, products, row_zeros, column_sums, row_scales, weight_scales, biases)
                    places = [builder.add(offset, each) for each in apart]
                    for value, place in zip(last_step(values, places), places, strict=True):
                        store(builder, builder.add(out, place), value)

            def emit(height: int) -> None:
                sums = _int8_sums(builder, height, columns, operands, arguments[-4:])

                def through(segments: Segments) -> None:
                    constants = gelu_near_constants(builder, segments)
                    finish_all(sums, lambda values, places: build_gelu_near(builder, values, constants))

                def plus_residual(values: list[ir.Value], places: list[ir.Value]) -> list[ir.Value]:
                    more = [load(builder, builder.add(residual, place), F32X16) for place in places]
                    return [builder.fadd(value, each) for value, each in zip(values, more, strict=True)]

                with builder.if_else(_equals(builder, finish, THROUGH_GELU)) as (then, otherwise):
                    with then:
                        through(GELU_NEAR)
                    with otherwise, builder.if_else(_equals(builder, finish, ADD_RESIDUAL)) as (then, otherwise):
                        with then:
                            finish_all(sums, plus_residual)
                        with otherwise, builder.if_else(_equals(builder, finish, THROUGH_GELU_TANH)) as (then, otherwise):
                            with then:
                                through(GELU_TANH_NEAR)
                            with otherwise:
                                finish_all(sums, lambda values, places: values)

            _for_each_height(builder, rows, most, emit)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 20), codegen

    return tile


def int8_scores_tile(most: int, columns: int) -> Any:
    """The tile of attention's scores: as `int8_tile`, but its values leave the registers as scores, and the largest are kept:

        out[r, c] = factors[r]·scales[c]·(Σ a·b − zeros[r]·sums[c]) + shifts[c],  where added ≠ 0 plus added_factor·added[r, c]

    Float32 holds the differences exactly for heads of up to 1028 elements.

    int8_scores_tile(…)(rows, a, a_stride, b, b_block_stride, groups, per_query, per_key, table_stride, added, added_stride,
    added_factor, out, out_stride, tops): int64 arguments but for added_factor, strides in bytes; those before `per_query` as in
    `int8_tile`.
        per_query: float32 tables `table_stride` apart: factors, zeros [rows]. per_key: likewise sums, scales, shifts [columns·16].
        added: float32 rows `added_stride` apart, or 0. added_factor: float32.
        out: float32 [rows][columns·16], rows `out_stride` apart.
        tops: float32 [rows][16], become the maximum of what they are and the row's values, lane by lane.
    """

    @intrinsic
    def tile(  # type: ignore[no-untyped-def]
        typingctx,
        rows,
        a,
        a_stride,
        b,
        b_block_stride,
        groups,
        per_query,
        per_key,
        table_stride,
        added,
        added_stride,
        added_factor,
        out,
        out_stride,
        tops,
    ):
        def codegen(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            rows, *operands, per_query, per_key, table_stride, added, added_stride, added_factor, out, out_stride, tops = arguments

            def finish(products: _Values, plus: bool) -> None:
                out_rows = _offsets(builder, out, out_stride, len(products))
                added_rows = _offsets(builder, added, added_stride, len(products))
                factors, zeros = _offsets(builder, per_query, table_stride, 2)
                tables = _offsets(builder, per_key, table_stride, 3)
                largest = [load(builder, _index(builder, tops, 64 * r), F32X16) for r in range(len(products))]
                row_zeros, row_factors = (_offsets(builder, each, ir.Constant(I64, 4), len(products)) for each in (zeros, factors))
                for j in range(columns):
                    sums, scales, shifts = (load(builder, _index(builder, table, 64 * j), F32X16) for table in tables)
                    values = _dequantize(builder, [row[j] for row in products], row_zeros, sums, row_factors, scales, shifts)
                    for r, value in enumerate(values):
                        if plus:
                            more = load(builder, _index(builder, added_rows[r], 64 * j), F32X16)
                            value = lowering.fma(builder, more, lowering.splat(builder, added_factor, F32X16), value)
                        store(builder, _index(builder, out_rows[r], 64 * j), value)
                        largest[r] = builder.select(builder.fcmp_ordered(">", value, largest[r]), value, largest[r])
                for r, value in enumerate(largest):
                    store(builder, _index(builder, tops, 64 * r), value)

            def emit(height: int) -> None:
                products = _int8_sums(builder, height, columns, operands)
                with builder.if_else(_equals(builder, added, 0)) as (then, otherwise):
                    with then:
                        finish(products, plus=False)
                    with otherwise:
                        finish(products, plus=True)

            _for_each_height(builder, rows, most, emit)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 11, types.float32, *[types.int64] * 3), codegen

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
                weights = [load(builder, builder.add(block, b_offset), F32X16) for block in b_blocks]
                result = []
                for row, accumulator in zip(a_rows, accumulators, strict=True):
                    spread = _spread(builder, builder.add(row, a_offset), lane, loaded, F32X16, 4)
                    result.append([lowering.fma(builder, spread, weight, acc) for acc, weight in zip(accumulator, weights, strict=True)])
                return result

            _store_tile(builder, _depth_loop(builder, rows, columns, depth, F32X16, step), out, out_stride)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 8), codegen

    return tile

"""Rows through the micro-kernels: the tile that fits the rows that are left is chosen here, once for all users.

This module is imported while kernels are compiled for one level: the tile sizes are constants of that level.
"""

from __future__ import annotations

from tinybert_rt.isa.lowering import active
from tinybert_rt.kernels.jit import inline, kernel, outlined
from tinybert_rt.kernels.tile import float_tile, int8_linear_tile, int8_scores_tile, int8_tile

INT8_ROWS, INT8_COLUMNS = active().tile_int8
FLOAT_ROWS, FLOAT_COLUMNS = active().tile_float
if not (1 <= INT8_ROWS <= 6 and INT8_COLUMNS in (1, 2, 4)):
    raise ValueError(f"tile_int8 {INT8_ROWS}×{INT8_COLUMNS}: the dispatch below knows 1 to 6 rows and 1, 2 or 4 columns")
NARROW_COLUMNS = min(FLOAT_COLUMNS, 2)
"""Column blocks of the narrower float tile, so that attention need not pad to the wide one."""


@inline
def tile_height(rows, most):  # type: ignore[no-untyped-def]
    """Rows of the next tile when `rows` are left: `most`, or two about equal heights at the end instead of a small rest."""
    if rows > 2 * most:
        return most
    return (rows + 1) >> 1 if rows > most else rows


def _int8_rows(columns):
    """One int8 tile of at most `rows` ≥ 1 rows and `columns` column blocks, as a kernel that returns the number of rows done.

    The other arguments are those of `tile.int8_tile`.
    """
    tile = int8_tile(INT8_ROWS, columns)

    @outlined
    def int8_rows(rows, a, a_stride, b, b_block_stride, groups, out, out_stride):
        height = tile_height(rows, INT8_ROWS)
        tile(height, a, a_stride, b, b_block_stride, groups, out, out_stride)
        return height

    return int8_rows


def _score_rows(columns):
    """As `_int8_rows`, of `tile.int8_scores_tile`."""
    tile = int8_scores_tile(INT8_ROWS, columns)

    @outlined
    def score_rows(
        rows, q, q_stride, k, k_stride, groups, per_query, per_key, table_stride, added, added_stride, factor, out, out_stride, tops
    ):
        height = tile_height(rows, INT8_ROWS)
        tile(height, q, q_stride, k, k_stride, groups, per_query, per_key, table_stride, added, added_stride, factor, out, out_stride, tops)
        return height

    return score_rows


_int8_rows_wide = _int8_rows(INT8_COLUMNS)
_int8_rows_2 = _int8_rows(min(INT8_COLUMNS, 2))
_int8_rows_1 = _int8_rows(1)
_score_rows_wide = _score_rows(INT8_COLUMNS)
_score_rows_2 = _score_rows(min(INT8_COLUMNS, 2))
_score_rows_1 = _score_rows(1)
_linear_tile = int8_linear_tile(INT8_ROWS, INT8_COLUMNS)


@outlined
def int8_linear_rows(
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
):  # type: ignore[no-untyped-def]
    """One tile of a linear layer of at most `rows` ≥ 1 rows; returns the number of rows done. See `tile.int8_linear_tile`."""
    height = tile_height(rows, INT8_ROWS)
    _linear_tile(
        height,
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
    )
    return height


@kernel
def int8_scores(
    rows, q, q_stride, k, k_stride, groups, blocks, per_query, per_key, table_stride, added, added_stride, factor, out, out_stride, tops
):  # type: ignore[no-untyped-def]
    """Scores of at most INT8_ROWS queries and `blocks` ≥ 1 blocks of keys; returns the number of queries done.

    k_stride: bytes from one block of keys to the next. factor: `added_factor`. The other arguments are those of `tile.int8_scores_tile`.
    """
    done = 0
    block = 0
    while block < blocks:
        panel = k + block * k_stride
        keys = per_key + 64 * block
        more = 0 if added == 0 else added + 64 * block
        to = out + 64 * block
        if block + INT8_COLUMNS <= blocks:
            done = _score_rows_wide(
                rows, q, q_stride, panel, k_stride, groups, per_query, keys, table_stride, more, added_stride, factor, to, out_stride, tops
            )
            block += INT8_COLUMNS
        elif INT8_COLUMNS > 2 and block + 2 <= blocks:
            done = _score_rows_2(
                rows, q, q_stride, panel, k_stride, groups, per_query, keys, table_stride, more, added_stride, factor, to, out_stride, tops
            )
            block += 2
        else:
            done = _score_rows_1(
                rows, q, q_stride, panel, k_stride, groups, per_query, keys, table_stride, more, added_stride, factor, to, out_stride, tops
            )
            block += 1
    return done


@kernel
def int8_product(rows, a, a_stride, b, b_block_stride, groups, blocks, out, out_stride):  # type: ignore[no-untyped-def]
    """out = a·b for at most INT8_ROWS rows that are done as one tile height, int32; returns the number of rows done.

    blocks: column blocks, ≥ 1; the other arguments as in `tile.int8_tile`.
    """
    done = 0
    block = 0
    while block + INT8_COLUMNS <= blocks:
        done = _int8_rows_wide(rows, a, a_stride, b + block * b_block_stride, b_block_stride, groups, out + 64 * block, out_stride)
        block += INT8_COLUMNS
    if INT8_COLUMNS > 2 and block + 2 <= blocks:
        done = _int8_rows_2(rows, a, a_stride, b + block * b_block_stride, b_block_stride, groups, out + 64 * block, out_stride)
        block += 2
    if INT8_COLUMNS > 1 and block < blocks:
        done = _int8_rows_1(rows, a, a_stride, b + block * b_block_stride, b_block_stride, groups, out + 64 * block, out_stride)
    return done


def _float_rows(columns):
    """One float tile of at most `rows` ≥ 1 rows and `columns` column blocks, as a kernel that returns the number of rows done.

    The kernel's arguments are as in `tile.float_tile`.
    """
    full = float_tile(FLOAT_ROWS, columns)
    four = float_tile(4, columns)
    two = float_tile(2, columns)
    one = float_tile(1, columns)

    @outlined
    def float_rows(rows, a, a_stride, b, b_block_stride, b_stride, depth, out, out_stride):
        if rows >= FLOAT_ROWS:
            full(a, a_stride, b, b_block_stride, b_stride, depth, out, out_stride)
            return FLOAT_ROWS
        if FLOAT_ROWS > 4 and rows >= 4:
            four(a, a_stride, b, b_block_stride, b_stride, depth, out, out_stride)
            return 4
        if FLOAT_ROWS > 2 and rows >= 2:
            two(a, a_stride, b, b_block_stride, b_stride, depth, out, out_stride)
            return 2
        one(a, a_stride, b, b_block_stride, b_stride, depth, out, out_stride)
        return 1

    return float_rows


float_rows = _float_rows(FLOAT_COLUMNS)
_float_rows_narrow = _float_rows(NARROW_COLUMNS)


@kernel
def float_product(rows, a, a_stride, b, b_block_stride, b_stride, depth, blocks, out, out_stride):  # type: ignore[no-untyped-def]
    """out = a·b for at most FLOAT_ROWS rows that are done as one tile height; returns the number of rows done.

    blocks: column blocks, a multiple of NARROW_COLUMNS; the other arguments as in `tile.float_tile`.
    """
    done = 0
    block = 0
    while block + FLOAT_COLUMNS <= blocks:
        done = float_rows(rows, a, a_stride, b + block * b_block_stride, b_block_stride, b_stride, depth, out + 64 * block, out_stride)
        block += FLOAT_COLUMNS
    while block < blocks:
        done = _float_rows_narrow(
            rows, a, a_stride, b + block * b_block_stride, b_block_stride, b_stride, depth, out + 64 * block, out_stride
        )
        block += NARROW_COLUMNS
    return done

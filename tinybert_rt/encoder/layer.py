"""One layer of the encoder, and the steps that it shares with what comes before (BERT: Devlin et al. 2019, section 3)."""

from __future__ import annotations

import numpy as np

from tinybert_rt.encoder.inside import heads_bytes, keep_attentions
from tinybert_rt.encoder.structs import (
    ATTENTION,
    ATTENTION_OUTPUT,
    FFN_IN,
    FFN_OUT,
    HEADS_BYTES,
    NORM,
    QKV,
    QUANTIZE_CONTEXT,
    QUANTIZE_INNER,
)
from tinybert_rt.encoder.team import mark, meet, share
from tinybert_rt.format.layout import WEIGHT_DTYPES
from tinybert_rt.kernels.attention import attention_head
from tinybert_rt.kernels.attention_int8 import attention_head_int8
from tinybert_rt.kernels.attention_relative import relative_scores, score_stride
from tinybert_rt.kernels.jit import inline, kernel
from tinybert_rt.kernels.linear import PLAIN, RESIDUAL, linear_float, linear_int8
from tinybert_rt.kernels.memory import load_i64
from tinybert_rt.kernels.panels import FLOAT_COLUMNS, INT8_COLUMNS
from tinybert_rt.kernels.probabilities import copy_row
from tinybert_rt.kernels.rows import layer_norm_rows, quantize_rows
from tinybert_rt.kernels.vector import sqrt_f32

_INT8 = WEIGHT_DTYPES["int8"]
_F = np.float32
_BEHIND = np.int64(-1)
"""No column in particular is wanted next, see `columns`."""


@inline
def linear(local, x, x_stride, scales, zeros, rows, weights, target, epilogue, rank, team):  # type: ignore[no-untyped-def]
    """This worker's share of a linear layer; `rank` is its number in the team."""
    columns(local, x, x_stride, scales, zeros, rows, weights, np.int64(0), weights.outputs, _BEHIND, target, epilogue, rank, team)


@kernel
def columns(local, x, x_stride, scales, zeros, rows, weights, begin, end, after, target, epilogue, rank, team):  # type: ignore[no-untyped-def]
    """This worker's share of the columns begin … end−1, multiples of 64, of a linear layer, int8 or float as its weights are.

    after: the column whose int8 weights are wanted next, or _BEHIND: those behind this share.
    """
    panel = (INT8_COLUMNS if weights.scale != 0 else FLOAT_COLUMNS) * 16
    first, last = share((end - begin) // panel, rank, team)
    first, last = (begin + first * panel) >> 4, (begin + last * panel) >> 4
    if weights.scale != 0:
        follower = last if after == _BEHIND else after >> 4
        linear_int8(x, x_stride, scales, zeros, rows, weights, first, last, follower, target, epilogue, local.tile)
    else:
        linear_float(x, x_stride, rows, weights, first, last, target, epilogue, local.tile)


@inline
def rows_for(weights, x, x_stride, q, q_stride, row):  # type: ignore[no-untyped-def]
    """Row number `row` in the form that a linear layer reads, u8 of q or float32 of x: address, bytes from row to row."""
    if weights.scale != 0:
        return q + row * q_stride, q_stride
    return x + row * x_stride, x_stride


@inline
def target_rows(target, out, width, residual, row):  # type: ignore[no-untyped-def]
    """Rows of `width` from number `row` on, of the outputs at `out` and the residual, if any."""
    target.out = out + row * width * 4
    target.residual = residual + row * width * 4
    target.row_stride = width * 4
    target.part_blocks = width >> 4
    target.part_stride = 0
    target.group_blocks = width >> 4
    target.group_stride = 0


@inline
def _target_heads(target, session, out, rows, row, part_bytes):  # type: ignore[no-untyped-def]
    """Rows of each head from number `row` on; the heads' keys are part_bytes behind their queries, the values as far behind those."""
    target.out = out + row * session.head_width * 4
    target.residual = 0
    target.row_stride = session.head_width * 4
    target.part_blocks = session.context_width >> 4
    target.part_stride = part_bytes
    target.group_blocks = session.head_width >> 4
    target.group_stride = rows * session.head_width * 4


@inline
def quantize(local, x, width, part, q_width, first, last):  # type: ignore[no-untyped-def]
    rows = x + first * width * 4
    q = part.q + first * q_width
    quantize_rows(rows, width * 4, last - first, width, q, q_width, part.scales + 4 * first, part.zeros + 4 * first, local.tile)


@kernel
def norm_rows(session, local, x, size, width, part, norm, first, last):  # type: ignore[no-untyped-def]
    """Layer normalization of rows of x in place, and, in int8 files, their quantization while they are in the cache.

    Then a linear layer behind them may be int8 or float32, whichever it is.
    """
    model = session.model
    q_width = session.q_width
    rows = x + first * width * 4
    q = part.q + first * q_width if model.weight_dtype == _INT8 else 0
    scales = part.scales + 4 * first
    zeros = part.zeros + 4 * first
    layer_norm_rows(rows, width * 4, last - first, size, width, norm, model.layer_norm_eps, q, q_width, scales, zeros, local.tile)


@kernel
def _attend(session, local, part, weights, text, head, states, part_bytes, firsts):  # type: ignore[no-untyped-def]
    """One head of one text, on int8 or float32 products as `attention.qkv` is; tables of positions are as the file is.

    Args:
        states: the head's queries, float32 [rows of the chunk][head_width]; its keys are part_bytes behind them, its values as far
            behind those.
        firsts: 1 if each text has one query, that of its first token, and queries and contexts stand in rows of the texts'
            numbers; else 0.
    """
    model = session.model
    head_width = session.head_width
    context_stride = session.context_width * 4
    int8_tables = model.weight_dtype == _INT8
    scale = _F(1.0) / sqrt_f32(_F(model.head_size * model.score_parts))
    start = load_i64(part.row_starts + 8 * text)
    tokens = load_i64(part.row_starts + 8 * (text + 1)) - start
    row, count = start, tokens
    if firsts != 0:
        row, count = text, np.int64(1)
    queries = states + row * head_width * 4
    keys = states + start * head_width * 4 + part_bytes
    values = keys + part_bytes
    out = part.context + row * context_stride + head * head_width * 4
    added = np.int64(0)
    added_stride = score_stride(tokens) * 4
    if model.relative_span != 0:
        added = relative_scores(model, weights, head, queries, count, keys, tokens, head_width, int8_tables, local.relative)
    scratch = local.attention
    if weights.qkv.scale != 0:
        attention_head_int8(queries, count, keys, values, tokens, head_width, scale, added, added_stride, out, context_stride, scratch)
    else:
        most = session.attention_tokens
        attention_head(queries, count, keys, values, tokens, head_width, scale, added, added_stride, out, context_stride, scratch, most)


@inline
def _attend_in_turn(session, local, part, weights, rows, firsts, worker, workers):  # type: ignore[no-untyped-def]
    """This worker's (text, head) pairs; queries, keys and values of all heads are in part.heads. firsts: see `_attend`."""
    num_heads = session.model.num_heads
    row_bytes = session.head_width * 4
    part_bytes = heads_bytes(session, rows)
    for unit in range(worker, (part.last_text - part.first_text) * num_heads, workers):
        text = unit // num_heads
        head = unit - text * num_heads
        _attend(session, local, part, weights, text, head, part.heads + head * rows * row_bytes, part_bytes, firsts)


@inline
def _group_width(session):  # type: ignore[no-untyped-def]
    """Columns of the heads that share a whole number of panels of weights, 64 columns each: the least common multiple."""
    width = session.head_width
    while width & 63 != 0:
        width += session.head_width
    return width


@inline
def _by_heads(session, request, workers):  # type: ignore[no-untyped-def]
    """Whether each worker takes heads of its own from the projections to the context, each the same number.

    `keep_attentions` needs the queries and keys of all heads.
    """
    width = _group_width(session)
    groups = session.context_width // width
    return request.attentions == 0 and groups * width == session.context_width and groups % workers == 0


@kernel
def _project_and_attend(session, local, part, weights, rows, worker, workers):  # type: ignore[no-untyped-def]
    """This worker's heads, from hidden states to part.context, some after the others.

    Queries, keys and values of a few heads are alive at a time, in the same place, so that they stay in the second-level cache. What is
    read behind a head's last row, by whole tiles, may be another worker's, who writes it: attention uses none of it.
    """
    model = session.model
    width = _group_width(session)
    heads = width // session.head_width
    head_bytes = rows * session.head_width * 4
    group_bytes = heads * head_bytes
    first, last = share(session.context_width // width, worker, workers)
    most = max(1, HEADS_BYTES // (3 * group_bytes))
    states = part.heads + first * 3 * group_bytes
    x, x_stride = rows_for(weights.qkv, part.x, model.hidden_width * 4, part.q, session.q_width, np.int64(0))
    target = local.target
    alone, one = np.int64(0), np.int64(1)
    for group in range(first, last, most):
        count = min(most, last - group)
        part_bytes = count * group_bytes
        _target_heads(target, session, states - group * group_bytes, rows, np.int64(0), part_bytes)
        for index in range(3):
            begin = index * session.context_width + group * width
            end = begin + count * width
            after = begin + session.context_width if index < 2 else (group + count) * width
            columns(local, x, x_stride, part.scales, part.zeros, rows, weights.qkv, begin, end, after, target, PLAIN, alone, one)
        mark(local, QKV)
        head = group * heads
        # The slots behind the last head are padding.
        for each in range(min(count * heads, model.num_heads - head)):
            for text in range(part.last_text - part.first_text):
                _attend(session, local, part, weights, text, head + each, states + each * head_bytes, part_bytes, np.int64(0))
        mark(local, ATTENTION)


@inline
def rows_apart(session, rows, workers):  # type: ignore[no-untyped-def]
    """Whether workers take rows of their own instead of sharing the columns of each linear layer."""
    return workers > 1 and rows >= session.rows_apart * workers


@inline
def _own_rows(session, rows, worker, workers):  # type: ignore[no-untyped-def]
    """First and last+1 row of a worker's team, its number there, and the team's size: all workers and rows, or each worker for itself."""
    if rows_apart(session, rows, workers):
        first, last = share(rows, worker, workers)
        return first, last, np.int64(0), np.int64(1)
    return np.int64(0), rows, worker, workers


@kernel
def layer(session, request, local, part, index, rows, worker, workers):  # type: ignore[no-untyped-def]
    """Encoder layer number `index`; part.x and its quantized form are input and output.

    With enough rows (`rows_apart`), each worker takes its own through everything but attention, and all meet before and after. With few,
    a team shares the columns of each linear layer, so that each weight is read by one worker, and meets after every step. The heads
    of attention belong to one worker each, with the columns that make their queries, keys and values, where that is fair.
    """
    weights = session.model.layers[index]
    row, end, rank, team = _own_rows(session, rows, worker, workers)
    inner = part
    if rows_apart(session, rows, workers):
        inner = session.slices[worker]
    if _by_heads(session, request, workers):
        if rows_apart(session, rows, workers) and index > 0:
            # The rows of all workers are read next; the layer before ended without meeting.
            meet(session, local, workers, NORM)
        _project_and_attend(session, local, part, weights, rows, worker, workers)
    else:
        _project_heads(session, local, part, weights, np.int64(0), rows, row, end, rank, team)
        meet(session, local, workers, QKV)
        if request.attentions != 0:
            keep_attentions(session, request, local, part, weights, index, rows, worker, workers)
        _attend_in_turn(session, local, part, weights, rows, np.int64(0), worker, workers)
    meet(session, local, workers, ATTENTION)
    _behind_attention(session, local, part, inner, weights, row, end, rank, team)


@kernel
def last_layer_of_firsts(session, local, part, index, rows, worker, workers):  # type: ignore[no-untyped-def]
    """As `layer`, for the first token of each text alone, where nobody asks for the other tokens' states.

    Keys and values are those of all tokens. Row number t of part.x becomes the state of text number t; what becomes of the other tokens is
    not computed, so nothing is said if it would be no number.
    """
    weights = session.model.layers[index]
    texts = part.last_text - part.first_text
    row, end, rank, team = _own_rows(session, rows, worker, workers)
    _project_heads(session, local, part, weights, session.context_width, rows, row, end, rank, team)
    meet(session, local, workers, QKV)
    if worker == 0:
        _gather_firsts(session, part, texts)
    meet(session, local, workers, QKV)
    none = np.int64(0)
    x, x_stride = rows_for(weights.qkv, part.x, session.model.hidden_width * 4, part.q, session.q_width, none)
    target = local.target
    _target_heads(target, session, part.heads, rows, none, heads_bytes(session, rows))
    width = session.context_width
    columns(local, x, x_stride, part.scales, part.zeros, texts, weights.qkv, none, width, _BEHIND, target, PLAIN, worker, workers)
    meet(session, local, workers, QKV)
    _attend_in_turn(session, local, part, weights, rows, np.int64(1), worker, workers)
    meet(session, local, workers, ATTENTION)
    _behind_attention(session, local, part, part, weights, np.int64(0), texts, worker, workers)


@kernel
def _gather_firsts(session, part, texts):  # type: ignore[no-untyped-def]
    """Row number t of part.x and its quantized form becomes that of the first token of text number t."""
    width = session.model.hidden_width
    for text in range(1, texts):
        row = load_i64(part.row_starts + 8 * text)
        copy_row(part.x + row * width * 4, part.x + text * width * 4, width)
        copy_row(part.q + row * session.q_width, part.q + text * session.q_width, session.q_width >> 2)
        copy_row(part.scales + 4 * row, part.scales + 4 * text, 1)
        copy_row(part.zeros + 4 * row, part.zeros + 4 * text, 1)


@inline
def _project_heads(session, local, part, weights, begin, rows, row, end, rank, team):  # type: ignore[no-untyped-def]
    """Queries, keys and values of the rows from `row` to `end`, those in columns from `begin` on, to part.heads."""
    x, x_stride = rows_for(weights.qkv, part.x, session.model.hidden_width * 4, part.q, session.q_width, row)
    scales = part.scales + 4 * row
    zeros = part.zeros + 4 * row
    target = local.target
    _target_heads(target, session, part.heads, rows, row, heads_bytes(session, rows))
    outputs = weights.qkv.outputs
    columns(local, x, x_stride, scales, zeros, end - row, weights.qkv, begin, outputs, _BEHIND, target, PLAIN, rank, team)


@kernel
def _behind_attention(session, local, part, inner, weights, row, end, rank, team):  # type: ignore[no-untyped-def]
    """The rest of a layer for the rows from `row` to `end`, by a team in which this worker is number `rank`.

    inner: the Slice whose buffers of the inner layer the team has for itself.
    """
    model = session.model
    target = local.target
    width = model.hidden_width
    q_width = session.q_width
    context_width = session.context_width
    first, last = share(end - row, rank, team)
    first, last = row + first, row + last

    if weights.attention_output.scale != 0:
        quantize(local, part.context, context_width, part, q_width, first, last)
        meet(session, local, team, QUANTIZE_CONTEXT)
    context, context_stride = rows_for(weights.attention_output, part.context, context_width * 4, part.q, q_width, row)
    target_rows(target, part.x, width, part.x, row)
    scales = part.scales + 4 * row
    zeros = part.zeros + 4 * row
    linear(local, context, context_stride, scales, zeros, end - row, weights.attention_output, target, RESIDUAL, rank, team)
    meet(session, local, team, ATTENTION_OUTPUT)
    norm_rows(session, local, part.x, model.hidden_size, width, part, weights.attention_norm, first, last)
    meet(session, local, team, NORM)

    inner_width = model.intermediate_width
    inner_x, inner_stride = rows_for(weights.ffn_out, inner.inner, inner_width * 4, inner.inner_q, inner_width, 0)
    for begin in range(row, end, session.inner_rows):
        count = min(session.inner_rows, end - begin)
        x, x_stride = rows_for(weights.ffn_in, part.x, width * 4, part.q, q_width, begin)
        scales = part.scales + 4 * begin
        zeros = part.zeros + 4 * begin
        target_rows(target, inner.inner, inner_width, 0, 0)
        linear(local, x, x_stride, scales, zeros, count, weights.ffn_in, target, model.activation, rank, team)
        meet(session, local, team, FFN_IN)
        if weights.ffn_out.scale != 0:
            _quantize_inner(inner, local, inner_width, count, rank, team)
            meet(session, local, team, QUANTIZE_INNER)
        target_rows(target, part.x, width, part.x, begin)
        linear(local, inner_x, inner_stride, inner.inner_scales, inner.inner_zeros, count, weights.ffn_out, target, RESIDUAL, rank, team)
        meet(session, local, team, FFN_OUT)
    norm_rows(session, local, part.x, model.hidden_size, width, part, weights.ffn_norm, first, last)
    meet(session, local, team, NORM)


@inline
def _quantize_inner(inner, local, width, rows, rank, team):  # type: ignore[no-untyped-def]
    first, last = share(rows, rank, team)
    x = inner.inner + first * width * 4
    scales = inner.inner_scales + 4 * first
    quantize_rows(
        x, width * 4, last - first, width, inner.inner_q + first * width, width, scales, inner.inner_zeros + 4 * first, local.tile
    )

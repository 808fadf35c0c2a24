"""The encoder over one chunk of texts, run by every worker of a team in step (BERT: Devlin et al. 2019, section 3).

Rows of all texts lie one behind the other, without padding. Between barriers, workers split row-wise work by rows, attention by
(text, head), and linear layers by rows where there are many, else by columns.
"""

from __future__ import annotations

import numpy as np

from tinybert_rt.encoder.heads import apply_head
from tinybert_rt.encoder.inside import keep_attentions, keep_states
from tinybert_rt.encoder.masked import asks_for_masked, predict_masked
from tinybert_rt.encoder.structs import (
    ATTENTION,
    ATTENTION_OUTPUT,
    EMBED,
    FFN_IN,
    FFN_OUT,
    NO_STAGE,
    NORM,
    POOL,
    QKV,
    QUANTIZE_CONTEXT,
    QUANTIZE_INNER,
    ROWS_APART,
)
from tinybert_rt.encoder.team import meet, share
from tinybert_rt.errors import NonFiniteResultError
from tinybert_rt.format.layout import POOLINGS, WEIGHT_DTYPES
from tinybert_rt.kernels.attention import attention_head
from tinybert_rt.kernels.attention_int8 import attention_head_int8
from tinybert_rt.kernels.attention_relative import relative_scores, score_stride
from tinybert_rt.kernels.convolution import add_row, sum_taps
from tinybert_rt.kernels.jit import inline, kernel
from tinybert_rt.kernels.linear import PLAIN, RESIDUAL, linear_float, linear_int8
from tinybert_rt.kernels.memory import load_f32, load_i32, load_i64, load_u8, store_f32, store_i64
from tinybert_rt.kernels.panels import FLOAT_COLUMNS, INT8_COLUMNS
from tinybert_rt.kernels.probabilities import activate_row
from tinybert_rt.kernels.rows import (
    embed_row,
    is_finite_row,
    layer_norm_rows,
    normalize_row,
    pool_first,
    pool_max,
    pool_mean,
    quantize_rows,
)
from tinybert_rt.kernels.vector import sqrt_f32

_INT8 = WEIGHT_DTYPES["int8"]
_CLS = POOLINGS["cls"]
_MEAN = POOLINGS["mean"]
_NON_FINITE = NonFiniteResultError.code
_F = np.float32


@inline
def _linear(session, local, x, x_stride, scales, zeros, rows, weights, target, epilogue, rank, team):  # type: ignore[no-untyped-def]
    """This worker's share of the columns of a linear layer, int8 or float as its weights are; `rank` is its number in the team."""
    tile = local.tile
    blocks = weights.outputs >> 4
    if weights.scale != 0:
        first, last = share(blocks // INT8_COLUMNS, rank, team)
        linear_int8(x, x_stride, scales, zeros, rows, weights, first * INT8_COLUMNS, last * INT8_COLUMNS, target, epilogue, tile)
    else:
        first, last = share(blocks // FLOAT_COLUMNS, rank, team)
        linear_float(x, x_stride, rows, weights, first * FLOAT_COLUMNS, last * FLOAT_COLUMNS, target, epilogue, tile)


@inline
def _rows_for(weights, x, x_stride, q, q_stride, row):  # type: ignore[no-untyped-def]
    """Row number `row` in the form that a linear layer reads, u8 of q or float32 of x: address, bytes from row to row."""
    if weights.scale != 0:
        return q + row * q_stride, q_stride
    return x + row * x_stride, x_stride


@inline
def _target_rows(target, out, width, residual, row):  # type: ignore[no-untyped-def]
    """Rows of `width` from number `row` on, of the outputs at `out` and the residual, if any."""
    target.out = out + row * width * 4
    target.residual = residual + row * width * 4
    target.row_stride = width * 4
    target.part_blocks = width >> 4
    target.part_stride = 0
    target.group_blocks = width >> 4
    target.group_stride = 0


@inline
def _target_heads(target, session, out, rows, row):  # type: ignore[no-untyped-def]
    target.out = out + row * session.head_width * 4
    target.residual = 0
    target.row_stride = session.head_width * 4
    target.part_blocks = session.context_width >> 4
    target.part_stride = session.head_slots * rows * session.head_width * 4
    target.group_blocks = session.head_width >> 4
    target.group_stride = rows * session.head_width * 4


@inline
def _quantize_rows(local, x, width, part, q_width, first, last):  # type: ignore[no-untyped-def]
    rows = x + first * width * 4
    q = part.q + first * q_width
    quantize_rows(rows, width * 4, last - first, width, q, q_width, part.scales + 4 * first, part.zeros + 4 * first, local.tile)


@kernel
def _norm_rows(session, local, x, size, width, part, norm, first, last):  # type: ignore[no-untyped-def]
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
def _embed(session, request, part, x, first, last):  # type: ignore[no-untyped-def]
    """Rows first … last−1 of the chunk: embedding sums, to x."""
    model = session.model
    width = model.embedding_width
    texts = part.last_text - part.first_text
    for text in range(texts):
        start = load_i64(part.row_starts + 8 * text)
        end = load_i64(part.row_starts + 8 * (text + 1))
        offset = load_i64(request.id_offsets + 8 * (part.first_text + text)) - start
        for row in range(max(start, first), min(end, last)):
            token_type = 0
            if request.types != 0:
                token_type = load_u8(request.types + offset + row)
            token = load_i32(request.ids + 4 * (offset + row))
            embed_row(model, token, row - start, token_type, x + row * width * 4)


@kernel
def _project(session, local, part, rows, worker, workers):  # type: ignore[no-untyped-def]
    """Normalized embeddings in part.heads and part.q into hidden states in part.x (ELECTRA, ALBERT)."""
    model = session.model
    x, x_stride = _rows_for(model.embedding_project, part.heads, model.embedding_width * 4, part.q, session.q_width, 0)
    _target_rows(local.target, part.x, model.hidden_width, 0, 0)
    _linear(session, local, x, x_stride, part.scales, part.zeros, rows, model.embedding_project, local.target, PLAIN, worker, workers)
    meet(session, local, workers, EMBED)


@kernel
def _convolve(session, local, part, rows, worker, workers):  # type: ignore[no-untyped-def]
    """The convolution of the embeddings, through its activation, to part.convolved (DeBERTa v2: He et al. 2021, its released code)."""
    model = session.model
    width = model.hidden_width
    x, x_stride = _rows_for(model.convolution, part.x, width * 4, part.q, session.q_width, 0)
    target = local.target
    _target_rows(target, part.heads, width, 0, 0)
    target.part_stride = rows * width * 4
    _linear(session, local, x, x_stride, part.scales, part.zeros, rows, model.convolution, target, PLAIN, worker, workers)
    meet(session, local, workers, EMBED)
    first, last = share(rows, worker, workers)
    for text in range(part.last_text - part.first_text):
        start = load_i64(part.row_starts + 8 * text)
        end = load_i64(part.row_starts + 8 * (text + 1))
        for row in range(max(start, first), min(end, last)):
            out = part.convolved + row * width * 4
            sum_taps(part.heads, model.conv_kernel, target.part_stride, width, row, start, end, out)
            activate_row(model.conv_activation, out, width)
    meet(session, local, workers, EMBED)


@kernel
def _add_convolution(session, local, part, rows, worker, workers):  # type: ignore[no-untyped-def]
    """Hidden states + what `_convolve` made, normalized."""
    model = session.model
    width = model.hidden_width
    first, last = share(rows, worker, workers)
    for row in range(first, last):
        add_row(part.x + row * width * 4, part.convolved + row * width * 4, width)
    _norm_rows(session, local, part.x, model.hidden_size, width, part, model.convolution_norm, first, last)
    meet(session, local, workers, NORM)


@kernel
def _attend(session, local, part, layer, rows, worker, workers):  # type: ignore[no-untyped-def]
    """This worker's (text, head) pairs, on int8 or float32 products as `attention.qkv` is; tables of positions are as the file is."""
    model = session.model
    head_width = session.head_width
    part_bytes = session.head_slots * rows * head_width * 4
    context_stride = session.context_width * 4
    int8_tables = model.weight_dtype == _INT8
    scale = _F(1.0) / sqrt_f32(_F(model.head_size * model.score_parts))
    units = (part.last_text - part.first_text) * model.num_heads
    for unit in range(worker, units, workers):
        text = unit // model.num_heads
        head = unit - text * model.num_heads
        start = load_i64(part.row_starts + 8 * text)
        tokens = load_i64(part.row_starts + 8 * (text + 1)) - start
        queries = part.heads + (head * rows + start) * head_width * 4
        keys = queries + part_bytes
        values = keys + part_bytes
        out = part.context + start * context_stride + head * head_width * 4
        added = np.int64(0)
        added_stride = score_stride(tokens) * 4
        if model.relative_span != 0:
            added = relative_scores(model, layer, head, queries, keys, tokens, head_width, int8_tables, local.relative)
        scratch = local.attention
        if layer.qkv.scale != 0:
            attention_head_int8(queries, keys, values, tokens, head_width, scale, added, added_stride, out, context_stride, scratch)
        else:
            most = session.attention_tokens
            attention_head(queries, keys, values, tokens, head_width, scale, added, added_stride, out, context_stride, scratch, most)


@inline
def rows_apart(rows, workers):  # type: ignore[no-untyped-def]
    """Whether workers take rows of their own instead of sharing the columns of each linear layer."""
    return workers > 1 and rows >= ROWS_APART * workers


@kernel
def _layer(session, request, local, part, index, rows, worker, workers):  # type: ignore[no-untyped-def]
    """Encoder layer number `index`; part.x and its quantized form are input and output.

    With many rows, each worker takes its own through everything but attention, and all meet before and after that. With few,
    a team shares the columns of each linear layer, so that each weight is read by one worker, and meets after every step.
    """
    model = session.model
    layer = model.layers[index]
    target = local.target
    width = model.hidden_width
    q_width = session.q_width
    row, end, rank, team = np.int64(0), rows, worker, workers
    first, last = share(rows, worker, workers)
    inner = part
    if rows_apart(rows, workers):
        row, end, rank, team = first, last, np.int64(0), np.int64(1)
        inner = session.slices[worker]

    x, x_stride = _rows_for(layer.qkv, part.x, width * 4, part.q, q_width, row)
    scales = part.scales + 4 * row
    zeros = part.zeros + 4 * row
    _target_heads(target, session, part.heads, rows, row)
    _linear(session, local, x, x_stride, scales, zeros, end - row, layer.qkv, target, PLAIN, rank, team)
    meet(session, local, workers, QKV)
    if request.attentions != 0:
        keep_attentions(session, request, local, part, layer, index, rows, worker, workers)
    _attend(session, local, part, layer, rows, worker, workers)
    meet(session, local, workers, ATTENTION)

    context_width = session.context_width
    if layer.attention_output.scale != 0:
        _quantize_rows(local, part.context, context_width, part, q_width, first, last)
        meet(session, local, team, QUANTIZE_CONTEXT)
    context, context_stride = _rows_for(layer.attention_output, part.context, context_width * 4, part.q, q_width, row)
    _target_rows(target, part.x, width, part.x, row)
    _linear(session, local, context, context_stride, scales, zeros, end - row, layer.attention_output, target, RESIDUAL, rank, team)
    meet(session, local, team, ATTENTION_OUTPUT)
    _norm_rows(session, local, part.x, model.hidden_size, width, part, layer.attention_norm, first, last)
    meet(session, local, team, NORM)

    inner_width = model.intermediate_width
    inner_x, inner_stride = _rows_for(layer.ffn_out, inner.inner, inner_width * 4, inner.inner_q, inner_width, 0)
    for begin in range(row, end, session.inner_rows):
        count = min(session.inner_rows, end - begin)
        x, x_stride = _rows_for(layer.ffn_in, part.x, width * 4, part.q, q_width, begin)
        scales = part.scales + 4 * begin
        zeros = part.zeros + 4 * begin
        _target_rows(target, inner.inner, inner_width, 0, 0)
        _linear(session, local, x, x_stride, scales, zeros, count, layer.ffn_in, target, model.activation, rank, team)
        meet(session, local, team, FFN_IN)
        if layer.ffn_out.scale != 0:
            _quantize_inner(inner, local, inner_width, count, rank, team)
            meet(session, local, team, QUANTIZE_INNER)
        _target_rows(target, part.x, width, part.x, begin)
        scales = inner.inner_scales
        zeros = inner.inner_zeros
        _linear(session, local, inner_x, inner_stride, scales, zeros, count, layer.ffn_out, target, RESIDUAL, rank, team)
        meet(session, local, team, FFN_OUT)
    _norm_rows(session, local, part.x, model.hidden_size, width, part, layer.ffn_norm, first, last)
    meet(session, local, team, NORM)


@inline
def _quantize_inner(inner, local, width, rows, rank, team):  # type: ignore[no-untyped-def]
    first, last = share(rows, rank, team)
    x = inner.inner + first * width * 4
    scales = inner.inner_scales + 4 * first
    quantize_rows(
        x, width * 4, last - first, width, inner.inner_q + first * width, width, scales, inner.inner_zeros + 4 * first, local.tile
    )


@kernel
def _finish_text(session, request, part, local, text):  # type: ignore[no-untyped-def]
    """Pool one text's rows, cut to request.dim, normalize, and write; also its hidden states and scores where they are asked for."""
    model = session.model
    pooled = local.pooled
    width = model.hidden_width
    start = load_i64(part.row_starts + 8 * text)
    tokens = load_i64(part.row_starts + 8 * (text + 1)) - start
    item = part.first_text + text
    x = part.x + start * width * 4
    for row in range(tokens):
        if is_finite_row(x + row * width * 4, width) == 0:
            request.item = item
            request.status = _NON_FINITE
    if request.hidden != 0:
        target = request.hidden + load_i64(request.id_offsets + 8 * item) * model.hidden_size * 4
        for row in range(tokens):
            for i in range(model.hidden_size):
                store_f32(target + (row * model.hidden_size + i) * 4, load_f32(x + (row * width + i) * 4))
    if request.scores != 0:
        apply_head(session, request, local, x, tokens, item)
    if request.out == 0:
        return
    if model.pooling == _CLS:
        pool_first(x, width, pooled)
    elif model.pooling == _MEAN:
        pool_mean(x, tokens, width, pooled)
    else:
        pool_max(x, tokens, width, pooled)
    dim = request.dim
    for i in range(dim, width):
        store_f32(pooled + 4 * i, _F(0.0))
    if model.normalize != 0:
        normalize_row(pooled, width)
    if is_finite_row(pooled, width) == 0:
        request.item = item
        request.status = _NON_FINITE
    out = request.out + item * dim * 4
    for i in range(dim):
        store_f32(out + 4 * i, load_f32(pooled + 4 * i))


@kernel
def forward(session, request, part, local, first_text, last_text, worker, workers):  # type: ignore[no-untyped-def]
    """Run the texts first_text … last_text−1 of a request through the model, by a team of `workers`.

    Args:
        session, request: Session, Request; ids are valid for the model, each text has 1 … chunk_tokens tokens, and all of
            them together fit the slice. part: the Slice that the team shares; local: this worker's own buffers. worker: its number
            in the team.
    """
    model = session.model
    rows = 0
    if worker == 0:
        part.first_text = first_text
        part.last_text = last_text
        for text in range(first_text, last_text):
            store_i64(part.row_starts + 8 * (text - first_text), rows)
            rows += load_i64(request.id_offsets + 8 * (text + 1)) - load_i64(request.id_offsets + 8 * text)
        store_i64(part.row_starts + 8 * (last_text - first_text), rows)
    meet(session, local, workers, NO_STAGE)
    rows = load_i64(part.row_starts + 8 * (last_text - first_text))
    first, last = share(rows, worker, workers)
    x = part.heads if model.projected != 0 else part.x
    _embed(session, request, part, x, first, last)
    _norm_rows(session, local, x, model.embedding_size, model.embedding_width, part, model.embedding_norm, first, last)
    meet(session, local, workers, EMBED)
    if model.projected != 0:
        _project(session, local, part, rows, worker, workers)
        if model.weight_dtype == _INT8:
            _quantize_rows(local, part.x, model.hidden_width, part, session.q_width, first, last)
        meet(session, local, workers, EMBED)
    if model.conv_kernel != 0:
        _convolve(session, local, part, rows, worker, workers)
    if request.layers != 0:
        keep_states(session, request, part, np.int64(0), first, last)
    for index in range(model.num_layers):
        _layer(session, request, local, part, index, rows, worker, workers)
        if index == 0 and model.conv_kernel != 0:
            _add_convolution(session, local, part, rows, worker, workers)
        if request.layers != 0:
            keep_states(session, request, part, index + 1, first, last)
    if rows_apart(rows, workers):
        meet(session, local, workers, NO_STAGE)
    if asks_for_masked(request):
        predict_masked(session, request, part, local, worker, workers)
    for text in range(worker, last_text - first_text, workers):
        _finish_text(session, request, part, local, text)
    meet(session, local, workers, POOL)

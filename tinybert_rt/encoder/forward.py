"""The encoder over one chunk of texts, run by every worker of a team in step (BERT: Devlin et al. 2019, section 3).

Rows of all texts lie one behind the other, without padding. Between barriers, workers split a linear layer by columns,
row-wise work by rows and attention by (text, head).
"""

from __future__ import annotations

import numpy as np

from tinybert_rt.encoder.team import barrier, share
from tinybert_rt.errors import NonFiniteResultError
from tinybert_rt.format.layout import POOLINGS, WEIGHT_DTYPES
from tinybert_rt.kernels.attention import attention_head
from tinybert_rt.kernels.jit import inline, kernel
from tinybert_rt.kernels.linear import PLAIN, RESIDUAL, linear_float, linear_int8
from tinybert_rt.kernels.memory import load_f32, load_i32, load_i64, load_u8, store_f32, store_i64
from tinybert_rt.kernels.panels import FLOAT_COLUMNS, INT8_COLUMNS
from tinybert_rt.kernels.rows import (
    embed_row,
    is_finite_row,
    layer_norm_row,
    normalize_row,
    pool_first,
    pool_max,
    pool_mean,
    quantize_row,
)
from tinybert_rt.kernels.vector import sqrt

_INT8 = WEIGHT_DTYPES["int8"]
_CLS = POOLINGS["cls"]
_MEAN = POOLINGS["mean"]
_NON_FINITE = NonFiniteResultError.code
_F = np.float32


@inline
def _linear(session, local, x, x_stride, scales, zeros, rows, weights, target, epilogue, worker, workers):  # type: ignore[no-untyped-def]
    """This worker's columns of a linear layer, int8 or float as the model is."""
    tile = local.tile
    blocks = weights.outputs >> 4
    if session.model.weight_dtype == _INT8:
        first, last = share(blocks // INT8_COLUMNS, worker, workers)
        linear_int8(x, x_stride, scales, zeros, rows, weights, first * INT8_COLUMNS, last * INT8_COLUMNS, target, epilogue, tile)
    else:
        first, last = share(blocks // FLOAT_COLUMNS, worker, workers)
        linear_float(x, x_stride, rows, weights, first * FLOAT_COLUMNS, last * FLOAT_COLUMNS, target, epilogue, tile)


@inline
def _target_rows(target, out, width, residual):  # type: ignore[no-untyped-def]
    target.out = out
    target.residual = residual
    target.row_stride = width * 4
    target.part_blocks = width >> 4
    target.part_stride = 0
    target.group_blocks = width >> 4
    target.group_stride = 0


@inline
def _target_heads(target, session, out, rows):  # type: ignore[no-untyped-def]
    target.out = out
    target.residual = 0
    target.row_stride = session.head_width * 4
    target.part_blocks = session.context_width >> 4
    target.part_stride = session.head_slots * rows * session.head_width * 4
    target.group_blocks = session.head_width >> 4
    target.group_stride = rows * session.head_width * 4


@inline
def _quantize_rows(model, x, width, part, q_width, first, last):  # type: ignore[no-untyped-def]
    if model.weight_dtype == _INT8:
        for row in range(first, last):
            quantize_row(x + row * width * 4, width, part.q + row * q_width, part.scales + 4 * row, part.zeros + 4 * row)


@kernel
def _norm_rows(session, part, norm, first, last):  # type: ignore[no-untyped-def]
    """Layer normalization of rows in place, and their quantization while they are in the cache."""
    model = session.model
    width = model.hidden_width
    for row in range(first, last):
        x = part.x + row * width * 4
        layer_norm_row(x, model.hidden_size, width, norm, model.layer_norm_eps, x)
        _quantize_rows(model, part.x, width, part, session.q_width, row, row + 1)


@kernel
def _embed(session, request, part, first, last):  # type: ignore[no-untyped-def]
    """Rows first … last−1 of the chunk: embedding sums, to part.x."""
    model = session.model
    width = model.hidden_width
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
            embed_row(model, token, row - start, token_type, part.x + row * width * 4)


@kernel
def _attend(session, local, part, rows, worker, workers):  # type: ignore[no-untyped-def]
    """This worker's (text, head) pairs."""
    model = session.model
    head_width = session.head_width
    part_bytes = session.head_slots * rows * head_width * 4
    context_stride = session.context_width * 4
    scale = _F(1.0) / sqrt(_F(model.head_size))
    units = (part.last_text - part.first_text) * model.num_heads
    for unit in range(worker, units, workers):
        text = unit // model.num_heads
        head = unit - text * model.num_heads
        start = load_i64(part.row_starts + 8 * text)
        tokens = load_i64(part.row_starts + 8 * (text + 1)) - start
        queries = part.heads + (head * rows + start) * head_width * 4
        attention_head(
            queries,
            queries + part_bytes,
            queries + 2 * part_bytes,
            tokens,
            head_width,
            scale,
            part.context + start * context_stride + head * head_width * 4,
            context_stride,
            local.attention,
            session.attention_tokens,
        )


@kernel
def _layer(session, local, part, layer, rows, worker, workers):  # type: ignore[no-untyped-def]
    """One encoder layer; part.x and its quantized form are input and output."""
    model = session.model
    target = local.target
    width = model.hidden_width
    int8 = model.weight_dtype == _INT8
    first, last = share(rows, worker, workers)
    q_width = session.q_width

    x = part.q if int8 else part.x
    x_stride = q_width if int8 else width * 4
    _target_heads(target, session, part.heads, rows)
    _linear(session, local, x, x_stride, part.scales, part.zeros, rows, layer.qkv, target, PLAIN, worker, workers)
    barrier(session, workers)
    _attend(session, local, part, rows, worker, workers)
    barrier(session, workers)
    context_width = session.context_width
    _quantize_rows(model, part.context, context_width, part, q_width, first, last)
    barrier(session, workers)
    context = part.q if int8 else part.context
    context_stride = q_width if int8 else context_width * 4
    _target_rows(target, part.x, width, part.x)
    _linear(
        session,
        local,
        context,
        context_stride,
        part.scales,
        part.zeros,
        rows,
        layer.attention_output,
        target,
        RESIDUAL,
        worker,
        workers,
    )
    barrier(session, workers)
    _norm_rows(session, part, layer.attention_norm, first, last)
    barrier(session, workers)

    inner_width = model.intermediate_width
    for begin in range(0, rows, session.inner_rows):
        count = min(session.inner_rows, rows - begin)
        _target_rows(target, part.inner, inner_width, 0)
        _linear(
            session,
            local,
            x + begin * x_stride,
            x_stride,
            part.scales + 4 * begin,
            part.zeros + 4 * begin,
            count,
            layer.ffn_in,
            target,
            model.activation,
            worker,
            workers,
        )
        barrier(session, workers)
        if int8:
            first_inner, last_inner = share(count, worker, workers)
            for row in range(first_inner, last_inner):
                quantize_row(
                    part.inner + row * inner_width * 4,
                    inner_width,
                    part.inner_q + row * inner_width,
                    part.inner_scales + 4 * row,
                    part.inner_zeros + 4 * row,
                )
            barrier(session, workers)
        inner = part.inner_q if int8 else part.inner
        inner_stride = inner_width if int8 else inner_width * 4
        x_rows = part.x + begin * width * 4
        _target_rows(target, x_rows, width, x_rows)
        _linear(
            session,
            local,
            inner,
            inner_stride,
            part.inner_scales,
            part.inner_zeros,
            count,
            layer.ffn_out,
            target,
            RESIDUAL,
            worker,
            workers,
        )
        barrier(session, workers)
    _norm_rows(session, part, layer.ffn_norm, first, last)
    barrier(session, workers)


@kernel
def _finish_text(session, request, part, text, pooled):  # type: ignore[no-untyped-def]
    """Pool one text's rows, cut to request.dim, normalize, and write; also its hidden states where they are asked for."""
    model = session.model
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
    barrier(session, workers)
    rows = load_i64(part.row_starts + 8 * (last_text - first_text))
    first, last = share(rows, worker, workers)
    _embed(session, request, part, first, last)
    _norm_rows(session, part, model.embedding_norm, first, last)
    barrier(session, workers)
    for index in range(model.num_layers):
        _layer(session, local, part, model.layers[index], rows, worker, workers)
    for text in range(worker, last_text - first_text, workers):
        _finish_text(session, request, part, text, local.pooled)
    barrier(session, workers)

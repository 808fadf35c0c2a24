"""The encoder over one chunk of texts, run by every worker of a team in step (BERT: Devlin et al. 2019, section 3).

Rows of all texts lie one behind the other, without padding. Between barriers, workers split row-wise work by rows, attention with
its projections by heads (or, where those do not share out evenly, by (text, head)), and other linear layers by rows where there are
many, else by columns.
"""

from __future__ import annotations

import numpy as np

from tinybert_rt.encoder.heads import apply_head
from tinybert_rt.encoder.inside import keep_states
from tinybert_rt.encoder.layer import last_layer_of_firsts, layer, linear, norm_rows, quantize, rows_apart, rows_for, target_rows
from tinybert_rt.encoder.masked import asks_for_masked, predict_masked
from tinybert_rt.encoder.structs import EMBED, NO_STAGE, NORM, POOL
from tinybert_rt.encoder.team import meet, share
from tinybert_rt.errors import NonFiniteResultError
from tinybert_rt.format.layout import HEADS, POOLINGS, WEIGHT_DTYPES
from tinybert_rt.kernels.convolution import add_row, sum_taps
from tinybert_rt.kernels.jit import kernel
from tinybert_rt.kernels.linear import PLAIN
from tinybert_rt.kernels.memory import load_f32, load_i32, load_i64, load_u8, store_f32, store_i64
from tinybert_rt.kernels.probabilities import activate_row
from tinybert_rt.kernels.rows import embed_row, is_finite_row, normalize_row, pool_first, pool_max, pool_mean

_INT8 = WEIGHT_DTYPES["int8"]
_CLS = POOLINGS["cls"]
_MEAN = POOLINGS["mean"]
_OF_TEXTS = HEADS["sequence_classification"]
_NON_FINITE = NonFiniteResultError.code
_F = np.float32


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
    x, x_stride = rows_for(model.embedding_project, part.heads, model.embedding_width * 4, part.q, session.q_width, 0)
    target_rows(local.target, part.x, model.hidden_width, 0, 0)
    linear(local, x, x_stride, part.scales, part.zeros, rows, model.embedding_project, local.target, PLAIN, worker, workers)
    meet(session, local, workers, EMBED)


@kernel
def _convolve(session, local, part, rows, worker, workers):  # type: ignore[no-untyped-def]
    """The convolution of the embeddings, through its activation, to part.convolved (DeBERTa v2: He et al. 2021, its released code)."""
    model = session.model
    width = model.hidden_width
    x, x_stride = rows_for(model.convolution, part.x, width * 4, part.q, session.q_width, 0)
    target = local.target
    target_rows(target, part.heads, width, 0, 0)
    target.part_stride = rows * width * 4
    linear(local, x, x_stride, part.scales, part.zeros, rows, model.convolution, target, PLAIN, worker, workers)
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
    norm_rows(session, local, part.x, model.hidden_size, width, part, model.convolution_norm, first, last)
    meet(session, local, workers, NORM)


@kernel
def _asks_for_firsts(model, request):  # type: ignore[no-untyped-def]
    """Whether of the last layer the states of texts' first tokens are all that is wanted: for their vectors, or labels of texts."""
    if request.hidden != 0 or request.layers != 0 or request.attentions != 0 or asks_for_masked(request):
        return False
    if request.scores != 0 and model.head != _OF_TEXTS:
        return False
    if request.out != 0 and model.pooling != _CLS:
        return False
    # What the convolution adds behind the first layer is of all tokens.
    return (request.scores != 0 or request.out != 0) and (model.conv_kernel == 0 or model.num_layers > 1)


@kernel
def _finish_text(session, request, part, local, text, firsts):  # type: ignore[no-untyped-def]
    """Pool one text's rows, cut to request.dim, normalize, and write; also its hidden states and scores where they are asked for.

    firsts: part.x has only the first row of each text, see `last_layer_of_firsts`.
    """
    model = session.model
    pooled = local.pooled
    width = model.hidden_width
    start = load_i64(part.row_starts + 8 * text)
    tokens = load_i64(part.row_starts + 8 * (text + 1)) - start
    if firsts:
        start, tokens = text, np.int64(1)
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
    norm_rows(session, local, x, model.embedding_size, model.embedding_width, part, model.embedding_norm, first, last)
    meet(session, local, workers, EMBED)
    if model.projected != 0:
        _project(session, local, part, rows, worker, workers)
        if model.weight_dtype == _INT8:
            quantize(local, part.x, model.hidden_width, part, session.q_width, first, last)
        meet(session, local, workers, EMBED)
    if model.conv_kernel != 0:
        _convolve(session, local, part, rows, worker, workers)
    if request.layers != 0:
        keep_states(session, request, part, np.int64(0), first, last)
    firsts = _asks_for_firsts(model, request)
    for index in range(model.num_layers):
        if firsts and index + 1 == model.num_layers:
            last_layer_of_firsts(session, local, part, index, rows, worker, workers)
            break
        layer(session, request, local, part, index, rows, worker, workers)
        if index == 0 and model.conv_kernel != 0:
            _add_convolution(session, local, part, rows, worker, workers)
        if request.layers != 0:
            keep_states(session, request, part, index + 1, first, last)
    if rows_apart(session, rows, workers):
        meet(session, local, workers, NO_STAGE)
    if asks_for_masked(request):
        predict_masked(session, request, part, local, worker, workers)
    for text in range(worker, last_text - first_text, workers):
        _finish_text(session, request, part, local, text, firsts)
    meet(session, local, workers, POOL)

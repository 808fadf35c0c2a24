"""What a request may see of the inside: the hidden states behind every layer, and attention probabilities."""

from __future__ import annotations

import numpy as np

from tinybert_rt.format.layout import WEIGHT_DTYPES
from tinybert_rt.kernels.attention_probabilities import attention_scores, softmax_scores
from tinybert_rt.kernels.attention_relative import relative_scores, score_stride
from tinybert_rt.kernels.jit import inline, kernel
from tinybert_rt.kernels.memory import load_i64
from tinybert_rt.kernels.probabilities import copy_row
from tinybert_rt.kernels.vector import sqrt_f32

_INT8 = WEIGHT_DTYPES["int8"]
_F = np.float32


@kernel
def keep_states(session, request, part, index, first, last):  # type: ignore[no-untyped-def]
    """Rows first … last−1 of part.x to request.layers, as output number `index`: 0 is the embeddings', i + 1 that of layer i."""
    model = session.model
    size = model.hidden_size
    token = load_i64(request.id_offsets + 8 * part.first_text)
    target = request.layers + (index * request.n_ids + token) * size * 4
    for row in range(first, last):
        copy_row(part.x + row * model.hidden_width * 4, target + row * size * 4, size)


@kernel
def _block_start(model, request, item):  # type: ignore[no-untyped-def]
    """Elements before the block of text `item` in request.attentions."""
    squares = 0
    for text in range(item):
        tokens = load_i64(request.id_offsets + 8 * (text + 1)) - load_i64(request.id_offsets + 8 * text)
        squares += tokens * tokens
    return squares * model.num_layers * model.num_heads


@inline
def heads_bytes(session, rows):  # type: ignore[no-untyped-def]
    """Bytes of the queries, the keys or the values of all heads."""
    return session.head_slots * rows * session.head_width * 4


@kernel
def keep_attentions(session, request, local, part, layer, index, rows, worker, workers):  # type: ignore[no-untyped-def]
    """This worker's (text, head) pairs of layer number `index` to request.attentions.

    They are those of the scores that `forward` makes, relative positions included. Queries and keys are those in part.heads, in
    float32; attention with int8 products works with rounded ones.
    """
    model = session.model
    scale = _F(1.0) / sqrt_f32(_F(model.head_size * model.score_parts))
    row_bytes = session.head_width * 4
    part_bytes = heads_bytes(session, rows)
    for text in range(part.last_text - part.first_text):
        start = load_i64(part.row_starts + 8 * text)
        tokens = load_i64(part.row_starts + 8 * (text + 1)) - start
        block = request.attentions + _block_start(model, request, part.first_text + text) * 4
        unit = text * model.num_heads
        for head in range(model.num_heads):
            if (unit + head) % workers == worker:
                queries = part.heads + (head * rows + start) * row_bytes
                out = block + (index * model.num_heads + head) * tokens * tokens * 4
                keys = queries + part_bytes
                added = np.int64(0)
                if model.relative_span != 0:
                    int8 = model.weight_dtype == _INT8
                    added = relative_scores(model, layer, head, queries, tokens, keys, tokens, session.head_width, int8, local.relative)
                attention_scores(queries, keys, tokens, session.head_width, out, local.attention)
                softmax_scores(out, tokens, scale, added, score_stride(tokens) * 4, local.attention)

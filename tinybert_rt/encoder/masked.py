"""Masked-token prediction: what the vocabulary's pieces score in the places of mask tokens (BERT: Devlin et al. 2019, section 3.1).

h = norm(activation(W x + b)) of the mask token's hidden state x; the logit of piece v is h · E[v] + bias[v], where E is the embedding table
or a table of the same form. Only rows of mask tokens are computed, some at a time; workers share the vocabulary, and then the rows.
"""

from __future__ import annotations

import numpy as np

from tinybert_rt.encoder.heads import head_linear
from tinybert_rt.encoder.structs import MASKED_ROWS, POOL
from tinybert_rt.encoder.team import meet, share
from tinybert_rt.errors import BufferTooSmallError, NonFiniteResultError
from tinybert_rt.kernels.jit import inline, kernel, outlined
from tinybert_rt.kernels.memory import load_f32, load_i32, load_i64, store_f32, store_i32
from tinybert_rt.kernels.probabilities import copy_row, softmax_row
from tinybert_rt.kernels.rows import is_finite_row, layer_norm_rows
from tinybert_rt.kernels.vector import fma, load_f32x16, load_s8x16, reduce_add, splat_f32, to_f32

_NON_FINITE = NonFiniteResultError.code
_TOO_SMALL = BufferTooSmallError.code
_ZERO = np.float32(0.0)
_ONE = np.float32(1.0)


@inline
def asks_for_masked(request):  # type: ignore[no-untyped-def]
    """Whether predictions for mask tokens are wanted."""
    return request.top != 0 or request.masked_logits != 0


@kernel
def _count(model, ids, first, last):  # type: ignore[no-untyped-def]
    """Mask tokens among the ids first … last−1."""
    found = 0
    for index in range(first, last):
        if load_i32(ids + 4 * index) == model.tokenizer.mask_id:
            found += 1
    return found


@kernel
def check_room(session, request):
    """Count the mask tokens of the group's texts; BufferTooSmallError, and no text is done, where there is no room for their results."""
    first = load_i64(request.id_offsets)
    request.masked = _count(session.model, request.ids, first, load_i64(request.id_offsets + 8 * request.done))
    if request.masked > request.masked_room:
        request.status = _TOO_SMALL
        request.done = 0


@outlined
def decode_rows(table, bias, h, count, width, first, last, out, out_stride):
    """Logits of the pieces first … last−1, four of them at a time; each is a sum in the order of its elements, wherever the work is cut.

    Args:
        table: Table of float32 or int8 rows of `width` elements, a multiple of 16. bias: float32.
        h: float32 [count][width]. out: float32 [count], rows out_stride bytes apart.
    """
    zeros = splat_f32(_ZERO)
    end = last - 1
    for piece in range(first, last, 4):
        p1 = min(piece + 1, end)
        p2 = min(piece + 2, end)
        p3 = min(piece + 3, end)
        f0 = _ONE
        f1 = _ONE
        f2 = _ONE
        f3 = _ONE
        if table.scale != 0:
            f0 = load_f32(table.scale + 4 * piece)
            f1 = load_f32(table.scale + 4 * p1)
            f2 = load_f32(table.scale + 4 * p2)
            f3 = load_f32(table.scale + 4 * p3)
        for row in range(count):
            x = h + row * width * 4
            s0 = zeros
            s1 = zeros
            s2 = zeros
            s3 = zeros
            if table.scale == 0:
                for i in range(0, width, 16):
                    value = load_f32x16(x + 4 * i)
                    s0 = fma(load_f32x16(table.values + (piece * width + i) * 4), value, s0)
                    s1 = fma(load_f32x16(table.values + (p1 * width + i) * 4), value, s1)
                    s2 = fma(load_f32x16(table.values + (p2 * width + i) * 4), value, s2)
                    s3 = fma(load_f32x16(table.values + (p3 * width + i) * 4), value, s3)
            else:
                for i in range(0, width, 16):
                    value = load_f32x16(x + 4 * i)
                    s0 = fma(to_f32(load_s8x16(table.values + piece * width + i)), value, s0)
                    s1 = fma(to_f32(load_s8x16(table.values + p1 * width + i)), value, s1)
                    s2 = fma(to_f32(load_s8x16(table.values + p2 * width + i)), value, s2)
                    s3 = fma(to_f32(load_s8x16(table.values + p3 * width + i)), value, s3)
            to = out + row * out_stride
            store_f32(to + 4 * piece, reduce_add(s0) * f0 + load_f32(bias + 4 * piece))
            store_f32(to + 4 * p1, reduce_add(s1) * f1 + load_f32(bias + 4 * p1))
            store_f32(to + 4 * p2, reduce_add(s2) * f2 + load_f32(bias + 4 * p2))
            store_f32(to + 4 * p3, reduce_add(s3) * f3 + load_f32(bias + 4 * p3))


@kernel
def top_of_row(x, count, top, ids, values):  # type: ignore[no-untyped-def]
    """The `top` ≤ count largest of float32 [count], largest first, of equal ones the first; ids: int32 [top], values: float32 [top]."""
    held = 0
    for index in range(count):
        value = load_f32(x + 4 * index)
        if held == top and not value > load_f32(values + 4 * (top - 1)):
            continue
        place = min(held, top - 1)
        while place > 0 and value > load_f32(values + 4 * (place - 1)):
            store_f32(values + 4 * place, load_f32(values + 4 * (place - 1)))
            store_i32(ids + 4 * place, load_i32(ids + 4 * (place - 1)))
            place -= 1
        store_f32(values + 4 * place, value)
        store_i32(ids + 4 * place, index)
        held = min(held + 1, top)


@kernel
def _transform(model, local, x, out):  # type: ignore[no-untyped-def]
    """A hidden state, as the decoder takes it."""
    width = model.embedding_width
    head_linear(local, x, model.hidden_width * 4, np.int64(1), model.transform, out, model.transform_activation - 1)
    norm = model.transform_norm
    none = np.int64(0)
    layer_norm_rows(out, none, 1, model.embedding_size, width, norm, model.layer_norm_eps, none, none, none, none, local.tile)
    return is_finite_row(out, width)


@kernel
def _finish(model, request, logits, width, row):  # type: ignore[no-untyped-def]
    """The logits of mask token number `row` of the request, [width] with the padding, to the caller's memory; 0 if they are not finite."""
    pieces = model.vocab_size
    for i in range(pieces, width):
        store_f32(logits + 4 * i, _ZERO)
    finite = is_finite_row(logits, width)
    if request.masked_logits != 0:
        copy_row(logits, request.masked_logits + row * pieces * 4, pieces)
    if request.top != 0 and finite != 0:
        ids = request.top_ids + row * request.top * 4
        scores = request.top_scores + row * request.top * 4
        top_of_row(logits, pieces, request.top, ids, scores)
        softmax_row(logits, pieces)
        for i in range(request.top):
            store_f32(scores + 4 * i, load_f32(logits + 4 * load_i32(ids + 4 * i)))
    return finite


@kernel
def predict_masked(session, request, part, local, worker, workers):  # type: ignore[no-untyped-def]
    """Predictions for all mask tokens of the team's texts. The arguments are those of `forward`, behind the last layer."""
    model = session.model
    stride = model.embedding_width * 4
    width = (model.vocab_size + 63) // 64 * 64
    first, last = share((model.vocab_size + 3) // 4, worker, workers)
    begin = load_i64(request.id_offsets + 8 * part.first_text)
    done = _count(model, request.ids, load_i64(request.id_offsets), begin)
    for item in range(part.first_text, part.last_text):
        index = load_i64(request.id_offsets + 8 * item)
        end = load_i64(request.id_offsets + 8 * (item + 1))
        while index < end:
            count = 0
            while index < end and count < MASKED_ROWS:
                if load_i32(request.ids + 4 * index) == model.tokenizer.mask_id:
                    x = part.x + (index - begin) * model.hidden_width * 4
                    if _transform(model, local, x, local.head + count * stride) == 0:
                        request.item = item
                        request.status = _NON_FINITE
                    count += 1
                index += 1
            if count == 0:
                break
            pieces = min(4 * last, model.vocab_size)
            decode_rows(
                model.decoder, model.decoder_bias, local.head, count, model.embedding_width, 4 * first, pieces, part.masked, width * 4
            )
            meet(session, local, workers, POOL)
            for row in range(worker, count, workers):
                if _finish(model, request, part.masked + row * width * 4, width, done + row) == 0:
                    request.item = item
                    request.status = _NON_FINITE
            meet(session, local, workers, POOL)
            done += count

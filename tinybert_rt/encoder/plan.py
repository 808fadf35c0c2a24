"""The arena: every buffer of a session is placed here once, so that a call allocates nothing."""

from __future__ import annotations

import numpy as np

from tinybert_rt.encoder.structs import (
    GROUP_TEXTS,
    GROUP_TOKENS,
    HEAD_ROWS,
    INNER_ROWS,
    LIGHT_BYTES,
    MASKED_ROWS,
    ROWS_APART,
    ROWS_APART_LIGHT,
    SEMAPHORE_BYTES,
    SMALLEST_CHUNK,
    Slice,
    Worker,
)
from tinybert_rt.format.layout import HEADS
from tinybert_rt.kernels.attention import attention_bytes
from tinybert_rt.kernels.attention_int8 import attention_int8_bytes
from tinybert_rt.kernels.attention_probabilities import probabilities_bytes
from tinybert_rt.kernels.attention_relative import relative_bytes
from tinybert_rt.kernels.jit import inline, kernel
from tinybert_rt.kernels.memory import store_f32, take
from tinybert_rt.kernels.panels import FLOAT_COLUMNS, FLOAT_ROWS, NARROW_COLUMNS
from tinybert_rt.kernels.rows import GROUP_BYTES
from tinybert_rt.kernels.struct_types import struct_at
from tinybert_rt.text.limits import WORD_SCRATCH_BYTES

TILE_BYTES = max(64 * FLOAT_ROWS * FLOAT_COLUMNS, GROUP_BYTES)
_KEY_MULTIPLE = 16 * NARROW_COLUMNS
_SLICE_BYTES = Slice.size
_WORKER_BYTES = Worker.size
_ZERO = np.float32(0.0)
_MASKED = HEADS["masked_token"]
_slices_at = struct_at(Slice)
_workers_at = struct_at(Worker)


@inline
def _round_up(value, multiple):  # type: ignore[no-untyped-def]
    return (value + multiple - 1) // multiple * multiple


@inline
def _weight_bytes(weights):  # type: ignore[no-untyped-def]
    size = weights.inputs * weights.outputs
    return size if weights.scale != 0 else 4 * size


@kernel
def _layers_bytes(model):  # type: ignore[no-untyped-def]
    """Bytes of the four matrices of each layer; a layer that runs several times counts once.

    Layers lie in a file in the order in which they first run, so a new one is behind all others.
    """
    total = np.int64(0)
    last = np.int64(0)
    for index in range(model.num_layers):
        weights = model.layers[index]
        if weights.qkv.weight > last:
            last = weights.qkv.weight
            total += _weight_bytes(weights.qkv) + _weight_bytes(weights.attention_output)
            total += _weight_bytes(weights.ffn_in) + _weight_bytes(weights.ffn_out)
    return total


@kernel
def plan_session(session, model, arena, workers):  # type: ignore[no-untyped-def]
    """Place all buffers of a session from `arena` on; returns the bytes needed.

    With arena = 0 only the size is worked out. Otherwise `arena` is 64-byte aligned and has as many bytes.

    Args:
        session: Session, filled here. model: Model. workers: ≥ 1.
    """
    session.workers = workers
    chunk = _round_up(max(model.max_positions, SMALLEST_CHUNK), 64)
    head_width = _round_up(model.head_size, 16)
    part_width = _round_up(model.num_heads * head_width, 64)
    session.chunk_tokens = chunk
    session.chunk_target = SMALLEST_CHUNK
    session.group_tokens = max(GROUP_TOKENS, model.max_positions)
    session.group_texts = GROUP_TEXTS
    session.head_width = head_width
    session.head_slots = (part_width + head_width - 1) // head_width
    session.context_width = part_width
    session.q_width = max(model.hidden_width, part_width, model.embedding_width)
    session.inner_rows = INNER_ROWS
    session.rows_apart = ROWS_APART_LIGHT if _layers_bytes(model) * workers <= LIGHT_BYTES else ROWS_APART
    session.attention_tokens = chunk
    session.n_chunks = 0
    session.next_chunk = 0
    session.barrier_count = 0
    session.barrier_generation = 0
    session.job = 0
    session.closing = 0
    session.yield_thread = 0
    session.sleep_thread = 0
    session.wake_thread = 0

    cursor = arena
    slices = cursor
    cursor = take(cursor, workers * _SLICE_BYTES)
    workers_at = cursor
    cursor = take(cursor, workers * _WORKER_BYTES)
    session.ids = cursor
    cursor = take(cursor, session.group_tokens * 4)
    session.types = cursor
    cursor = take(cursor, session.group_tokens)
    session.id_offsets = cursor
    cursor = take(cursor, (GROUP_TEXTS + 1) * 8)
    session.chunks = cursor
    cursor = take(cursor, (GROUP_TEXTS + 1) * 8)
    for index in range(workers):
        cursor = _plan_slice(session, model, _slices_at(slices)[index], cursor, arena != 0)
        cursor = _plan_worker(session, model, _workers_at(workers_at)[index], cursor, arena != 0)
    if arena != 0:
        session.model = model
        session.slices = _slices_at(slices)
        session.locals = _workers_at(workers_at)
    return cursor - arena


@kernel
def _plan_slice(session, model, part, cursor, place):  # type: ignore[no-untyped-def]
    rows = session.chunk_tokens
    x = cursor
    q = take(x, rows * model.hidden_width * 4)
    scales = take(q, rows * session.q_width)
    zeros = take(scales, rows * 4)
    heads = take(zeros, rows * 4)
    # The last head's keys and values are read up to a whole tile behind the last row.
    # Before the first layer, embeddings that are projected lie there, and then the products of a convolution.
    heads_bytes = (3 * session.head_slots * rows + _KEY_MULTIPLE) * session.head_width * 4 + 64
    heads_bytes = max(heads_bytes, model.projected * rows * model.embedding_width * 4, model.conv_kernel * rows * model.hidden_width * 4)
    context = take(heads, heads_bytes)
    inner = take(context, rows * session.context_width * 4)
    inner_q = take(inner, session.inner_rows * model.intermediate_width * 4)
    inner_scales = take(inner_q, session.inner_rows * model.intermediate_width)
    inner_zeros = take(inner_scales, session.inner_rows * 4)
    row_starts = take(inner_zeros, session.inner_rows * 4)
    convolved = take(row_starts, (GROUP_TEXTS + 1) * 8)
    masked = take(convolved, rows * model.hidden_width * 4) if model.conv_kernel != 0 else convolved
    masked_bytes = 0
    if model.head == _MASKED:
        masked_bytes = MASKED_ROWS * _round_up(model.vocab_size, 64) * 4
    end = take(masked, masked_bytes)
    if place:
        part.x = x
        part.q = q
        part.scales = scales
        part.zeros = zeros
        part.heads = heads
        part.context = context
        part.inner = inner
        part.inner_q = inner_q
        part.inner_scales = inner_scales
        part.inner_zeros = inner_zeros
        part.row_starts = row_starts
        part.convolved = convolved
        part.masked = masked
        _clear_padding(session, model, part)
    return end


@kernel
def _clear_padding(session, model, part):
    """Zero the columns of the context that no head writes: its rows are quantized whole."""
    used = model.num_heads * session.head_width
    for row in range(session.chunk_tokens):
        for column in range(used, session.context_width):
            store_f32(part.context + (row * session.context_width + column) * 4, _ZERO)


@kernel
def _plan_worker(session, model, worker, cursor, place):  # type: ignore[no-untyped-def]
    tile = cursor
    attention = take(tile, TILE_BYTES)
    attention_scratch = probabilities_bytes(session.attention_tokens, session.head_width)
    for index in range(model.num_layers):
        if model.layers[index].qkv.scale != 0:
            attention_scratch = max(attention_scratch, attention_int8_bytes(session.attention_tokens, session.head_width))
        else:
            attention_scratch = max(attention_scratch, attention_bytes(session.attention_tokens, session.head_width))
    relative = take(attention, attention_scratch)
    pooled = relative
    if model.relative_span != 0:
        pooled = take(relative, relative_bytes(session.attention_tokens, session.head_width, model.relative_width))
    head = take(pooled, model.hidden_width * 4)
    head_bytes = 0
    if model.head == _MASKED:
        head_bytes = MASKED_ROWS * model.embedding_width * 4
    elif model.head != 0:
        head_bytes = HEAD_ROWS * (model.hidden_width + _round_up(model.labels, 64)) * 4
    text = take(head, head_bytes)
    semaphore = take(text, WORD_SCRATCH_BYTES)
    end = take(semaphore, SEMAPHORE_BYTES)
    if place:
        worker.tile = tile
        worker.attention = attention
        worker.relative = relative
        worker.pooled = pooled
        worker.head = head
        worker.text = text
        worker.trace = 0
        worker.semaphore = semaphore
        worker.asleep = 0
    return end

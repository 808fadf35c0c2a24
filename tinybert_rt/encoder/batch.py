"""A group of texts through the model: tokenized, cut into chunks, and dealt to the workers.

Many chunks: each worker takes whole chunks, alone. Few: all workers run each chunk together. Which of the two happens
does not change a result.
"""

from __future__ import annotations

import numpy as np

from tinybert_rt.encoder.forward import forward
from tinybert_rt.encoder.masked import asks_for_masked, check_room
from tinybert_rt.encoder.structs import NO_STAGE, TOKENIZE, Session
from tinybert_rt.encoder.team import give_job, mark, meet, wait_for_job
from tinybert_rt.errors import InvalidArgumentError, TokenIdError
from tinybert_rt.format.layout import HEADS
from tinybert_rt.kernels.jit import kernel
from tinybert_rt.kernels.memory import atomic_add, load_i32, load_i64, load_u8, store_i32, store_i64, store_u8
from tinybert_rt.text.sequence import tokenize

_NEXT_CHUNK_OFFSET = Session.fields["next_chunk"].offset
_BAD_ID = TokenIdError.code
_BAD_ARGUMENT = InvalidArgumentError.code
_OF_TEXTS = HEADS["sequence_classification"]
_MASKED = HEADS["masked_token"]


@kernel
def _check_request(session, request):
    """Numbers that would lead outside a buffer: max_tokens, dim, pairs, texts that end before they begin."""
    model = session.model
    bad = request.n_texts < 0 or (request.out != 0 and (request.dim < 1 or request.dim > model.hidden_size))
    if request.scores != 0 and (model.head == 0 or (model.head != _OF_TEXTS and request.texts != 0)):
        bad = True  # scores of tokens need room that the caller knows of only where the tokens are given
    if request.scores != 0 and model.head == _MASKED:
        bad = True
    if asks_for_masked(request) and (model.head != _MASKED or request.masked_room < 0):
        bad = True
    if request.top != 0 and (request.top < 0 or request.top > model.vocab_size or request.top_ids == 0 or request.top_scores == 0):
        bad = True
    if request.texts != 0:
        bad = bad or request.layers != 0 or request.attentions != 0  # the same: their room depends on the tokens
        smallest = 3 if request.pairs != 0 else 2
        bad = bad or request.pairs < 0 or request.pairs > 1
        bad = bad or request.max_tokens < smallest or request.max_tokens > model.max_positions
        if not bad:
            for i in range(request.n_texts * (1 + request.pairs)):
                if load_i64(request.text_ends + 8 * i) < load_i64(request.text_starts + 8 * i):
                    bad = True
    if bad:
        request.status = _BAD_ARGUMENT


@kernel
def _tokenize_group(session, request):  # type: ignore[no-untyped-def]
    """Tokenize texts until the token buffer is full; request.done becomes the number of texts in it."""
    model = session.model
    worker = session.locals[0]
    info = worker.info
    used = 0
    done = 0
    step = 1 + request.pairs
    store_i64(session.id_offsets, 0)
    while done < request.n_texts and done < session.group_texts and used + request.max_tokens <= session.group_tokens:
        start = load_i64(request.text_starts + 8 * done * step)
        size = load_i64(request.text_ends + 8 * done * step) - start
        pair = 0
        pair_size = -1
        if request.pairs != 0:
            pair_start = load_i64(request.text_starts + 8 * (done * step + 1))
            pair = request.texts + pair_start
            pair_size = load_i64(request.text_ends + 8 * (done * step + 1)) - pair_start
        status = tokenize(
            model.tokenizer,
            request.texts + start,
            size,
            pair,
            pair_size,
            request.max_tokens,
            request.truncation,
            session.ids + 4 * used,
            session.types + used,
            np.int64(0),
            info,
            worker.text,
        )
        if request.token_counts != 0:
            store_i32(request.token_counts + 4 * done, info.total)
        if request.truncated != 0:
            store_u8(request.truncated + done, info.truncated)
        if status != 0:
            request.status = status
            request.item = done
            break
        used += info.count
        done += 1
        store_i64(session.id_offsets + 8 * done, used)
    request.done = done
    request.ids = session.ids
    # A model with one token type gives it to both texts of a pair.
    request.types = session.types if model.type_vocab_size > 1 else 0
    request.id_offsets = session.id_offsets


@kernel
def tokenize_call(call, text, size, pair, pair_size):
    """Tokenize one text, or a pair where pair_size ≥ 0; returns the status. See `TokenizeCall` and `text.sequence.tokenize`."""
    return tokenize(
        call.tokenizer,
        text,
        size,
        pair,
        pair_size,
        call.max_tokens,
        call.truncation,
        call.ids,
        call.types,
        call.spans,
        call.info,
        call.scratch,
    )


@kernel
def _check_ids(session, request):  # type: ignore[no-untyped-def]
    """The caller's ids: take as many texts as a group holds, and check each id against the model's tables."""
    model = session.model
    done = 0
    start = load_i64(request.id_offsets)
    first = start
    if start < 0:
        request.status = _BAD_ARGUMENT
        request.item = 0
    while request.status == 0 and done < request.n_texts and done < session.group_texts:
        end = load_i64(request.id_offsets + 8 * (done + 1))
        if end <= start or end - start > model.max_positions or end > request.n_ids:
            request.status = _BAD_ARGUMENT
            request.item = done
            break
        if done > 0 and end - first > session.group_tokens:
            break
        bad = False
        for i in range(start, end):
            token = load_i32(request.ids + 4 * i)
            if token < 0 or token >= model.vocab_size:
                bad = True
            if request.types != 0 and load_u8(request.types + i) >= model.type_vocab_size:
                bad = True
        if bad:
            request.status = _BAD_ID
            request.item = done
            break
        start = end
        done += 1
    request.done = done


@kernel
def _cut_chunks(session, request):  # type: ignore[no-untyped-def]
    """Chunks of consecutive texts of at most chunk_target tokens, or of one text."""
    chunks = 0
    tokens = 0
    store_i64(session.chunks, 0)
    for text in range(request.done):
        size = load_i64(request.id_offsets + 8 * (text + 1)) - load_i64(request.id_offsets + 8 * text)
        if tokens > 0 and tokens + size > session.chunk_target:
            chunks += 1
            store_i64(session.chunks + 8 * chunks, text)
            tokens = 0
        tokens += size
    if request.done > 0:
        chunks += 1
        store_i64(session.chunks + 8 * chunks, request.done)
    session.n_chunks = chunks
    session.next_chunk = 0


@kernel
def encode_group(session, request):
    """Encode as many texts of the request as fit one group, with the session's helpers.

    request.done says how many texts (from the first) are finished; on an error request.status and request.item say what
    is wrong with which text, and the texts before it are finished. Returns request.status.
    """
    local = session.locals[0]
    mark(local, NO_STAGE)
    request.status = 0
    request.item = -1
    request.done = 0
    _check_request(session, request)
    if request.status == 0:
        if request.texts != 0:
            _tokenize_group(session, request)
        else:
            _check_ids(session, request)
    request.masked = 0
    if asks_for_masked(request) and request.done > 0:
        check_room(session, request)
    _cut_chunks(session, request)
    mark(local, TOKENIZE)
    if session.workers > 1 and request.done > 0:
        session.request = request
        give_job(session)
        _run_chunks(session, request, np.int64(0), session.workers)
    else:
        _run_chunks(session, request, np.int64(0), np.int64(1))
    return request.status


@kernel
def serve(session, worker):
    """A helper's life: it takes part in each job of the session, and returns 0 when the session is closed."""
    local = session.locals[worker]
    done = np.int64(0)
    while True:
        done = wait_for_job(session, local, done)
        if session.closing != 0:
            return 0
        _run_chunks(session, session.request, worker, session.workers)


@kernel
def _run_chunks(session, request, worker, workers):  # type: ignore[no-untyped-def]
    """This worker's part of the group's chunks; returns when all workers are done."""
    local = session.locals[worker]
    chunks = session.n_chunks
    if workers == 1 or chunks >= 4 * workers or (chunks >= workers and chunks % workers == 0):
        part = session.slices[worker]
        chunk = atomic_add(session.address + _NEXT_CHUNK_OFFSET, 1)
        while chunk < chunks:
            first = load_i64(session.chunks + 8 * chunk)
            # np.int64: a literal would make Numba compile another encoder for it.
            forward(session, request, part, local, first, load_i64(session.chunks + 8 * (chunk + 1)), np.int64(0), np.int64(1))
            chunk = atomic_add(session.address + _NEXT_CHUNK_OFFSET, 1)
    else:
        for chunk in range(chunks):
            first = load_i64(session.chunks + 8 * chunk)
            last = load_i64(session.chunks + 8 * (chunk + 1))
            forward(session, request, session.slices[0], local, first, last, worker, workers)
    meet(session, local, workers, NO_STAGE)

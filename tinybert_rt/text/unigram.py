"""Unigram of a whole text: added tokens are found in the raw text; what lies between them is normalised, cut into words, and each
word into the pieces of the best sum of scores. It does what `tokenizers` does with Unigram, see `rewrite`, `pretokenize`, `lattice`.
"""

from __future__ import annotations

from tinybert_rt.format.layout import DECOMPOSE_HANGUL, STRIP_END, TRIM_BEGIN, TRIM_END
from tinybert_rt.kernels.jit import kernel
from tinybert_rt.kernels.struct_types import struct_at
from tinybert_rt.text.added import next_added
from tinybert_rt.text.limits import FLOW_BYTES, MAX_UNIGRAM_WORD_BYTES
from tinybert_rt.text.pretokenize import end_segment
from tinybert_rt.text.rewrite import end_cluster, find_rule, push, rule_begin, rule_end
from tinybert_rt.text.structs import Flow
from tinybert_rt.text.unicode import HANGUL_COUNT, HANGUL_FIRST, SPACE, decode, record_of
from tinybert_rt.text.words import emit, note_spans

_PLACES_BYTES = 16 * 8
_CLUSTER_BYTES = 16
if Flow.size + _PLACES_BYTES + _CLUSTER_BYTES > FLOW_BYTES:
    raise AssertionError("FLOW_BYTES is too small for the state of Unigram")

_flow_at = struct_at(Flow)
_FLOW_SIZE = Flow.size


@kernel
def begin_flow(tokenizer, ids, spans, capacity, scratch):
    """A fresh Flow in the scratch that writes to `ids` and `spans` (or 0)."""
    flow = _flow_at(scratch)
    flow.flags = tokenizer.unigram_flags
    flow.ids = ids
    flow.spans = spans
    flow.capacity = capacity
    flow.count = 0
    flow.places = scratch + _FLOW_SIZE
    flow.cluster = flow.places + _PLACES_BYTES
    flow.word = scratch + FLOW_BYTES
    flow.best = flow.word + MAX_UNIGRAM_WORD_BYTES
    flow.links = flow.best + 8 * (MAX_UNIGRAM_WORD_BYTES + 8)
    flow.length = 0
    flow.lead = 0
    flow.start = 0
    flow.stop = 0
    flow.unknown = 0
    return flow


@kernel
def _push_jamo(flow, tokenizer, code, start, stop):
    """The two or three jamo of a Hangul syllable (The Unicode Standard, section 3.12)."""
    index = code - HANGUL_FIRST
    push(flow, tokenizer, 0x1100 + index // 588, start, stop)
    push(flow, tokenizer, 0x1161 + index % 588 // 28, start, stop)
    if index % 28:
        push(flow, tokenizer, 0x11A7 + index % 28, start, stop)


@kernel
def _push_text(flow, tokenizer, text, begin, end):
    """Bytes begin … end of the text through the first stage of rewriting."""
    position = begin
    while position < end:
        rule = 0
        if tokenizer.chars_root >= 0:
            found = find_rule(tokenizer, tokenizer.chars_root, text, position, end, True)
            rule = found & 0xFFFFFFFF
        if rule:
            stop = found >> 32
            place = rule_begin(tokenizer, rule)
            last = rule_end(tokenizer, rule)
            while place < last:
                decoded = decode(tokenizer.rewrite_texts, place, last)
                push(flow, tokenizer, decoded >> 3, position, stop)
                place += decoded & 7
            position = stop
            continue
        decoded = decode(text, position, end)
        code = decoded >> 3
        stop = position + (decoded & 7)
        if flow.flags & DECOMPOSE_HANGUL and HANGUL_FIRST <= code < HANGUL_FIRST + HANGUL_COUNT:
            _push_jamo(flow, tokenizer, code, position, stop)
        else:
            push(flow, tokenizer, code, position, stop)
        position = stop
    end_cluster(flow, tokenizer)


@kernel
def _begin_segment(flow, counting):
    flow.cluster_size = 0
    flow.cluster_chars = 0
    flow.long = 0
    flow.before = 0
    flow.before_code = 0
    flow.pictures = 0
    flow.counting = counting
    flow.passed = 0
    flow.last = 0
    flow.seen = 0
    flow.blanks = 0
    flow.opening = -2
    flow.fresh = 1


@kernel
def _trimmed_end(text, begin, end):
    """The end of text[begin:end] without the spaces there."""
    position = begin
    last = begin
    while position < end:
        decoded = decode(text, position, end)
        position += decoded & 7
        if not record_of(decoded >> 3) & SPACE:
            last = position
    return last


@kernel
def _trimmed_begin(text, begin, end):
    """The begin of text[begin:end] without the spaces there."""
    position = begin
    while position < end:
        decoded = decode(text, position, end)
        if not record_of(decoded >> 3) & SPACE:
            break
        position += decoded & 7
    return position


@kernel
def unigram_segment(flow, tokenizer, text, begin, end):
    """Emit the tokens of bytes begin … end of a text, between two added tokens."""
    flags = flow.flags
    first = begin
    if flags & TRIM_END:
        end = _trimmed_end(text, begin, end)
    if flags & TRIM_BEGIN:
        first = _trimmed_begin(text, begin, end)
    flow.limit = -1
    if flags & STRIP_END:
        _begin_segment(flow, 1)
        _push_text(flow, tokenizer, text, first, end)
        flow.limit = flow.last
    _begin_segment(flow, 0)
    _push_text(flow, tokenizer, text, first, end)
    end_segment(flow, tokenizer)


@kernel
def unigram(tokenizer, text, size, ids, spans, capacity, scratch):
    """The token ids of a text, without special tokens.

    Args:
        tokenizer: of kind "unigram", validated.
        text: uint8 [size], UTF-8; each maximal invalid part counts as U+FFFD.
        ids: int32 [capacity], output: the first tokens; what lies behind them is undefined.
        spans: int32 [capacity][2], output, or 0: the bytes of the text that the word of each token begins at and ends before.
        scratch: WORD_SCRATCH_BYTES bytes, 8-byte aligned.

    Returns the number of tokens of the whole text, which may be above `capacity`.
    """
    flow = begin_flow(tokenizer, ids, spans, capacity, scratch)
    position = 0
    while position < size:
        begin, end, token = next_added(tokenizer, text, position, size)
        if begin > position:
            unigram_segment(flow, tokenizer, text, position, begin)
        if token >= 0:
            before = flow.count
            flow.start = begin
            flow.stop = end
            emit(flow, token)
            note_spans(flow, before)
        position = end
    return flow.count

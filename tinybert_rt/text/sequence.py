"""A text, or a pair of texts, as a model's input: special tokens, token types, truncation."""

from __future__ import annotations

from tinybert_rt.errors import InvalidArgumentError, TextTooLongError
from tinybert_rt.format.layout import DOUBLE_SEPARATOR
from tinybert_rt.kernels.jit import inline, kernel
from tinybert_rt.kernels.memory import store_i32, store_u8
from tinybert_rt.text.encode import encode_text
from tinybert_rt.text.limits import TRUNCATE_ERROR, TRUNCATE_LONGEST_FIRST, TRUNCATE_ONLY_FIRST, TRUNCATE_ONLY_SECOND

_INVALID_ARGUMENT = InvalidArgumentError.code
_TEXT_TOO_LONG = TextTooLongError.code


@inline
def _kept_of_first(first, second, room, policy):
    """How many of the `first` tokens of the first text stay when first + second > room; -1: the policy cannot do it.

    The second text keeps the rest of the room; `second` is -1 when there is none. Longest first: the longer text is cut
    down to the room that the shorter leaves, and if both are longer than half of the room, each gets half of it, an odd
    token going to the longer. Only one text: at least one token of it must stay; but where the room is 0, nothing stays of
    either. This is what `tokenizers` does.
    """
    if policy == TRUNCATE_ERROR:
        return -1
    if room == 0:
        return 0
    if second < 0:
        return -1 if policy == TRUNCATE_ONLY_SECOND else room
    if policy == TRUNCATE_LONGEST_FIRST:
        shorter = min(first, second)
        longer = max(shorter, room - shorter)
        if shorter + longer > room:
            shorter = room // 2
            longer = room - shorter
        return longer if first > second else shorter
    if policy == TRUNCATE_ONLY_FIRST:
        return room - second if second < room else -1
    return first if first < room else -1


@inline
def _fill_types(types, begin, end, value):
    if types != 0:
        for index in range(begin, end):
            store_u8(types + index, value)


@inline
def _span_at(spans, index):
    return spans if spans == 0 else spans + 8 * index


@inline
def _no_span(spans, index):
    if spans != 0:
        store_i32(spans + 8 * index, -1)
        store_i32(spans + 8 * index + 4, -1)


@kernel
def tokenize(tokenizer, text, size, pair, pair_size, max_tokens, policy, ids, types, spans, info, scratch):
    """[CLS] text [SEP], or [CLS] text [SEP] pair [SEP]; with DOUBLE_SEPARATOR, [CLS] text [SEP] [SEP] pair [SEP].

    Args:
        tokenizer, text, size, scratch: as in `encode_text`.
        pair: uint8 [pair_size]; pair_size < 0: there is no pair. An empty pair is a pair.
        max_tokens: at least 2, with a pair `pair_special`.
        policy: what is left out of a text that is too long, a TRUNCATE constant of `text.limits`, see `_kept_of_first`;
            TextTooLongError where that is not possible, and always for TRUNCATE_ERROR.
        ids: int32 [max_tokens], output.
        types: uint8 [max_tokens], output: 0, for the pair and the [SEP] behind it 1 unless the separator is double; or 0: they are
            not wanted.
        spans: int32 [max_tokens][2], output, or 0: for each token the bytes of its text (the text's or the pair's own) that its word begins
            at and ends before; -1 for special tokens. Texts are below 2 GiB.
        info: TokenizeInfo, output. After TextTooLongError `total` is set and `count` is 0.

    Returns 0, or the code of InvalidArgumentError or TextTooLongError.
    """
    paired = pair_size >= 0
    double = tokenizer.flags & DOUBLE_SEPARATOR
    gap = 3 if double else 2  # special tokens before the pair
    room = max_tokens - (gap + 1 if paired else 2)
    info.count = 0
    info.total = 0
    info.truncated = 0
    if room < 0 or policy < TRUNCATE_LONGEST_FIRST or policy > TRUNCATE_ERROR:
        return _INVALID_ARGUMENT
    first = encode_text(tokenizer, text, size, ids + 4, _span_at(spans, 1), room, scratch)
    written = min(first, room)
    second = 0
    if paired:
        place = written + gap
        second = encode_text(tokenizer, pair, pair_size, ids + 4 * place, _span_at(spans, place), room - written, scratch)
    info.total = first + second + max_tokens - room
    if first + second > room:
        first = _kept_of_first(first, second if paired else -1, room, policy)
        if first < 0:
            return _TEXT_TOO_LONG
        second = room - first
        info.truncated = 1
        if first < written:
            # More of the pair is kept than was written, and further ahead.
            place = first + gap
            encode_text(tokenizer, pair, pair_size, ids + 4 * place, _span_at(spans, place), second, scratch)
    store_i32(ids, tokenizer.cls_id)
    store_i32(ids + 4 * (first + 1), tokenizer.sep_id)
    _no_span(spans, 0)
    _no_span(spans, first + 1)
    _fill_types(types, 0, first + 2, 0)
    info.count = first + 2
    if paired:
        last = first + gap + second
        store_i32(ids + 4 * last, tokenizer.sep_id)
        _no_span(spans, last)
        if double:
            store_i32(ids + 4 * (first + 2), tokenizer.sep_id)
            _no_span(spans, first + 2)
        _fill_types(types, first + 2, last + 1, 0 if double else 1)
        info.count = last + 1
    return 0

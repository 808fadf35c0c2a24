"""Byte-level BPE of a whole text: added tokens, words, and the tokens that the bytes of each word merge to."""

from __future__ import annotations

from tinybert_rt.format.layout import PREFIX_SPACE
from tinybert_rt.kernels.jit import inline, kernel
from tinybert_rt.kernels.memory import constant_table, load_i32, load_u8, store_i32
from tinybert_rt.text.added import next_added
from tinybert_rt.text.byte_words import next_word
from tinybert_rt.text.limits import PART_BYTES
from tinybert_rt.text.merges import merge_all, next_place, put_token, token_at
from tinybert_rt.text.trie_walk import find_node, whole_piece
from tinybert_rt.text.unicode import REPLACEMENT, decode

_BLANK = ord(" ")
_blank = constant_table(b" ")
_replacement = constant_table("\N{REPLACEMENT CHARACTER}".encode())


@inline
def _emit(ids, spans, capacity, count, token, start, stop):
    """Write token number `count` and the span of its word, if there is room."""
    if count < capacity:
        store_i32(ids + 4 * count, token)
        if spans != 0:
            store_i32(spans + 8 * count, start)
            store_i32(spans + 8 * count + 4, stop)


@inline
def _put_bytes(tokenizer, scratch, place, source, size):
    for index in range(size):
        put_token(scratch, place + index, load_i32(tokenizer.bytes + 4 * load_u8(source + index)))


@kernel
def _fill_part(tokenizer, text, position, end, scratch, filled):
    """Put the bytes of text[position:end] behind the `filled` symbols, as many whole characters as fit: position behind them, symbols."""
    while position < end:
        source = text + position
        size = 1
        length = 1
        if load_u8(source) >= 128:
            decoded = decode(text, position, end)
            length = decoded & 7
            size = length
            if decoded >> 3 == REPLACEMENT:
                source = _replacement()
                size = 3
        if filled + size > PART_BYTES:
            break
        _put_bytes(tokenizer, scratch, filled, source, size)
        filled += size
        position += length
    return position, filled


@kernel
def _merge_word(tokenizer, text, position, start, stop, lead, ids, spans, capacity, count, scratch):
    """The tokens of the word text[position:stop], behind a space if `lead` is 1; returns the number of all tokens so far."""
    filled = 0
    if lead != 0:
        put_token(scratch, 0, load_i32(tokenizer.bytes + 4 * _BLANK))
        filled = 1
    place = position
    while place < stop or filled > 0:
        place, filled = _fill_part(tokenizer, text, place, stop, scratch, filled)
        merge_all(tokenizer, scratch, filled)
        symbol = 0
        while symbol < filled:
            _emit(ids, spans, capacity, count, token_at(scratch, symbol), start, stop)
            count += 1
            symbol = next_place(scratch, symbol)
        filled = 0
    return count


@kernel
def _bpe_between(tokenizer, text, position, end, ids, spans, capacity, count, scratch):
    """The tokens of text[position:end], in which no added token is; returns the number of all tokens so far."""
    lead = 0
    if tokenizer.flags & PREFIX_SPACE and position < end and load_u8(text + position) != _BLANK:
        lead = 1
    while position < end:
        stop, start, replaced = next_word(text, position, end, lead)
        whole = 0
        if replaced == 0:
            root = find_node(tokenizer.trie, tokenizer.trie_nodes, _blank(), 1) if lead != 0 else 0
            whole = whole_piece(tokenizer.trie, tokenizer.trie_nodes, root, text + position, stop - position)
        if whole != 0:
            _emit(ids, spans, capacity, count, whole - 1, start, stop)
            count += 1
        else:
            count = _merge_word(tokenizer, text, position, start, stop, lead, ids, spans, capacity, count, scratch)
        position = stop
        lead = 0
    return count


@kernel
def bpe(tokenizer, text, size, ids, spans, capacity, scratch):
    """The token ids of a text, without special tokens.

    A word of more than PART_BYTES bytes is merged in parts of as many whole characters as fit into PART_BYTES bytes.

    Args:
        tokenizer: of kind "bpe", validated.
        text: uint8 [size], UTF-8; each maximal invalid part counts as U+FFFD.
        ids: int32 [capacity], output: the first tokens; what lies behind them is undefined.
        spans: int32 [capacity][2], output, or 0: the bytes of the text that the word of each token begins at, without the space that
            leads it, and ends before. They may be equal where the word is a space that PREFIX_SPACE put there.
        scratch: WORD_SCRATCH_BYTES bytes, 8-byte aligned.

    Returns the number of tokens of the whole text, which may be above `capacity`.
    """
    count = 0
    position = 0
    while position < size:
        begin, end, token = next_added(tokenizer, text, position, size)
        count = _bpe_between(tokenizer, text, position, begin, ids, spans, capacity, count, scratch)
        if token >= 0:
            _emit(ids, spans, capacity, count, token, begin, end)
            count += 1
        position = end
    return count

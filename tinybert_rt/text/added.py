"""Added tokens: found in the raw text, before anything else happens to it. What `tokenizers` does with its AddedVocabulary."""

from __future__ import annotations

from tinybert_rt.format.layout import STRIP_LEFT, STRIP_RIGHT
from tinybert_rt.kernels.jit import inline, kernel
from tinybert_rt.kernels.memory import load_i32, load_u8, load_u32
from tinybert_rt.text.unicode import SPACE, decode, record_of


@inline
def may_begin(tokenizer, byte):
    """Whether an added token begins with `byte`."""
    bits = tokenizer.added_first0
    if byte >= 192:
        bits = tokenizer.added_first3
    elif byte >= 128:
        bits = tokenizer.added_first2
    elif byte >= 64:
        bits = tokenizer.added_first1
    return (bits >> (byte & 63)) & 1 != 0


@kernel
def longest_added(tokenizer, text, size):
    """The longest added token at the start of a text: its number among the added tokens, or -1; and its bytes."""
    found = -1
    longest = 0
    for index in range(tokenizer.added_count):
        token = load_i32(tokenizer.added + 4 * index)
        begin = load_u32(tokenizer.piece_offsets + 4 * token)
        length = load_u32(tokenizer.piece_offsets + 4 * token + 4) - begin
        if longest < length <= size:
            piece = tokenizer.pieces + begin
            same = 0
            while same < length and load_u8(piece + same) == load_u8(text + same):
                same += 1
            if same == length:
                longest = length
                found = index
    return found, longest


@inline
def _is_space(decoded):
    return record_of(decoded >> 3) & SPACE != 0


@kernel
def _space_before(text, begin, end):
    """Where the white space that ends at byte `end` begins, at or behind `begin`."""
    while end > begin:
        start = end - 1
        while start > begin and end - start < 4 and (load_u8(text + start) & 0xC0) == 0x80:
            start -= 1
        decoded = decode(text, start, end)
        if start + (decoded & 7) != end or not _is_space(decoded):
            break
        end = start
    return end


@kernel
def _space_behind(text, begin, size):
    """Where the white space that begins at byte `begin` ends."""
    while begin < size:
        decoded = decode(text, begin, size)
        if not _is_space(decoded):
            break
        begin += decoded & 7
    return begin


@kernel
def next_added(tokenizer, text, position, size):
    """The first added token at or behind byte `position`, of several at one place the longest; with the white space around it
    that its options give to it, as far as that lies at or behind `position`.

    Args:
        tokenizer: prepared. text: uint8 [size], UTF-8; any bytes are possible. position: 0, or the `end` of the token before.

    Returns begin, end, id; size, size, -1: there is none. Before `begin` lies text that is no added token.
    """
    begin = position
    while begin < size:
        if may_begin(tokenizer, load_u8(text + begin)):
            index, length = longest_added(tokenizer, text + begin, size - begin)
            if index >= 0:
                end = begin + length
                if tokenizer.added_options != 0:
                    options = load_u8(tokenizer.added_options + index)
                    if options & STRIP_LEFT:
                        begin = _space_before(text, position, begin)
                    if options & STRIP_RIGHT:
                        end = _space_behind(text, end, size)
                return begin, end, load_i32(tokenizer.added + 4 * index)
        begin += 1
    return size, size, -1

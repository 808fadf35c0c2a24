"""Merging the bytes of a word: of all pairs of neighbours the one of the lowest rank first (Sennrich et al. 2016, section 3.2)."""

from __future__ import annotations

from tinybert_rt.kernels.jit import inline, kernel
from tinybert_rt.kernels.memory import load_i32, load_i64, load_u16, load_u32, store_i32, store_i64, store_u16
from tinybert_rt.text.limits import MERGE_BLOCK, PART_BYTES

# In the scratch. A symbol stands where its first byte does; what has become part of the one before has no key and no neighbours.
_KEYS = 0  # int64 [PART_BYTES]: rank << 32 | new token, of the merge of a symbol and the next; _NONE: there is none
_LEAST = 8 * PART_BYTES  # int64 [PART_BYTES / MERGE_BLOCK]: the smallest key of each block of symbols
_TOKENS = _LEAST + 8 * PART_BYTES // MERGE_BLOCK  # int32 [PART_BYTES]
_NEXT = _TOKENS + 4 * PART_BYTES  # uint16 [PART_BYTES]: place of the next symbol; behind the last, the number of bytes
_BEFORE = _NEXT + 2 * PART_BYTES  # uint16 [PART_BYTES]: place of the symbol before

_NONE = 1 << 62


@inline
def _key_of(tokenizer, left, right):
    """The key of the merge of two tokens."""
    low = load_u32(tokenizer.merge_starts + 4 * left)
    end = load_u32(tokenizer.merge_starts + 4 * left + 4)
    high = end
    while low < high:
        middle = (low + high) >> 1
        if load_u32(tokenizer.merges + 12 * middle) < right:
            low = middle + 1
        else:
            high = middle
    row = tokenizer.merges + 12 * low
    if low < end and load_u32(row) == right:
        return (load_u32(row + 4) << 32) | load_u32(row + 8)
    return _NONE


@inline
def _smallest(keys, begin, end):
    """Place of the first of the smallest keys of a range, or -1 where there is none."""
    place = -1
    smallest = _NONE
    for index in range(begin, end):
        key = load_i64(keys + 8 * index)
        if key < smallest:
            smallest = key
            place = index
    return place


@kernel
def _merge(tokenizer, scratch, count, place):
    """Carry out the merge of the symbol at `place` and the next."""
    keys = scratch + _KEYS
    tokens = scratch + _TOKENS
    token = load_i64(keys + 8 * place) & 0xFFFFFFFF
    right = load_u16(scratch + _NEXT + 2 * place)
    following = load_u16(scratch + _NEXT + 2 * right)
    store_i32(tokens + 4 * place, token)
    store_u16(scratch + _NEXT + 2 * place, following)
    store_i64(keys + 8 * right, _NONE)
    key = _NONE
    if following < count:
        store_u16(scratch + _BEFORE + 2 * following, place)
        key = _key_of(tokenizer, token, load_i32(tokens + 4 * following))
    store_i64(keys + 8 * place, key)
    if place > 0:
        before = load_u16(scratch + _BEFORE + 2 * place)
        store_i64(keys + 8 * before, _key_of(tokenizer, load_i32(tokens + 4 * before), token))


@inline
def _renew(scratch, count, block):
    """Find the smallest key of a block again."""
    keys = scratch + _KEYS
    begin = block * MERGE_BLOCK
    place = _smallest(keys, begin, min(begin + MERGE_BLOCK, count))
    store_i64(scratch + _LEAST + 8 * block, load_i64(keys + 8 * place) if place >= 0 else _NONE)


@inline
def put_token(scratch, place, token):
    """Set a symbol before `merge_all`."""
    store_i32(scratch + _TOKENS + 4 * place, token)


@inline
def token_at(scratch, place):
    """The token of the symbol at `place`."""
    return load_i32(scratch + _TOKENS + 4 * place)


@inline
def next_place(scratch, place):
    """Where the symbol behind the one at `place` stands."""
    return load_u16(scratch + _NEXT + 2 * place)


@kernel
def merge_all(tokenizer, scratch, count):
    """Merge symbols as long as there is a merge; the first one that is left stands at place 0.

    Args:
        tokenizer: of kind "bpe", validated.
        scratch: MERGE_SCRATCH_BYTES bytes, with the tokens of `count` symbols, from 1 to PART_BYTES.

    It takes at most `count` merges, each of a time in proportion to count / MERGE_BLOCK + MERGE_BLOCK.
    """
    keys = scratch + _KEYS
    tokens = scratch + _TOKENS
    for index in range(count):
        store_u16(scratch + _NEXT + 2 * index, index + 1)
        store_u16(scratch + _BEFORE + 2 * index, index - 1)
        key = _NONE
        if index + 1 < count:
            key = _key_of(tokenizer, load_i32(tokens + 4 * index), load_i32(tokens + 4 * index + 4))
        store_i64(keys + 8 * index, key)
    if count <= MERGE_BLOCK:
        place = _smallest(keys, 0, count)
        while place >= 0:
            _merge(tokenizer, scratch, count, place)
            place = _smallest(keys, 0, count)
        return
    blocks = (count + MERGE_BLOCK - 1) // MERGE_BLOCK
    for block in range(blocks):
        _renew(scratch, count, block)
    while True:
        block = _smallest(scratch + _LEAST, 0, blocks)
        if block < 0:
            break
        place = _smallest(keys, block * MERGE_BLOCK, min((block + 1) * MERGE_BLOCK, count))
        right = load_u16(scratch + _NEXT + 2 * place) // MERGE_BLOCK
        before = load_u16(scratch + _BEFORE + 2 * place) // MERGE_BLOCK if place > 0 else block
        _merge(tokenizer, scratch, count, place)
        _renew(scratch, count, block)
        if right != block:
            _renew(scratch, count, right)
        if before != block:
            _renew(scratch, count, before)

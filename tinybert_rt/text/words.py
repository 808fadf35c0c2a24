"""The word being read: characters are appended normalised, and its pieces are looked up when it ends."""

from __future__ import annotations

from tinybert_rt.format.layout import LOWERCASE, STRIP_ACCENTS
from tinybert_rt.kernels.jit import inline, kernel
from tinybert_rt.kernels.memory import load_u8, store_i32, store_u8
from tinybert_rt.text.trie_walk import longest_match
from tinybert_rt.text.unicode import (
    COMBINING_DOT_ABOVE,
    DOTTED_CAPITAL_I,
    MARK,
    PUNCTUATION,
    SPACE,
    UPPER,
    combining_class_of,
    decode,
    record_of,
    store_utf8,
    utf8_size,
)


@inline
def emit(scan, token):
    """Add a token: written if there is room for it, counted always."""
    if 0 <= scan.count < scan.capacity:
        store_i32(scan.ids + 4 * scan.count, token)
    scan.count = scan.count + 1


@inline
def note_if_full(scan, start, count):
    """Remember the first word (or added token) that did not fit: it begins at byte `start`, `count` tokens are before it."""
    if scan.count > scan.capacity and scan.full == 0:
        scan.full = 1
        scan.full_start = start
        scan.full_count = count


@inline
def note_spans(scan, before):
    """Note the word's bytes for its tokens, those from number `before` on that are written."""
    if scan.spans != 0:
        for index in range(max(before, 0), min(scan.count, scan.capacity)):
            store_i32(scan.spans + 8 * index, scan.start)
            store_i32(scan.spans + 8 * index + 4, scan.stop)


@kernel
def end_word(scan, tokenizer):
    """Emit the tokens of the word and begin another; nothing if the word is empty.

    Greedy longest match first; [UNK] for the whole word if a rest of it begins with no piece, or if it is too long.
    """
    if scan.chars == 0:
        return
    trie = tokenizer.trie
    nodes = tokenizer.trie_nodes
    word = scan.word
    length = scan.length
    before = scan.count
    ids = scan.ids
    capacity = scan.capacity
    count = before
    root = 0
    begin = 0
    if scan.chars > scan.max_chars:
        length = 0
    while begin < length:
        if root < 0:
            break
        found = longest_match(trie, nodes, root, word, begin, length)
        if found == 0:
            break
        if 0 <= count < capacity:
            store_i32(ids + 4 * count, (found & 0xFFFFFFFF) - 1)
        count += 1
        begin = found >> 32
        root = tokenizer.continuation_root
    scan.count = count
    if begin < length or length == 0:
        scan.count = before
        emit(scan, tokenizer.unk_id)
    note_spans(scan, before)
    note_if_full(scan, scan.start, before)
    scan.length = 0
    scan.chars = 0
    scan.run = 0


@inline
def _shift(word, begin, end, distance):
    """Move word[begin:end] up by `distance` bytes."""
    position = end
    while position > begin:
        position -= 1
        store_u8(word + position + distance, load_u8(word + position))


@kernel
def append(scan, code, combining_class):
    """Append a character in canonical order: behind the characters of the same or a lower class since the last starter.

    Args: combining_class is 0 for a starter, and for every character where text is not decomposed.
    """
    chars = scan.chars
    if chars == 0:
        scan.start = scan.position
    scan.stop = scan.behind
    if chars >= scan.max_chars or code == 0:
        # Too long, or no piece can have it: the word is [UNK] and need not be kept.
        scan.chars = scan.max_chars + 1
        return
    scan.chars = chars + 1
    word = scan.word
    length = scan.length
    size = utf8_size(code)
    scan.length = length + size
    place = length
    if combining_class == 0:
        scan.run = length + size
    else:
        while place > scan.run:
            previous = place - 1
            while (load_u8(word + previous) & 0xC0) == 0x80:
                previous -= 1
            if combining_class_of(record_of(decode(word, previous, place) >> 3)) <= combining_class:
                break
            place = previous
        _shift(word, place, length, size)
    store_utf8(word + place, code)


@kernel
def put(scan, tokenizer, code, record):
    """One character after cleaning, spacing and decomposition: drop marks, lower-case, separate."""
    combining_class = 0
    if scan.flags & STRIP_ACCENTS:
        combining_class = combining_class_of(record)
        if record & MARK:
            if combining_class == 0:
                # It separates the characters before from those behind when they are put in order.
                scan.run = scan.length
            return
    if record & (SPACE | PUNCTUATION):
        end_word(scan, tokenizer)
        if record & PUNCTUATION:
            append(scan, code, 0)
            end_word(scan, tokenizer)
        return
    if record & UPPER and scan.flags & LOWERCASE:
        append(scan, code + (record >> 32), combining_class)
        if code == DOTTED_CAPITAL_I:
            append(scan, COMBINING_DOT_ABOVE, 0)
        return
    append(scan, code, combining_class)

"""The scanner: raw UTF-8 text → words → ids. One for whole texts and for windows of long texts.

It does what `tokenizers` does with BertNormalizer, BertPreTokenizer and WordPiece, in one pass and without allocating:
added tokens are found in the raw text; between them characters are cleaned, CJK set apart, decomposed (NFD) without marks,
lower-cased; white space and punctuation separate words.
"""

from __future__ import annotations

from tinybert_rt.format.layout import CLEAN_TEXT, LOWERCASE, SPLIT_CJK, STRIP_ACCENTS
from tinybert_rt.kernels.jit import inline, kernel
from tinybert_rt.kernels.memory import constant_table, copy_bytes, load_i32, load_u8, store_u8
from tinybert_rt.kernels.struct_types import struct_at
from tinybert_rt.text import byte_classes
from tinybert_rt.text.added import longest_added
from tinybert_rt.text.byte_classes import ADDED, ALONE, BREAK, CONTROL, FIRST_COPIED, SKIP, WIDE
from tinybert_rt.text.limits import CLASSES_BYTES, MAX_WORD_CHARS, STATE_BYTES
from tinybert_rt.text.structs import Scan
from tinybert_rt.text.unicode import (
    CJK,
    DECOMPOSES,
    HANGUL_COUNT,
    HANGUL_FIRST,
    REMOVED,
    decode,
    decomposition_of,
    record_of,
    sequence_code,
    sequence_goes_on,
)
from tinybert_rt.text.words import append, emit, end_word, note_if_full, note_spans, put

if Scan.size > STATE_BYTES:
    raise AssertionError("STATE_BYTES is too small for the scanner's state")

_byte_classes = constant_table(byte_classes.BYTE_CLASSES)
_scan_at = struct_at(Scan)


@inline
def _plain_classes(flags):
    """Address of the byte classes for tokenizer flags, without ADDED."""
    address = _byte_classes()
    if flags & CLEAN_TEXT:
        address += 256
    if flags & LOWERCASE:
        address += 512
    return address


@inline
def _mark_added(classes, first, bits):
    """Set the class ADDED for the bytes `first` + i of the set bits i of an int64."""
    for index in range(64):
        if (bits >> index) & 1:
            store_u8(classes + first + index, ADDED)


@kernel
def begin_scan(tokenizer, ids, spans, capacity, count, scratch):
    """A fresh Scan in the scratch that writes to `ids` and `spans` (or 0); `count` is negative to leave out the first tokens."""
    scan = _scan_at(scratch)
    scan.flags = tokenizer.flags
    scan.classes = scratch + STATE_BYTES
    scan.word = scratch + STATE_BYTES + CLASSES_BYTES
    scan.ids = ids
    scan.spans = spans
    scan.capacity = capacity
    scan.count = count
    scan.max_chars = min(tokenizer.max_word_chars, MAX_WORD_CHARS)
    scan.position = 0
    scan.length = 0
    scan.chars = 0
    scan.start = 0
    scan.stop = 0
    scan.behind = 0
    scan.run = 0
    scan.full = 0
    copy_bytes(scan.classes, _plain_classes(tokenizer.flags), CLASSES_BYTES)
    if tokenizer.added_first0:
        _mark_added(scan.classes, 0, tokenizer.added_first0)
    if tokenizer.added_first1:
        _mark_added(scan.classes, 64, tokenizer.added_first1)
    if tokenizer.added_first2:
        _mark_added(scan.classes, 128, tokenizer.added_first2)
    if tokenizer.added_first3:
        _mark_added(scan.classes, 192, tokenizer.added_first3)
    return scan


@kernel
def _put_hangul(scan, code):
    """Append the two or three jamo of a Hangul syllable (The Unicode Standard, section 3.12)."""
    index = code - HANGUL_FIRST
    leading = index // 588
    vowel = (index - 588 * leading) // 28
    trailing = index % 28
    append(scan, 0x1100 + leading, 0)
    append(scan, 0x1161 + vowel, 0)
    if trailing:
        append(scan, 0x11A7 + trailing, 0)


@kernel
def scan_wide(scan, tokenizer, text, size):
    """Read the character at scan.position, of whatever kind; returns its bytes."""
    flags = scan.flags
    decoded = decode(text, scan.position, size)
    code = decoded >> 3
    length = decoded & 7
    scan.behind = scan.position + length
    record = record_of(code)
    if record & REMOVED and flags & CLEAN_TEXT:
        return length
    apart = record & CJK and flags & SPLIT_CJK
    if apart:
        end_word(scan, tokenizer)
    if record & DECOMPOSES and flags & STRIP_ACCENTS:
        if HANGUL_FIRST <= code < HANGUL_FIRST + HANGUL_COUNT:
            _put_hangul(scan, code)
        else:
            element = decomposition_of(code)
            while True:
                part = sequence_code(element)
                put(scan, tokenizer, part, record_of(part))
                if not sequence_goes_on(element):
                    break
                element += 4
    else:
        put(scan, tokenizer, code, record)
    if apart:
        end_word(scan, tokenizer)
    return length


@inline
def _copy_plain(scan, text, size):
    """Copy bytes of ASCII words from scan.position on, as long as the word has room; moves scan.position."""
    classes = scan.classes
    begin = scan.position
    position = begin
    target = scan.word + scan.length - begin
    end = min(size, begin + scan.max_chars - scan.chars)
    while position < end:
        value = load_u8(classes + load_u8(text + position))
        if value < FIRST_COPIED:
            break
        store_u8(target + position, value)
        position += 1
    if position > begin:
        if scan.chars == 0:
            scan.start = begin
        scan.stop = position
        scan.length = scan.length + position - begin
        scan.chars = scan.chars + position - begin
        scan.run = scan.length
        scan.position = position


@kernel
def scan_text(scan, tokenizer, text, size, until_full):
    """Read a text from scan.position on: to its end, or with `until_full` until a word did not fit into the capacity."""
    while scan.position < size:
        _copy_plain(scan, text, size)
        position = scan.position
        if position >= size:
            break
        byte = load_u8(text + position)
        kind = load_u8(scan.classes + byte)
        if kind == BREAK:
            end_word(scan, tokenizer)
            scan.position = position + 1
        elif kind == ALONE:
            end_word(scan, tokenizer)
            scan.behind = position + 1
            append(scan, byte, 0)
            end_word(scan, tokenizer)
            scan.position = position + 1
        elif kind == SKIP:
            scan.position = position + 1
        elif kind == ADDED:
            index, length = longest_added(tokenizer, text + position, size - position)
            if index >= 0:
                end_word(scan, tokenizer)
                before = scan.count
                scan.start = position
                scan.stop = position + length
                emit(scan, load_i32(tokenizer.added + 4 * index))
                note_spans(scan, before)
                note_if_full(scan, position, before)
                scan.position = position + length
            else:
                scan.position = position + scan_wide(scan, tokenizer, text, size)
        elif kind in (WIDE, CONTROL):
            scan.position = position + scan_wide(scan, tokenizer, text, size)
        else:
            # The word is full: one more character makes it too long.
            scan.behind = position + 1
            append(scan, byte, 0)
            scan.position = position + 1
        if until_full and scan.full:
            return
    end_word(scan, tokenizer)

"""UTF-8 and Unicode properties in kernels."""

from __future__ import annotations

from tinybert_rt.kernels.jit import inline, kernel
from tinybert_rt.kernels.memory import constant_table, load_i64, load_u8, load_u16, load_u32, store_u8
from tinybert_rt.text.unicode_data import TABLES

# Bits of a record, see tools/unicode_tables.py.
REMOVED = 1
SPACE = 2
CJK = 4
PUNCTUATION = 8
MARK = 16
DECOMPOSES = 32
UPPER = 64
LETTER = 1 << 16
NUMBER = 1 << 17

REPLACEMENT = 0xFFFD
DOTTED_CAPITAL_I = 0x130
COMBINING_DOT_ABOVE = 0x307

# The Unicode Standard, section 3.12.
HANGUL_FIRST = 0xAC00
HANGUL_COUNT = 11172

_record_top = constant_table(TABLES["RECORD_TOP"])
_record_middle = constant_table(TABLES["RECORD_MIDDLE"])
_record_leaf = constant_table(TABLES["RECORD_LEAF"])
_records = constant_table(TABLES["RECORDS"])
_decomposition_top = constant_table(TABLES["DECOMPOSITION_TOP"])
_decomposition_middle = constant_table(TABLES["DECOMPOSITION_MIDDLE"])
_decomposition_leaf = constant_table(TABLES["DECOMPOSITION_LEAF"])
_decompositions = constant_table(TABLES["DECOMPOSITIONS"])


@inline
def record_of(code):
    """The record of a code point: properties in bits 0–7 and 16–31, combining class in 8–15, difference to the lower case in 32–63."""
    block = load_u8(_record_top() + (code >> 12))
    block = load_u16(_record_middle() + 2 * (64 * block + ((code >> 6) & 63)))
    number = load_u8(_record_leaf() + 64 * block + (code & 63))
    return load_i64(_records() + 8 * number)


@inline
def combining_class_of(record):
    """Canonical_Combining_Class: 0 for a starter."""
    return (record >> 8) & 255


@inline
def decomposition_of(code):
    """Address of the uint32 code points of a decomposition, each but the last with bit 31 set. For DECOMPOSES, not Hangul."""
    block = load_u8(_decomposition_top() + (code >> 12))
    block = load_u16(_decomposition_middle() + 2 * (64 * block + ((code >> 6) & 63)))
    return _decompositions() + 4 * load_u16(_decomposition_leaf() + 2 * (64 * block + (code & 63)))


@inline
def _is_tail(byte):
    return (byte & 0xC0) == 0x80


@kernel
def decode(text, position, size):
    """The character at `position` < `size` of a text: (code point << 3) | its bytes.

    Of invalid UTF-8, each maximal subpart is one U+FFFD (The Unicode Standard, section 3.9, table 3-8).
    """
    first = load_u8(text + position)
    if first < 0x80:
        return (first << 3) | 1
    left = size - position
    second = load_u8(text + position + 1) if left > 1 else 0
    if first < 0xE0:
        if first >= 0xC2 and _is_tail(second):
            return ((((first & 0x1F) << 6) | (second & 0x3F)) << 3) | 2
        return (REPLACEMENT << 3) | 1
    # The second byte excludes overlong forms, surrogates and code points above U+10FFFF.
    low = 0x80
    high = 0xBF
    if first == 0xE0:
        low = 0xA0
    elif first == 0xED:
        high = 0x9F
    elif first == 0xF0:
        low = 0x90
    elif first == 0xF4:
        high = 0x8F
    if first > 0xF4 or second < low or second > high:
        return (REPLACEMENT << 3) | 1
    third = load_u8(text + position + 2) if left > 2 else 0
    if not _is_tail(third):
        return (REPLACEMENT << 3) | 2
    if first < 0xF0:
        return ((((first & 0x0F) << 12) | ((second & 0x3F) << 6) | (third & 0x3F)) << 3) | 3
    fourth = load_u8(text + position + 3) if left > 3 else 0
    if not _is_tail(fourth):
        return (REPLACEMENT << 3) | 3
    code = ((first & 0x07) << 18) | ((second & 0x3F) << 12) | ((third & 0x3F) << 6) | (fourth & 0x3F)
    return (code << 3) | 4


@inline
def utf8_size(code):
    """Bytes of a code point."""
    if code < 0x80:
        return 1
    if code < 0x800:
        return 2
    if code < 0x10000:
        return 3
    return 4


@inline
def store_utf8(address, code):
    """Write a code point as UTF-8."""
    if code < 0x80:
        store_u8(address, code)
    elif code < 0x800:
        store_u8(address, 0xC0 | (code >> 6))
        store_u8(address + 1, 0x80 | (code & 0x3F))
    elif code < 0x10000:
        store_u8(address, 0xE0 | (code >> 12))
        store_u8(address + 1, 0x80 | ((code >> 6) & 0x3F))
        store_u8(address + 2, 0x80 | (code & 0x3F))
    else:
        store_u8(address, 0xF0 | (code >> 18))
        store_u8(address + 1, 0x80 | ((code >> 12) & 0x3F))
        store_u8(address + 2, 0x80 | ((code >> 6) & 0x3F))
        store_u8(address + 3, 0x80 | (code & 0x3F))


@inline
def sequence_code(address):
    """The code point of a decomposition's element."""
    return load_u32(address) & 0x1FFFFF


@inline
def sequence_goes_on(address):
    """Another element follows the one at `address`."""
    return load_u32(address) >> 31 != 0

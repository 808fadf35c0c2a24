"""The words of byte-level BPE, those of GPT-2:

's|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+
"""

from __future__ import annotations

from tinybert_rt.kernels.jit import inline, kernel
from tinybert_rt.kernels.memory import constant_table, load_u8
from tinybert_rt.text.unicode import LETTER, NUMBER, REPLACEMENT, SPACE, decode, record_of

_OTHER = 0
_LETTER = 1
_NUMBER = 2
_SPACE = 3

_BLANK = ord(" ")
_APOSTROPHE, _D, _E, _L, _M, _R, _S, _T, _V = map(ord, "'delmrstv")


def _ascii_class(char: str) -> int:
    if char.isalpha():
        return _LETTER
    if char.isdigit():
        return _NUMBER
    return _SPACE if char in "\t\n\v\f\r " else _OTHER


_ascii_classes = constant_table(bytes(_ascii_class(chr(code)) for code in range(128)))


@kernel
def _wide_class(text, position, end):
    """Of a character outside ASCII, or of no UTF-8: class, its bytes << 2, 32 if U+FFFD stands for it."""
    decoded = decode(text, position, end)
    record = record_of(decoded >> 3)
    found = (decoded & 7) << 2
    if record & LETTER:
        found |= _LETTER
    elif record & NUMBER:
        found |= _NUMBER
    elif record & SPACE:
        found |= _SPACE
    if decoded >> 3 == REPLACEMENT:
        found |= 32
    return found


@inline
def _look(text, position, end):
    """Class of the character at a position, and the rest of `_wide_class`."""
    byte = load_u8(text + position)
    if byte < 128:
        return load_u8(_ascii_classes() + byte) | 4
    return _wide_class(text, position, end)


@inline
def _run(text, position, end, kind):
    """Characters of one class from a position on: where they end, where the last begins, 32 if U+FFFD stands for one of them."""
    last = position
    replaced = 0
    while position < end:
        found = _look(text, position, end)
        if found & 3 != kind:
            break
        replaced |= found & 32
        last = position
        position += (found >> 2) & 7
    return position, last, replaced


@inline
def _contraction(text, position, end):
    """Bytes of the contraction that the apostrophe at a position begins, or 0."""
    if end - position < 2:
        return 0
    first = load_u8(text + position + 1)
    if first in (_S, _T, _M, _D):
        return 2
    if end - position < 3:
        return 0
    second = load_u8(text + position + 2)
    if (second == _E and first in (_R, _V)) or (first == _L and second == _L):
        return 3
    return 0


@kernel
def next_word(text, position, end, lead):
    """The word at byte `position` < `end` of a text, or, with `lead` = 1, the word of a space and the text from there on.

    Returns where the word ends (with `lead`, that may be where it begins), where it begins behind the space that leads it, and
    not 0 if U+FFFD stands for a part of it (that is no UTF-8, or already was it).
    """
    first = load_u8(text + position)
    if lead == 0 and first == _APOSTROPHE:
        size = _contraction(text, position, end)
        if size != 0:
            return position + size, position, 0
    start = position
    kind = _look(text, start, end) & 3
    if lead == 0 and first == _BLANK and position + 1 < end:
        following = _look(text, position + 1, end) & 3
        if following != _SPACE:
            start = position + 1
            kind = following
    stop, last, replaced = _run(text, start, end, kind)
    if kind == _SPACE and stop < end and (last > position or lead != 0):
        stop = last  # the last white space belongs to the next word, or is one
    return stop, start, replaced

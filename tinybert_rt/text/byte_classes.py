"""What the scanner does with each byte of a text: one table of 256 bytes per combination of cleaning and lower-casing.

A byte that is copied into the word has the value to be copied, which is 32 or more; every other byte has one of the codes
below 32. Importing this module does not import Numba.
"""

from __future__ import annotations

BREAK = 0  # ends the word
ALONE = 1  # punctuation: a word of its own
SKIP = 2  # dropped by cleaning
CONTROL = 3  # a control character that is part of a word
WIDE = 4  # first byte of a character outside ASCII, or no UTF-8
ADDED = 5  # an added token may begin here

FIRST_COPIED = 32
"""Smallest value that is copied."""


def _class(byte: int, clean: bool, lower: bool) -> int:
    if byte >= 128:
        return WIDE
    # White_Space of ASCII: 9 to 13 and 32; but cleaning removes the control characters other than 9, 10 and 13.
    if byte in (9, 10, 13, 32) or (byte in (11, 12) and not clean):
        return BREAK
    if byte < 32 or byte == 127:
        if clean:
            return SKIP
        return byte if byte >= FIRST_COPIED else CONTROL
    if not chr(byte).isalnum():
        return ALONE
    return ord(chr(byte).lower()) if lower else byte


# The table for cleaning c and lower-casing l (0 or 1) begins at byte 256 · (c + 2 · l).
BYTE_CLASSES = bytes(_class(byte, bool(index & 1), bool(index & 2)) for index in range(4) for byte in range(256))

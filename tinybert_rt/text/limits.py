"""Sizes that the tokenizer's callers must know. Importing this module does not import Numba."""

from __future__ import annotations

MAX_WORD_CHARS = 1024
"""Largest `max_word_chars` of a tokenizer: a longer word becomes [UNK] whatever the model says."""

STATE_BYTES = 256
"""Head of the scratch: the scanner's state, see `text.structs.Scan`."""

CLASSES_BYTES = 256
"""The class of each byte, see `text.byte_classes`."""

WORD_BYTES = 4 * MAX_WORD_CHARS + 64
"""The normalised word being read, as UTF-8."""

WORD_SCRATCH_BYTES = STATE_BYTES + CLASSES_BYTES + WORD_BYTES
"""Bytes of scratch that the tokenizer's kernels need, at an address that is a multiple of 8."""

# Truncation policies of `tokenize`.
TRUNCATE_LONGEST_FIRST = 0
TRUNCATE_ONLY_FIRST = 1
TRUNCATE_ONLY_SECOND = 2
TRUNCATE_ERROR = 3

TRUNCATIONS = {
    "truncate": TRUNCATE_LONGEST_FIRST,
    "only_first": TRUNCATE_ONLY_FIRST,
    "only_second": TRUNCATE_ONLY_SECOND,
    "error": TRUNCATE_ERROR,
}
"""Truncation policies by the names that users give."""

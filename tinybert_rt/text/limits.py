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

MAX_UNIGRAM_WORD_BYTES = 4096
"""Unigram cuts longer words, counted in bytes after normalisation with the word mark, into parts of at most this many."""

FLOW_BYTES = 512
"""Head of Unigram's scratch: its state and the cluster being read, see `text.structs.Flow`."""

UNIGRAM_SCRATCH_BYTES = FLOW_BYTES + MAX_UNIGRAM_WORD_BYTES + 2 * 8 * (MAX_UNIGRAM_WORD_BYTES + 8)
"""Its state, the word, and two numbers of 64 bits for each byte of it."""

PART_BYTES = 4096
"""Bytes of a word that byte-level BPE merges at once: a longer word is cut, between characters. A multiple of MERGE_BLOCK, below 65536."""

MERGE_BLOCK = 64
"""Symbols whose smallest merge is kept."""

MERGE_SCRATCH_BYTES = (8 + 4 + 2 + 2) * PART_BYTES + 8 * PART_BYTES // MERGE_BLOCK
"""The symbols of a word that is being merged, see `text.merges`."""

WORD_SCRATCH_BYTES = max(STATE_BYTES + CLASSES_BYTES + WORD_BYTES, MERGE_SCRATCH_BYTES, UNIGRAM_SCRATCH_BYTES)
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

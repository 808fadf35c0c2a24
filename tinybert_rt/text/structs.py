"""C structs of the tokenizers. Importing this module does not import Numba."""

from __future__ import annotations

from tinybert_rt.kernels.structs import Struct

# Result of `tokenize`: ids written; tokens that the whole text has, special tokens included; 1 if some were left out.
TokenizeInfo = Struct("kernel_tokenize_info", [("count", "i64"), ("total", "i64"), ("truncated", "i64")])

# Result of `wordpiece_window`: where the next window begins, as a byte of the text (its size: there is none), and how
# many tokens of the word there have been written already (0 unless a word had more tokens than the window).
WindowResult = Struct("kernel_window_result", [("next_start", "i64"), ("next_skip", "i64")])

# State of a scan, at the start of the scratch.
Scan = Struct(
    "kernel_scan",
    [
        ("flags", "i64"),  # of the tokenizer
        ("classes", "ptr"),  # uint8 [256], see text.byte_classes
        ("ids", "ptr"),  # int32 [capacity]
        ("capacity", "i64"),
        ("count", "i64"),  # tokens so far; those from 0 to capacity - 1 are written, the others counted
        ("spans", "ptr"),  # int32 [capacity][2]: first byte of each token's word and the byte behind it; or 0
        ("position", "i64"),  # byte of the text where the character being read begins
        # The word being read, normalised.
        ("word", "ptr"),  # its UTF-8 bytes
        ("length", "i64"),  # in bytes
        ("chars", "i64"),
        ("max_chars", "i64"),  # more than these: [UNK]
        ("start", "i64"),  # byte of the text where the word begins
        ("stop", "i64"),  # byte behind the last character of the word
        ("behind", "i64"),  # byte behind the character being read
        ("run", "i64"),  # byte of the word from which on all characters have a combining class above 0
        # The first word that did not fit into the capacity.
        ("full", "i64"),  # 1: there was one
        ("full_start", "i64"),  # byte of the text where it begins
        ("full_count", "i64"),  # tokens before it
    ],
)

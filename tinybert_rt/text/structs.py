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

# State of Unigram, at the start of the scratch.
Flow = Struct(
    "kernel_flow",
    [
        ("flags", "i64"),  # of Unigram, see layout
        ("ids", "ptr"),  # as in Scan
        ("capacity", "i64"),
        ("count", "i64"),
        ("spans", "ptr"),
        # The cluster being read, of at most 5 bytes.
        ("cluster", "ptr"),  # its UTF-8 bytes
        ("places", "ptr"),  # int64 [][2]: first byte in the text, and the byte behind, of each of its characters
        ("cluster_size", "i64"),
        ("cluster_chars", "i64"),
        ("long", "i64"),  # 1: the cluster has more than 5 bytes, all passed on already
        ("before", "i64"),  # class of the character before, see text.graphemes
        ("before_code", "i64"),
        ("pictures", "i64"),
        # The normalised segment.
        ("counting", "i64"),  # 1: only counted, to find its end without spaces
        ("passed", "i64"),  # characters so far
        ("last", "i64"),  # the same at the last one that is no space
        ("limit", "i64"),  # characters behind these are left out; -1: none are
        ("seen", "i64"),  # 1: a character was passed on
        ("blanks", "i64"),  # spaces not passed on yet
        ("blank_start", "i64"),
        ("blank_stop", "i64"),
        # The word being read.
        ("opening", "i64"),  # where the first character of the segment is to be found in the text; -1: it has been read
        ("fresh", "i64"),  # 1: the next character begins a part that the pre-tokenizer cut out
        ("word", "ptr"),  # its UTF-8 bytes
        ("best", "ptr"),  # float64 [bytes + 1]: the best sum of scores up to each byte
        ("links", "ptr"),  # int64 [bytes + 1]: the piece that ends there on the best path, (its first byte << 32) | id; or -1
        ("length", "i64"),  # in bytes
        ("lead", "i64"),  # 1: it is the word mark so far
        ("start", "i64"),  # byte of the text where the word begins
        ("stop", "i64"),
        ("unknown", "i64"),  # 1: the last token is the unknown one and may go on
    ],
)

"""WordPiece of a whole text, or of one window of it after another."""

from __future__ import annotations

import numpy as np

from tinybert_rt.kernels.jit import kernel
from tinybert_rt.text.scan import begin_scan, scan_text


@kernel
def wordpiece(tokenizer, text, size, ids, spans, capacity, scratch):
    """The token ids of a text, without special tokens.

    Args:
        tokenizer: of kind "wordpiece", validated.
        text: uint8 [size], UTF-8; each maximal invalid part counts as U+FFFD.
        ids: int32 [capacity], output: the first tokens; what lies behind them is undefined.
        spans: int32 [capacity][2], output, or 0: the bytes of the text that the word of each token begins at and ends before.
        scratch: WORD_SCRATCH_BYTES bytes, 8-byte aligned.

    Returns the number of tokens of the whole text, which may be above `capacity`.
    """
    scan = begin_scan(tokenizer, ids, spans, capacity, 0, scratch)
    scan_text(scan, tokenizer, text, size, False)
    return scan.count


@kernel
def wordpiece_window(tokenizer, text, size, start, skip, ids, capacity, scratch, result):
    """The token ids of the words of a text from byte `start` on that fit into `capacity` ≥ 1.

    Words are not split unless one alone has more tokens than the capacity. The windows of a text, each begun where the
    one before says, have together exactly the tokens of `wordpiece`.

    Args:
        tokenizer, text, size, scratch: as in `wordpiece`.
        start, skip: 0, or `next_start` and `next_skip` of the window before.
        ids: int32 [capacity], output.
        result: WindowResult, output.

    Returns the number of ids written.
    """
    scan = begin_scan(tokenizer, ids, np.int64(0), capacity, -skip, scratch)
    scan.position = start
    scan_text(scan, tokenizer, text, size, True)
    if scan.full == 0:
        result.next_start = size
        result.next_skip = 0
        return max(scan.count, 0)
    result.next_start = scan.full_start
    if scan.full_count > 0:
        result.next_skip = 0
        return scan.full_count
    result.next_skip = capacity - scan.full_count
    return capacity

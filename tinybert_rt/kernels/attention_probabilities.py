"""Softmax probabilities of one text and head in float32, for whoever wants to look at them; the encoder itself never stores them.

Two steps: `attention_scores` writes Q·Kᵀ, `softmax_scores` makes probabilities of it in place.
Both write rows of exactly `tokens` elements, one behind the other, and read nothing beyond them.
"""

from __future__ import annotations

from tinybert_rt.kernels.attention import transpose_keys
from tinybert_rt.kernels.jit import kernel, outlined
from tinybert_rt.kernels.memory import load_f32, store_f32
from tinybert_rt.kernels.panels import FLOAT_ROWS, NARROW_COLUMNS, float_product
from tinybert_rt.kernels.probabilities import copy_row, softmax_row

_KEYS = 16 * NARROW_COLUMNS


@kernel
def probabilities_bytes(max_tokens, head_width):  # type: ignore[no-untyped-def]
    """Scratch that `attention_scores` and `softmax_scores` need; max_tokens is a multiple of 16."""
    return max((head_width + FLOAT_ROWS) * _KEYS, max_tokens) * 4


@outlined
def attention_scores(queries, keys, tokens, head_width, out, scratch):  # type: ignore[no-untyped-def]
    """out = Q·Kᵀ for one text and head.

    Args:
        queries, keys: float32 [tokens][head_width]; keys are readable up to a multiple of 32 rows.
        out: float32 [tokens][tokens], a row for each query.
        scratch: probabilities_bytes(tokens, head_width).
    """
    stride = head_width * 4
    scores = scratch + head_width * _KEYS * 4
    for key in range(0, tokens, _KEYS):
        transpose_keys(keys + key * stride, _KEYS, head_width, scratch)
        count = min(_KEYS, tokens - key)
        row = 0
        while row < tokens:
            done = float_product(
                tokens - row,
                queries + row * stride,
                stride,
                scratch,
                head_width * 64,
                64,
                head_width,
                NARROW_COLUMNS,
                scores,
                _KEYS * 4,
            )
            for r in range(done):
                copy_row(scores + r * _KEYS * 4, out + ((row + r) * tokens + key) * 4, count)
            row += done


@outlined
def softmax_scores(scores, tokens, scale, added, added_stride, scratch):  # type: ignore[no-untyped-def]
    """softmax(scale·(s + added)) of every row, in place.

    Args:
        scores: float32 [tokens][tokens]. scale: float32.
        added: float32 [tokens] rows added_stride bytes apart; or 0: nothing is added.
        scratch: probabilities_bytes(tokens, head_width).
    """
    for row in range(tokens):
        at = scores + row * tokens * 4
        for i in range(tokens):
            score = load_f32(at + 4 * i)
            if added != 0:
                score = score + load_f32(added + row * added_stride + 4 * i)
            store_f32(scratch + 4 * i, score * scale)
        softmax_row(scratch, tokens)
        copy_row(scratch, at, tokens)

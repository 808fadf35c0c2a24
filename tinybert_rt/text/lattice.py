"""The best way to cut a word into pieces: Viterbi over its bytes (Kudo 2018, "Subword Regularization", section 3.2).

Sums of scores are float64, added from the left and compared as `tokenizers` does: the first of equal sums stays.
"""

from __future__ import annotations

import numpy as np

from tinybert_rt.kernels.jit import inline, kernel
from tinybert_rt.kernels.memory import load_f64, load_i64, load_u8, store_f64, store_i64
from tinybert_rt.text.trie_walk import follow, piece_of, unit_pair
from tinybert_rt.text.words import emit, note_spans

# An unknown character scores this much less than the worst piece.
_UNKNOWN_PENALTY = np.float64(10.0)
_ZERO = np.float64(0.0)


@inline
def _char_size(first):
    """Bytes of a character of valid UTF-8 by its first byte."""
    if first < 0xC0:
        return 1
    if first < 0xE0:
        return 2
    if first < 0xF0:
        return 3
    return 4


@inline
def _offer(flow, begin, end, score, piece):
    """A path to `end` whose last piece begins at `begin`: kept if there is none yet, or none as good."""
    if load_i64(flow.links + 8 * end) < 0 or score > load_f64(flow.best + 8 * end):
        store_f64(flow.best + 8 * end, score)
        store_i64(flow.links + 8 * end, (begin << 32) | piece)


@kernel
def _find_paths(flow, tokenizer):
    """Fill `best` and `links` for the word."""
    trie = tokenizer.trie
    nodes = tokenizer.trie_nodes
    word = flow.word
    length = flow.length
    unknown = load_f64(tokenizer.scores + 8 * tokenizer.lowest_score) - _UNKNOWN_PENALTY
    for end in range(length + 1):
        store_i64(flow.links + 8 * end, -1)
    store_f64(flow.best, _ZERO)
    root = unit_pair(trie, 0)
    begin = 0
    while begin < length:
        here = load_f64(flow.best + 8 * begin)
        after = min(begin + _char_size(load_u8(word + begin)), length)
        known = False
        pair = root
        position = begin
        while position < length:
            byte = load_u8(word + position)
            pair = follow(trie, nodes, pair, byte) if byte != 0 else 0
            if pair == 0:
                break
            position += 1
            piece = piece_of(pair)
            if piece != 0:
                known = known or position == after
                _offer(flow, begin, position, load_f64(tokenizer.scores + 8 * (piece - 1)) + here, piece - 1)
        if not known:
            _offer(flow, begin, after, unknown + here, tokenizer.unk_id)
        begin = after


@kernel
def cut_word(flow, tokenizer, goes_on):
    """Emit the tokens of the word and begin another. Neighbouring unknown tokens are one, also across a word that `goes_on`."""
    length = flow.length
    if length == 0:
        return
    _find_paths(flow, tokenizer)
    # The end of each piece of the path is noted at its first byte, over the sums.
    end = length
    while end > 0:
        begin = load_i64(flow.links + 8 * end) >> 32
        store_i64(flow.best + 8 * begin, end)
        end = begin
    before = flow.count
    while end < length:
        end = load_i64(flow.best + 8 * end)
        piece = load_i64(flow.links + 8 * end) & 0xFFFFFFFF
        unknown = 1 if piece == tokenizer.unk_id else 0
        if not (unknown and flow.unknown):
            emit(flow, piece)
        flow.unknown = unknown
    note_spans(flow, before)
    flow.length = 0
    flow.lead = 0
    if not goes_on:
        flow.unknown = 0

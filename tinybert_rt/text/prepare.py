"""What is computed of a tokenizer once, when a model is opened."""

from __future__ import annotations

from tinybert_rt.kernels.jit import kernel
from tinybert_rt.kernels.memory import constant_table, load_f64, load_i32, load_u8, load_u32
from tinybert_rt.text.trie_walk import find_node

# The keys of the rules of rewriting begin with the stage.
_chars_prefix = constant_table(b"\x01")
_clusters_prefix = constant_table(b"\x02")
_continuation_prefix = constant_table(b"##")


@kernel
def prepare_tokenizer(tokenizer):
    """Set continuation_root and added_first0 to added_first3 from the trie, the pieces and the added tokens.

    The trie has at least one node; the added ids are below vocab_size and their pieces lie inside `pieces`.
    """
    tokenizer.continuation_root = find_node(tokenizer.trie, tokenizer.trie_nodes, _continuation_prefix(), 2)
    tokenizer.added_first0 = 0
    tokenizer.added_first1 = 0
    tokenizer.added_first2 = 0
    tokenizer.added_first3 = 0
    for index in range(tokenizer.added_count):
        token = load_i32(tokenizer.added + 4 * index)
        begin = load_u32(tokenizer.piece_offsets + 4 * token)
        if load_u32(tokenizer.piece_offsets + 4 * token + 4) == begin:
            continue
        first = load_u8(tokenizer.pieces + begin)
        bit = 1 << (first & 63)
        if first < 64:
            tokenizer.added_first0 = tokenizer.added_first0 | bit
        elif first < 128:
            tokenizer.added_first1 = tokenizer.added_first1 | bit
        elif first < 192:
            tokenizer.added_first2 = tokenizer.added_first2 | bit
        else:
            tokenizer.added_first3 = tokenizer.added_first3 | bit


@kernel
def prepare_unigram(tokenizer, scored_pieces):
    """Set lowest_score, chars_root and clusters_root; `scored_pieces` ≥ 1."""
    lowest = 0
    for piece in range(scored_pieces):
        if load_f64(tokenizer.scores + 8 * piece) < load_f64(tokenizer.scores + 8 * lowest):
            lowest = piece
    tokenizer.lowest_score = lowest
    tokenizer.chars_root = find_node(tokenizer.rewrite_trie, tokenizer.rewrite_nodes, _chars_prefix(), 1)
    tokenizer.clusters_root = find_node(tokenizer.rewrite_trie, tokenizer.rewrite_nodes, _clusters_prefix(), 1)

"""Open the tokenizer of a model file: check its tensors, then fill the struct that the text kernels read."""

# Kernels are typed by Numba, not by annotations.
# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators

from __future__ import annotations

from tinybert_rt.format.layout import CONFIG_INDEX, DOUBLE_SEPARATOR
from tinybert_rt.format.reader_contents import (
    check_added,
    check_added_options,
    check_merges,
    check_pieces,
    check_rewrites,
    check_scores,
    check_trie,
)
from tinybert_rt.format.reader_header import entries_at
from tinybert_rt.format.reader_rules import field
from tinybert_rt.kernels.jit import kernel
from tinybert_rt.text.prepare import prepare_tokenizer, prepare_unigram

# In file order, see tensors.GLOBAL_RULES.
_CONFIG, _TRIE, _PIECES, _PIECE_OFFSETS, _ADDED, _BEHIND_ADDED = range(6)

_VOCAB_SIZE = CONFIG_INDEX["vocab_size"]
_TOKENIZER_KIND = CONFIG_INDEX["tokenizer_kind"]
_TOKENIZER_FLAGS = CONFIG_INDEX["tokenizer_flags"]
_MAX_WORD_CHARS = CONFIG_INDEX["max_word_chars"]
_UNK_ID = CONFIG_INDEX["unk_id"]
_CLS_ID = CONFIG_INDEX["cls_id"]
_SEP_ID = CONFIG_INDEX["sep_id"]
_PAD_ID = CONFIG_INDEX["pad_id"]
_MASK_ID = CONFIG_INDEX["mask_id"]
_TRIE_NODES = CONFIG_INDEX["trie_nodes"]
_ADDED_TOKENS = CONFIG_INDEX["added_tokens"]
_PIECES_BYTES = CONFIG_INDEX["pieces_bytes"]
_MERGES = CONFIG_INDEX["merges"]
_ADDED_OPTIONS = CONFIG_INDEX["added_options"]
_SCORED_PIECES = CONFIG_INDEX["scored_pieces"]
_UNIGRAM_FLAGS = CONFIG_INDEX["unigram_flags"]
_EXPANSION = CONFIG_INDEX["expansion"]
_REWRITES = CONFIG_INDEX["rewrites"]
_REWRITE_NODES = CONFIG_INDEX["rewrite_nodes"]
_REWRITE_BYTES = CONFIG_INDEX["rewrite_bytes"]


@kernel
def _open_unigram(data, entries, place, config, tokenizer, error):
    """Check and fill what only Unigram has, at `place`; returns status, next place."""
    entry = entries_at(entries)
    tokenizer.scores = 0
    tokenizer.lowest_score = 0
    tokenizer.unigram_flags = field(config, _UNIGRAM_FLAGS)
    tokenizer.rewrite_trie = 0
    tokenizer.rewrite_nodes = 0
    tokenizer.rewrite_texts = 0
    tokenizer.rewrite_offsets = 0
    tokenizer.chars_root = -1
    tokenizer.clusters_root = -1
    status = 0
    if field(config, _SCORED_PIECES) != 0:
        tokenizer.scores = data + entry[place].begin
        tokenizer.tokens_per_byte = max(field(config, _EXPANSION), 2)
        status = check_scores(data, entry[place], field(config, _SCORED_PIECES), error)
        place += 1
    rewrites = field(config, _REWRITES)
    if status == 0 and rewrites != 0:
        tokenizer.rewrite_trie = data + entry[place].begin
        tokenizer.rewrite_texts = data + entry[place + 1].begin
        tokenizer.rewrite_offsets = data + entry[place + 2].begin
        nodes = field(config, _REWRITE_NODES)
        tokenizer.rewrite_nodes = nodes
        text_bytes = field(config, _REWRITE_BYTES)
        status = check_rewrites(data, entry[place], entry[place + 1], entry[place + 2], nodes, text_bytes, rewrites, error)
        place += 3
    return status, place


@kernel
def open_tokenizer(data, entries, config, tokenizer, error):
    """Check and fill the tokenizer; returns status, place of the tensor behind it."""
    entry = entries_at(entries)
    tokenizer.kind = field(config, _TOKENIZER_KIND)
    tokenizer.flags = field(config, _TOKENIZER_FLAGS)
    tokenizer.vocab_size = field(config, _VOCAB_SIZE)
    tokenizer.max_word_chars = field(config, _MAX_WORD_CHARS)
    tokenizer.unk_id = field(config, _UNK_ID)
    tokenizer.cls_id = field(config, _CLS_ID)
    tokenizer.sep_id = field(config, _SEP_ID)
    tokenizer.pad_id = field(config, _PAD_ID)
    tokenizer.mask_id = field(config, _MASK_ID)
    tokenizer.trie = data + entry[_TRIE].begin
    tokenizer.trie_nodes = field(config, _TRIE_NODES)
    tokenizer.pieces = data + entry[_PIECES].begin
    tokenizer.piece_offsets = data + entry[_PIECE_OFFSETS].begin
    tokenizer.added = data + entry[_ADDED].begin
    tokenizer.added_count = field(config, _ADDED_TOKENS)
    status = check_trie(data, entry[_TRIE], tokenizer.trie_nodes, tokenizer.vocab_size, error)
    if status == 0:
        status = check_pieces(data, entry[_PIECES], entry[_PIECE_OFFSETS], field(config, _PIECES_BYTES), tokenizer.vocab_size, error)
    if status == 0:
        status = check_added(data, entry[_ADDED], tokenizer.added_count, tokenizer.vocab_size, error)
    place = _BEHIND_ADDED
    tokenizer.added_options = 0
    if status == 0 and field(config, _ADDED_OPTIONS) != 0:
        tokenizer.added_options = data + entry[place].begin
        status = check_added_options(data, entry[place], tokenizer.added_count, error)
        place += 1
    tokenizer.bytes = 0
    tokenizer.merge_starts = 0
    tokenizer.merges = 0
    tokenizer.tokens_per_byte = 1
    tokenizer.pair_special = 4 if tokenizer.flags & DOUBLE_SEPARATOR else 3
    merges = field(config, _MERGES)
    if status == 0 and merges != 0:
        tokenizer.bytes = data + entry[place].begin
        tokenizer.merge_starts = data + entry[place + 1].begin
        tokenizer.merges = data + entry[place + 2].begin
        # Where it is no UTF-8, a byte becomes the three of U+FFFD; and each part between added tokens may get a space.
        tokenizer.tokens_per_byte = 4
        status = check_merges(data, entry[place], entry[place + 1], entry[place + 2], merges, tokenizer.vocab_size, error)
        place += 3
    if status == 0:
        status, place = _open_unigram(data, entries, place, config, tokenizer, error)
    if status == 0:
        prepare_tokenizer(tokenizer)
        if field(config, _SCORED_PIECES) != 0:
            prepare_unigram(tokenizer, field(config, _SCORED_PIECES))
    return status, place

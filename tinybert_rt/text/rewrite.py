"""Normalising by rules of the model file: first raw text by its characters, then grapheme clusters of what came of it.

The second stage is what `tokenizers` does with SentencePiece's `precompiled_charsmap`: a cluster of less than 6 bytes is replaced as
a whole if a rule's key is a prefix of it; else each of its characters is replaced, or stays.
"""

from __future__ import annotations

from tinybert_rt.kernels.jit import inline, kernel
from tinybert_rt.kernels.memory import load_i64, load_u8, load_u32, store_i64
from tinybert_rt.text.graphemes import begins_cluster, grapheme_class, next_pictures
from tinybert_rt.text.pretokenize import pass_on
from tinybert_rt.text.trie_walk import follow, piece_of, unit_pair
from tinybert_rt.text.unicode import decode, store_utf8, utf8_size

_WHOLE_CLUSTER_BYTES = 5
"""Longer clusters are replaced character by character."""


@kernel
def find_rule(tokenizer, root, text, begin, end, longest):
    """The longest rule (or the shortest) whose key is a prefix of text[begin:end]: (end of the key << 32) | (rule + 1), or 0."""
    trie = tokenizer.rewrite_trie
    nodes = tokenizer.rewrite_nodes
    pair = unit_pair(trie, root)
    found = 0
    position = begin
    while position < end:
        byte = load_u8(text + position)
        pair = follow(trie, nodes, pair, byte) if byte != 0 else 0
        if pair == 0:
            break
        position += 1
        rule = piece_of(pair)
        if rule != 0:
            found = (position << 32) | rule
            if not longest:
                break
    return found


@inline
def rule_begin(tokenizer, rule):
    """The first byte of the replacement of rule number `rule` − 1."""
    return load_u32(tokenizer.rewrite_offsets + 4 * (rule - 1))


@inline
def rule_end(tokenizer, rule):
    """The byte behind it."""
    return load_u32(tokenizer.rewrite_offsets + 4 * rule)


@kernel
def _replace(flow, tokenizer, rule, start, stop):
    """Pass on the replacement of a rule for bytes start … stop of the text."""
    position = rule_begin(tokenizer, rule)
    end = rule_end(tokenizer, rule)
    while position < end:
        decoded = decode(tokenizer.rewrite_texts, position, end)
        pass_on(flow, tokenizer, decoded >> 3, start, stop)
        position += decoded & 7


@kernel
def _replace_char(flow, tokenizer, address, size, start, stop):
    """Pass on a character of `size` bytes, or its replacement."""
    found = find_rule(tokenizer, tokenizer.clusters_root, address, 0, size, False)
    if found:
        _replace(flow, tokenizer, found & 0xFFFFFFFF, start, stop)
    else:
        pass_on(flow, tokenizer, decode(address, 0, size) >> 3, start, stop)


@kernel
def _replace_chars(flow, tokenizer):
    """Pass on the characters of the cluster, each for itself."""
    position = 0
    for index in range(flow.cluster_chars):
        size = decode(flow.cluster, position, flow.cluster_size) & 7
        place = flow.places + 16 * index
        _replace_char(flow, tokenizer, flow.cluster + position, size, load_i64(place), load_i64(place + 8))
        position += size


@kernel
def end_cluster(flow, tokenizer):
    """Pass on the cluster being read, and begin another."""
    chars = flow.cluster_chars
    if chars > 0:
        found = find_rule(tokenizer, tokenizer.clusters_root, flow.cluster, 0, flow.cluster_size, False)
        first = load_i64(flow.places)
        stop = load_i64(flow.places + 16 * (chars - 1) + 8)
        if found:
            _replace(flow, tokenizer, found & 0xFFFFFFFF, first, stop)
        elif chars == 1:
            pass_on(flow, tokenizer, decode(flow.cluster, 0, flow.cluster_size) >> 3, first, stop)
        else:
            _replace_chars(flow, tokenizer)
    flow.cluster_chars = 0
    flow.cluster_size = 0
    flow.long = 0


@kernel
def push(flow, tokenizer, code, start, stop):
    """One character of the first stage's result, made of bytes start … stop of the text."""
    if flow.opening == -2:
        # `tokenizers` takes characters that the second stage drops for none of the text.
        flow.opening = start
    if tokenizer.clusters_root < 0:
        pass_on(flow, tokenizer, code, start, stop)
        return
    kind = grapheme_class(code)
    if (flow.cluster_chars > 0 or flow.long) and begins_cluster(flow.before, flow.before_code, flow.pictures, kind, code):
        end_cluster(flow, tokenizer)
        flow.pictures = 0
    flow.pictures = next_pictures(flow.pictures, kind)
    flow.before = kind
    flow.before_code = code
    size = utf8_size(code)
    if flow.long == 0 and flow.cluster_size + size > _WHOLE_CLUSTER_BYTES:
        _replace_chars(flow, tokenizer)
        flow.cluster_chars = 0
        flow.cluster_size = 0
        flow.long = 1
    store_utf8(flow.cluster + flow.cluster_size, code)
    if flow.long:
        _replace_char(flow, tokenizer, flow.cluster, size, start, stop)
        return
    place = flow.places + 16 * flow.cluster_chars
    store_i64(place, start)
    store_i64(place + 8, stop)
    flow.cluster_size = flow.cluster_size + size
    flow.cluster_chars = flow.cluster_chars + 1
